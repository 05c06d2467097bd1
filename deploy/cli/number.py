"""Numbers as arguments of the command line: plain digits. click alone takes whatever `int` and `float` read.

Give each a bound: without one `--help` shows `x<=None`.
"""

from __future__ import annotations

import click


class Whole(click.IntRange):
    """A whole number."""

    name = "integer"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Fails with the reason."""
        from meterstream.schema.numbers import plain_whole

        try:
            number = plain_whole(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return int(super().convert(number, param, ctx))


class Number(click.FloatRange):
    """A measure, such as events a second; never money."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails with the reason."""
        from meterstream.schema.numbers import plain_decimal

        try:
            number = float(plain_decimal(value)) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return float(super().convert(number, param, ctx))
