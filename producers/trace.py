"""An hour of real LLM requests, stretched over a day: what the demo publishes.

Times and token counts are those of the Azure LLM inference trace 2023 (CC-BY-4.0, see NOTICE); who called
which model for which project is not in it and is drawn from the seed. Added on top: exact re-sends, one
reused id, a few broken records and a model that no price list knows. Pure but for reading the packaged file.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from importlib.resources import files
from random import Random
from typing import Any, Final, Literal, NamedTuple

import msgspec

from meterstream.producers.simulated import Kind, SimulatedEvent, SimulatedRecord
from meterstream.producers.simulated_faults import EVENT_FAULTS, RECORD_FAULTS, EventFault, RecordFault
from meterstream.schema.cloudevents import STRUCTURED_HEADERS
from meterstream.schema.event import EVENT_TYPE
from meterstream.schema.ids import uuid7
from meterstream.schema.topics import RAW

SEED: Final = 2023
SPAN: Final = timedelta(hours=24)
RESEND_SHARE: Final = 0.01
UNKNOWN_SHARE: Final = 0.003
RECENT_MAX: Final = 500

TENANTS: Final = (
    "aurora-health", "bluebird-bank", "cobalt-games", "delta-legal", "ember-retail", "fjord-travel",
    "granite-energy", "harbor-media", "indigo-labs", "juniper-foods", "kestrel-air", "lumen-schools",
)  # fmt: skip
"""Invented companies; the n-th makes 1/n as many calls as the first."""

_TENANT_WEIGHTS = [1 / rank for rank in range(1, len(TENANTS) + 1)]
UNKNOWN_MODEL: Final = ("in-house", "llama-tuned-7b")


class _Service(NamedTuple):
    """What one of the trace's two services calls, with weights."""

    models: dict[tuple[str, str], int]
    projects: tuple[str, ...]
    cached_share: float


_SERVICES: Final[dict[str, _Service]] = {
    "code": _Service(
        {
            ("anthropic", "claude-sonnet-4-5"): 5,
            ("openai", "gpt-4o"): 3,
            ("google", "gemini-2.5-pro"): 2,
            ("openai", "gpt-4o-mini"): 2,
        },
        ("ide-assistant", "code-review"),
        cached_share=0.5,
    ),
    "conv": _Service(
        {
            ("openai", "gpt-4o-mini"): 6,
            ("openai", "gpt-4o"): 3,
            ("google", "gemini-2.5-flash"): 3,
            ("anthropic", "claude-haiku-4-5"): 2,
            ("anthropic", "claude-sonnet-4-5"): 1,
        },
        ("support-bot", "search-assistant", "writing-helper"),
        cached_share=0.2,
    ),
}


class TraceRow(NamedTuple):
    """One request of the trace."""

    service: Literal["code", "conv"]
    at: datetime
    context_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig:
    """What to make of the trace."""

    source: str
    """The events' `source`: one run of the demo."""
    end: datetime
    """Aware; the last event's time. The first lies a day before."""
    events: int | None = None
    """So many of the trace's requests, evenly thinned; None: all."""
    seed: int = SEED


@cache
def read_trace() -> tuple[TraceRow, ...]:
    """The packaged trace in the order of time. Blocks for some 50 ms, once."""
    packed = files("meterstream.producers").joinpath("data", "azure_llm_2023.csv.gz").read_bytes()
    rows = csv.DictReader(gzip.decompress(packed).decode("ascii").splitlines())
    return tuple(
        TraceRow(
            "code" if row["service"] == "code" else "conv",
            # The source gives no zone; it is taken as UTC, and only differences are used.
            datetime.fromisoformat(row["ts"] + "+00:00"),
            int(row["context_tokens"]),
            int(row["generated_tokens"]),
        )
        for row in rows
    )


