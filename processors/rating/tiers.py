"""Service tiers: by which name prices know what a vendor or an event calls it. Pure."""

from __future__ import annotations

from typing import Final

STANDARD: Final = "standard"
"""The service tier of a call that names none."""

_STANDARD: Final = frozenset({"", STANDARD, "auto", "default", "on_demand"})
"""What vendors call it."""

_COSTS_STANDARD: Final = frozenset({("groq", "flex")})
"""(provider, tier) of tiers that their vendors charge as the standard one."""


def tier_of(provider: str, name: str) -> str:
    """In small letters; STANDARD where that is what the call costs."""
    tier = name.lower()
    return STANDARD if tier in _STANDARD or (provider, tier) in _COSTS_STANDARD else tier
