"""A moment as an argument of the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click


class Moment(click.ParamType):
    """'2026-01-31' (midnight UTC) or a timestamp with its zone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Aware UTC; fails with the fix."""
        from meterstream.schema.price_file import parse_moment

        if isinstance(value, datetime):
            return value
        try:
            return parse_moment(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Past(Moment):
    """A moment, or how long ago: '30m', '2h', '7d'."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Aware UTC; fails with the fix."""
        age = _AGE.fullmatch(value) if isinstance(value, str) else None
        if age is None:
            return super().convert(value, param, ctx)
        return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})


_AGE: Final = re.compile("([0-9]{1,5})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
