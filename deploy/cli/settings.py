"""The settings of this command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meterstream.deploy.connections import Address
    from meterstream.schema.settings import Settings


def resolved(*needed: Address) -> Settings:
    """With every needed address; see `meterstream.deploy.connections.resolve`."""
    from meterstream.deploy.connections import resolve
    from meterstream.schema.settings import Settings

    return resolve(Settings.load(), needed)
