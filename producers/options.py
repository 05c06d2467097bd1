"""What a client is made with, and whether it can be: a mistake is told when it is made, never taken silently."""

from __future__ import annotations

import difflib
import inspect
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypedDict

from meterstream.producers.buffer import Bounds
from meterstream.producers.complaints import OnError
from meterstream.producers.transport import Connect
from meterstream.producers.transport.memory import MemoryTransport
from meterstream.schema.errors import UsageError
from meterstream.schema.wire_event import ID_LENGTH_MAX

BOOTSTRAP_VARIABLE: Final = "METERSTREAM_KAFKA_BOOTSTRAP"
BLOCK_S: Final = 5.0
STREAM_MAX_S: Final = 3600.0
SEGMENT_BYTES_MIN: Final = 1024
_SECONDS_MAX: Final = 366 * 86_400.0


class Options(TypedDict, total=False):
    """Of both clients. An unknown one is a TypeError, a value that cannot be a ValueError."""

    bootstrap_servers: str
    """Of Kafka; without it, and without a transport, METERSTREAM_KAFKA_BOOTSTRAP says it."""
    client_options: Mapping[str, Any]
    """aiokafka's other connection arguments: security_protocol, ssl_context, sasl_mechanism, ... What they call
    runs in the sender's loop."""
    transport: MemoryTransport | Connect
    """Instead of Kafka: a MemoryTransport, or a function that makes a connection, called in the sender's loop."""
    spool: str | os.PathLike[str]
    """A folder on a local disk, shared by the processes of a service, for one broker. None: memory alone."""
    bounds: Bounds
    """How much may wait for the broker, on disk and in memory."""
    when_full: Literal["drop", "block"]
    """`drop` (default): a record without room is dropped and counted. `block`: it waits for room first."""
    block_s: float
    """How long `block` waits before it drops. 5 seconds without it."""
    stream_max_s: float
    """After so long without an end a stream's estimate is sent. An hour without it."""
    on_error: OnError
    """`log` (default), `raise`, or a function that is told each error."""


class Chosen(NamedTuple):
    """What a client goes by."""

    connect: Connect
    spool: Path | None
    bounds: Bounds
    is_blocking: bool
    block_s: float
    stream_max_s: float
    on_error: OnError


def choose(source: str, options: Options) -> Chosen:
    """Raises TypeError for an option that is none, ValueError for a value that cannot be, both with the way out, and
    UsageError where no broker is given."""
    _check_names("a meter client has", options, sorted(Options.__annotations__))
    _check_source(source)
    on_error = options.get("on_error", "log")
    if on_error not in ("log", "raise") and not callable(on_error):
        raise ValueError(f"on_error is {on_error!r}; give 'log', 'raise' or a function")
    when_full = options.get("when_full", "drop")
    if when_full not in ("drop", "block"):
        raise ValueError(f"when_full is {when_full!r}; give 'drop' or 'block'")
    return Chosen(
        connect=_connect(options),
        spool=_spool(options.get("spool")),
        bounds=_bounds(options.get("bounds", Bounds())),
        is_blocking=when_full == "block",
        block_s=_seconds("block_s", options.get("block_s", BLOCK_S), or_none=True),
        stream_max_s=_seconds("stream_max_s", options.get("stream_max_s", STREAM_MAX_S), or_none=False),
        on_error=on_error,
    )


def _check_names(whose: str, given: Collection[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            fix = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise TypeError(f"{whose} no option {name!r}: {fix}")


def _check_source(source: object) -> None:
    is_good = isinstance(source, str) and 0 < len(source) <= ID_LENGTH_MAX and not source.isspace()
    if not is_good or any(c < " " or "\ud800" <= c <= "\udfff" for c in str(source)):
        raise ValueError(
            f"source is {source!r}; give the service's name, a text of 1 to {ID_LENGTH_MAX} characters that is not "
            "blank and holds no control character"
        )


def _seconds(name: str, value: Any, *, or_none: bool) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not 0 <= value <= _SECONDS_MAX or (value == 0 and not or_none):
        least = "0" if or_none else "more than 0"
        raise ValueError(f"{name} is {value!r}; give seconds, {least} to {_SECONDS_MAX:.0f}")
    return float(value)


def _bounds(bounds: Any) -> Bounds:
    if not isinstance(bounds, Bounds):
        raise ValueError(f"bounds is {bounds!r}; give Bounds(spool_bytes_max=..., memory_bytes_max=...)")
    for name, value in bounds._asdict().items():
        least = SEGMENT_BYTES_MIN if name == "segment_bytes" else 2 * SEGMENT_BYTES_MIN
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; give a whole number of bytes, {least} at least")
    if min(bounds.spool_bytes_max, bounds.memory_bytes_max) < 2 * bounds.segment_bytes:
        raise ValueError(f"{bounds}: give room for two segments at least, on disk and in memory")
    return bounds


def _spool(spool: Any) -> Path | None:
    if spool is None:
        return None
    if not isinstance(spool, str | os.PathLike) or not isinstance(os.fspath(spool), str):
        raise ValueError(f"spool is {spool!r}; give the path of a folder as text")
    if not os.fspath(spool):
        raise ValueError("spool is empty, as of a variable that is not set; give a folder, or None for memory alone")
    return Path(spool)


def _connect(options: Options) -> Connect:
    transport = options.get("transport")
    if isinstance(transport, MemoryTransport):
        memory = transport
        return lambda: memory
    if transport is not None:
        if not callable(transport):
            raise ValueError(f"transport is {transport!r}; give a MemoryTransport, or a function that connects")
        return transport
    servers: Any = options.get("bootstrap_servers") or os.environ.get(BOOTSTRAP_VARIABLE)
    if not servers:
        raise UsageError(
            f"where is Kafka? Give bootstrap_servers or set {BOOTSTRAP_VARIABLE}; in tests, transport=MemoryTransport()"
        )
    if not all(isinstance(server, str) for server in (servers if isinstance(servers, list | tuple) else [servers])):
        raise ValueError(f"bootstrap_servers is {servers!r}; give a text: host:port, more of them after commas")
    client_options = {"bootstrap_servers": servers, **_client_options(options.get("client_options", {}))}
    from meterstream.producers.transport.kafka import KafkaTransport

    return lambda: KafkaTransport(client_options)


def _client_options(given: Any) -> Mapping[str, Any]:
    try:
        from aiokafka import AIOKafkaProducer

        from meterstream.producers.transport.kafka import PRODUCER_OPTIONS
    except ImportError as error:
        raise UsageError('Kafka needs a client library: pip install "meterstream[kafka]"') from error
    if not isinstance(given, Mapping):
        raise ValueError(f"client_options is {given!r}; give a mapping of aiokafka's connection arguments")
    known = [name for name in inspect.signature(AIOKafkaProducer).parameters if name not in ("self", "loop")]
    _check_names("an AIOKafkaProducer has", given, known)
    ours = sorted({*PRODUCER_OPTIONS} & {*given})
    if ours:
        raise ValueError(f"client_options: {', '.join(ours)} are the client's own, leave them out")
    return given
