"""Traces, where somebody traces: whoever has loaded OpenTelemetry. Nothing here loads it: elsewhere it costs nothing.

An event carries the context of the span in which it was recorded as the CloudEvents attribute `traceparent`: over
batches, retries and the disk. Each batch of a role is a span of its own, with links to those whose records it took; the
records that it sends name it in the header `traceparent`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

TRACEPARENT: Final = "traceparent"
LINKS_MAX: Final = 128
"""Of one span, as OpenTelemetry bounds them itself."""
ENVELOPE_BYTES: Final = 1024
"""As much of an event's bytes is looked at for its attribute: our own client writes it before `data`."""

_API: Final = "opentelemetry.trace"
_CONTEXT: Final = rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f][13579bdf]"
_is_context = re.compile(_CONTEXT).fullmatch
_is_quoted = re.compile(rb'"' + _CONTEXT + rb'"').fullmatch
_in_envelope = re.compile(rb'"traceparent":"(' + _CONTEXT + rb')"').search


def current() -> str | None:
    """The context of the span that is current, as `traceparent` has it; None where there is none that is sampled."""
    api = sys.modules.get(_API)
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return None
    return _text(context)


def trace_id(attribute: bytes) -> str | None:
    """Of an event's `traceparent`, in JSON; None where it is no context of a sampled span. Any bytes will do."""
    found = _is_quoted(attribute)
    return None if found is None else found[1].decode("ascii")


def _text(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


class Batch:
    """The span of a batch. It begins with what is taken first; where nobody traces, nothing of it happens."""

    def __init__(self, name: str, kind: Literal["producer", "consumer"], **attributes: str) -> None:
        """`attributes`: of the span, from its beginning on."""
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self._span: Span | None = None
        self._links: set[bytes] = set()
        self._is_over = False

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """For the records that are sent of it."""
        context = None if self._span is None else self._span.get_span_context()
        if context is None or not context.is_valid:
            return []
        return [(TRACEPARENT, _text(context).encode("ascii"))]

    def take_records(self, headers: Iterable[Iterable[tuple[str, bytes]]]) -> None:
        """`headers` of Kafka records: what they name is linked."""
        if self._begin():
            for each in headers:
                for name, value in each:
                    if name == TRACEPARENT and _is_context(value or b""):
                        self._link(value)

    def take_events(self, values: Iterable[bytes]) -> None:
        """Events as our client writes them: the spans in which they were recorded are linked."""
        if self._begin():
            for value in values:
                found = _in_envelope(value, 0, ENVELOPE_BYTES)
                if found is not None:
                    self._link(found[1])

    def end(self, error: BaseException | None = None, **figures: int) -> None:
        """`error`: why it was in vain. `figures`: what it held. A second call does nothing."""
        span, self._span, self._is_over = self._span, None, True
        if span is None:
            return
        for name, number in figures.items():
            span.set_attribute(f"meterstream.{name}", number)
        if error is not None:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(sys.modules[_API].StatusCode.ERROR)  # without its text, which may hold a tenant's name
        span.end()

    def _begin(self) -> bool:
        api = sys.modules.get(_API)
        if api is None or self._is_over:
            return False
        if self._span is None:
            # A root: the task in which we run was made in the middle of anybody's span.
            self._span = api.get_tracer("meterstream").start_span(
                self._name,
                context=sys.modules["opentelemetry.context"].Context(),
                kind=api.SpanKind[self._kind.upper()],
                attributes={"messaging.system": "kafka", **self._attributes},
            )
        return bool(self._span.is_recording())

    def _link(self, context: bytes) -> None:
        if self._span is None or context in self._links or len(self._links) >= LINKS_MAX:
            return
        self._links.add(context)
        api: Any = sys.modules[_API]
        _, trace, span, flags = context.decode("ascii").split("-")
        self._span.add_link(
            api.SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=api.TraceFlags(int(flags, 16)))
        )
