"""A moment as an argument of the command line."""

from __future__ import annotations

from datetime import datetime
from typing import Any

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
