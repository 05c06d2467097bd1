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
        from meterstream.schema.moments import parse_moment

        if isinstance(value, datetime):
            return value
        try:
            return parse_moment(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Past(Moment):
    """A moment, or how long ago: '40s', '30m', '2h', '7d'."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Aware UTC; fails with the fix."""
        age = _AGE.fullmatch(value) if isinstance(value, str) else None
        if age is not None:
            return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        if isinstance(value, str) and not _IS_DATE.match(value):
            self.fail(
                f"{value!r} is no time: write how long ago as 40s, 30m, 2h or 7d (at most five digits), or a moment as "
                "2024-10-02 or 2024-10-02T17:00:00Z",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


_AGE: Final = re.compile("([0-9]{1,5})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_IS_DATE: Final = re.compile("[0-9]{4}-")