def trace_records(config: TraceConfig) -> Iterator[SimulatedRecord]:
    """Every record in the order in which it is to be sent. Deterministic in `config`."""
    random = Random(config.seed)  # noqa: S311  (repeatable on purpose)
    rows = read_trace()
    wanted = len(rows) if config.events is None else min(config.events, len(rows))
    broken = _spread(wanted)
    recent: list[_Made] = []
    for place in range(wanted):
        row = rows[place * len(rows) // wanted]
        time = config.end - SPAN * ((rows[-1].at - row.at) / (rows[-1].at - rows[0].at))
        made = _make(row, time, config.source, random)
        yield made.record()
        if len(recent) < RECENT_MAX:
            recent.append(made)
        else:
            recent[random.randrange(RECENT_MAX)] = made
        if random.random() < RESEND_SHARE:
            yield random.choice(recent).record(kind="duplicate")
        if place in broken:
            yield broken[place](_make(row, time, config.source, random))
        if place == wanted // 2:
            yield _conflict(made)


class _Made(NamedTuple):
    """An event before it is a record."""

    event: SimulatedEvent
    wire: dict[str, Any]

    def record(self, *, kind: Kind | None = None, reason: str = "", value: bytes | None = None) -> SimulatedRecord:
        """The record, under another truth where one is given."""
        event = msgspec.structs.replace(self.event, kind=kind or self.event.kind, reason=reason)
        value = msgspec.json.encode(self.wire) if value is None else value
        return SimulatedRecord(RAW, event.tenant.encode(), STRUCTURED_HEADERS, value, (event,))


def _make(row: TraceRow, time: datetime, source: str, random: Random) -> _Made:
    service = _SERVICES[row.service]
    tenant = random.choices(TENANTS, _TENANT_WEIGHTS)[0]
    is_unknown = random.random() < UNKNOWN_SHARE
    provider, model = UNKNOWN_MODEL if is_unknown else random.choices(*zip(*service.models.items(), strict=True))[0]
    usage = {"input_tokens": row.context_tokens, "output_tokens": row.generated_tokens}
    if random.random() < service.cached_share and not is_unknown:
        usage["cache_read_tokens"] = row.context_tokens * random.randrange(2, 10) // 10
    user = random.randrange(40)
    wire = {
        "specversion": "1.0",
        "id": uuid7(time, random.getrandbits(74)),
        "source": source,
        "type": EVENT_TYPE,
        "time": time,
        "tenant": tenant,
        "data": {
            "provider": provider,
            "model": model,
            "operation": "chat",
            "usage": usage,
            "project_id": random.choice(service.projects),
            "user_id": f"user-{user:02d}",
            "api_key_id": f"key-{user % 5}",
            "latency_ms": 200 + 18 * row.generated_tokens + random.randrange(400),
            "environment": "production",
        },
    }
    kind: Kind = "unknown_model" if is_unknown else "new"
    return _Made(SimulatedEvent(kind, tenant, source, str(wire["id"]), time, provider, model, usage), wire)


def _conflict(first: _Made) -> SimulatedRecord:
    """The same id with another body: somebody made ids that are not unique."""
    data = first.wire["data"] | {"latency_ms": first.wire["data"]["latency_ms"] + 1}
    return _Made(first.event, first.wire | {"data": data}).record(kind="conflict", reason="id_conflict")


def _spread(wanted: int) -> dict[int, Callable[[_Made], SimulatedRecord]]:
    """place in the trace -> what breaks an event there: each fault once, evenly."""
    faults = [partial(_broken_event, fault) for fault in EVENT_FAULTS]
    faults += [partial(_broken_record, fault) for fault in RECORD_FAULTS]
    return {wanted * number // (len(faults) + 1): fault for number, fault in enumerate(faults, start=1)}


def _broken_event(fault: EventFault, made: _Made) -> SimulatedRecord:
    fault.damage(made.wire)
    return made.record(kind="malformed", reason=fault.reason)


def _broken_record(fault: RecordFault, made: _Made) -> SimulatedRecord:
    value = fault.damage(msgspec.json.encode(made.wire))
    return made.record(kind="malformed", reason=fault.reason, value=value)
