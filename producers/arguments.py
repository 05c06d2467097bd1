"""Arguments that Python cannot bind to a method's parameters are wrong arguments as others are: counted, not raised."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from meterstream.producers.outbox import Outbox
from meterstream.schema.errors import EventRejected


class HasOutbox(Protocol):
    """A client or a stream."""

    _outbox: Outbox


_Self = TypeVar("_Self", bound=HasOutbox)
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def refuse(outbox: Outbox, error: TypeError) -> None:
    """Counts and answers it. Raises EventRejected if that was asked for."""
    outbox.refuse(EventRejected("invalid_field", f"{error}: see docs/publish.md for what is given, all of it by name"))


def counted(
    method: Callable[Concatenate[_Self, _Parameters], _Result | None],
) -> Callable[Concatenate[_Self, _Parameters], _Result | None]:
    """None is returned instead."""

    @wraps(method)
    def call(self: _Self, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result | None:
        try:
            return method(self, *args, **kwargs)
        except TypeError as error:
            refuse(self._outbox, error)
            return None

    return call


def counted_in_loop(
    method: Callable[Concatenate[_Self, _Parameters], Coroutine[Any, Any, _Result | None]],
) -> Callable[Concatenate[_Self, _Parameters], Coroutine[Any, Any, _Result | None]]:
    """As `counted`, of a coroutine function."""

    @wraps(method)
    async def call(self: _Self, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result | None:
        try:
            return await method(self, *args, **kwargs)
        except TypeError as error:
            refuse(self._outbox, error)
            return None

    return call
