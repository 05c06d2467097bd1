"""Names of members that a publisher chose: told from texts of somebody's, which they may be as well. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


@lru_cache(maxsize=1024)
def is_name(name: str) -> bool:
    """Whether it can be the name of a member, a unit or a header. The same few come again and again."""
    return _NAME.fullmatch(name) is not None
