"""Makes the links that let an editable install import the flat folders as `meterstream.<folder>`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("producers", "processors", "sinks", "schema", "deploy")


class EditableLinks(BuildHookInterface):  # type: ignore[type-arg]
    """On an editable build only: `.dev/meterstream/<folder>` -> `../../<folder>`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            return
        package = Path(self.root, ".dev", "meterstream")
        package.mkdir(parents=True, exist_ok=True)
        for folder in FOLDERS:
            link = package / folder
            if not link.is_symlink():
                link.symlink_to(Path("..", "..", folder), target_is_directory=True)
