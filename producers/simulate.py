"""A seeded simulator of usage: the same configuration gives the same bytes, and each record comes with its truth.

Shape: Zipf-distributed tenants, bursts of one tenant, token counts with a long tail, re-sends, late events,
unknown models, reused ids and malformed records, each in its stated share. Event times rise from `start`
to `end`; only late events lie earlier than their neighbours. Pure: no clock, no input or output.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from meterstream.producers.simulated import Kind, Profile, SimulatedEvent, SimulatedRecord
from meterstream.producers.simulated_faults import EVENT_FAULTS, RECORD_FAULTS
from meterstream.schema.cloudevents import BATCH_HEADERS, STRUCTURED_HEADERS
from meterstream.schema.errors import UsageError
from meterstream.schema.event import EVENT_TYPE
from meterstream.schema.ids import uuid7
from meterstream.schema.topics import RAW

RECENT_MAX: Final = 1024
"""A re-send or a reused id repeats one of this many latest events."""
LATE_MS_MAX: Final = 10 * 60 * 1000
BURST_EVENTS_MAX: Final = 200
ARRAY_EVENTS_MAX: Final = 20

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Model(NamedTuple):
    """A model that is called; `weight` is its share of the calls, relative to the others'."""

    provider: str
    model: str
    operation: str
    weight: int
    caches: bool = False
    """Some of its input is read from a cache."""
    writes: bool = False
    """Some of its input is written to a cache, for money."""
    reasons: bool = False


MODELS: Final = (
    Model("openai", "gpt-4o-mini", "chat", 30, caches=True),
    Model("openai", "gpt-4o", "chat", 18, caches=True),
    Model("anthropic", "claude-sonnet-4-5", "chat", 14, caches=True, writes=True),
    Model("google", "gemini-2.5-flash", "chat", 12, caches=True),
    Model("openai", "text-embedding-3-small", "embedding", 8),
    Model("anthropic", "claude-haiku-4-5", "chat", 6, caches=True, writes=True),
    Model("openai", "o3-mini", "chat", 4, caches=True, reasons=True),
    Model("google", "gemini-2.5-pro", "chat", 3, caches=True, reasons=True),
    Model("cohere", "command-a", "chat", 2),
    Model("google", "gemini-2.0-flash", "chat", 2, caches=True),
    Model("anthropic", "claude-opus-4-1", "chat", 1, caches=True, writes=True),
    Model("openai", "gpt-4.1", "chat", 1, caches=True),
)
UNKNOWN_MODEL: Final = Model("openai", "gpt-unreleased", "chat", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorConfig:
    """What to simulate. Shares are of all events sent. Raises UsageError when it makes no sense."""

    seed: int
    events: int
    """How many are sent in all, re-sends and malformed ones included."""
    start: datetime
    end: datetime
    """Aware; no event lies outside, but a late one may lie up to ten minutes before `start`."""
    tenants: int = 100
    zipf_exponent: float = 1.05
    topic: str = RAW
    source: str = "simulator"
    profile: Profile = "lean"
    duplicates: float = 0.02
    late: float = 0.01
    malformed: float = 0.001
    unknown_models: float = 0.05
    conflicts: float = 0.0005
    plain_ids: float = 0.05
    """Share of new events whose id is neither UUIDv7 nor ULID."""
    bursts: float = 0.002
    """Chance, at each event, that a burst of one tenant begins."""
    arrays: float = 0.0
    """Share of records that are JSON arrays of one tenant's events."""
    price_change_at: datetime | None = None
    """Puts one event exactly at this moment and one a millisecond before it, so that both sides are hit."""
    changed_model: Model | None = None
    """Whose price changes then: those two events are of it, and some of the others. None: any of `models`."""
    models: tuple[Model, ...] = MODELS
    unknown_model: Model = UNKNOWN_MODEL

    def __post_init__(self) -> None:
        shares = {
            name: getattr(self, name) for name in ("duplicates", "late", "malformed", "unknown_models", "conflicts")
        }
        chances = shares | {"plain_ids": self.plain_ids, "bursts": self.bursts, "arrays": self.arrays}
        wrong = [
            f"{name} is {value}: give a share from 0 to 1" for name, value in chances.items() if not 0 <= value <= 1
        ]
        if sum(shares.values()) > 1:
            wrong.append(f"the shares of {', '.join(shares)} add up to more than 1")
        if self.events < 0 or self.tenants < 1:
            wrong.append("events must be 0 or more, tenants 1 or more")
        if self.start.tzinfo is None or self.end.tzinfo is None or self.start > self.end:
            wrong.append("start and end must have a time zone, and start must not lie after end")
        if wrong:
            raise UsageError("; ".join(wrong))


def simulate(config: SimulatorConfig) -> Iterator[SimulatedRecord]:
    """Every record in the order in which it is to be sent. Deterministic in `config`."""
    return _Simulation(config).records()


class _Sent(NamedTuple):
    """An event that was accepted, kept for re-sends and reused ids."""

    event: SimulatedEvent
    wire: dict[str, Any]
    encoded: bytes


class _Simulation:
    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self._random = Random(config.seed)  # noqa: S311  (repeatable on purpose)
        self._sent = 0
        self._recent: list[_Sent] = []
        self._tenant_weights = list(accumulate(1 / rank**config.zipf_exponent for rank in range(1, config.tenants + 1)))
        self._models = (*config.models, *([config.changed_model] if config.changed_model else []))
        self._model_weights = list(accumulate(model.weight for model in self._models))
        self._kinds: tuple[Kind, ...] = ("duplicate", "late", "malformed", "unknown_model", "conflict", "new")
        self._kind_bounds = list(
            accumulate((config.duplicates, config.late, config.malformed, config.unknown_models, config.conflicts))
        )
        self._burst_left = 0
        self._burst_tenant = ""
        self._start_ms = (config.start - _EPOCH) // _MILLISECOND
        self._span_ms = (config.end - config.start) // _MILLISECOND
        self._boundary_ms = self._boundary_times()

    def records(self) -> Iterator[SimulatedRecord]:
        config = self._config
        while self._sent < config.events:
            if config.arrays and self._random.random() < config.arrays:
                yield self._array()
            else:
                yield self._single()

    # ------------------------------------------------------------------ records

    def _single(self) -> SimulatedRecord:
        kind = self._draw_kind(can_repeat=bool(self._recent))
        if kind == "malformed" and self._random.random() < 0.3:
            return self._broken_record()
        event, encoded = self._make(kind, self._draw_tenant(), self._recent)
        return self._record(event.tenant, (event,), encoded)

    def _array(self) -> SimulatedRecord:
        """Of one tenant: events of two tenants in one record would leave the order of a re-send open."""
        tenant = self._draw_tenant()
        size = min(self._random.randint(1, ARRAY_EVENTS_MAX), self._config.events - self._sent)
        own: list[_Sent] = []
        made = [self._make(self._draw_kind(can_repeat=bool(own)), tenant, own) for _ in range(size)]
        value = b"[" + b",".join(encoded for _, encoded in made) + b"]"
        return self._record(tenant, tuple(event for event, _ in made), value, is_array=True)

    def _broken_record(self) -> SimulatedRecord:
        """A record that cannot be taken apart at all."""
        tenant = self._draw_tenant()
        event, wire = self._new("malformed", tenant)
        fault = self._random.choice(RECORD_FAULTS)
        event = msgspec.structs.replace(event, reason=fault.reason)
        return self._record(tenant, (event,), fault.damage(msgspec.json.encode(wire)))

    def _record(
        self, tenant: str, events: tuple[SimulatedEvent, ...], value: bytes, *, is_array: bool = False
    ) -> SimulatedRecord:
        headers = BATCH_HEADERS if is_array else STRUCTURED_HEADERS
        return SimulatedRecord(self._config.topic, tenant.encode(), headers, value, events)

    # ------------------------------------------------------------------ events

    def _make(self, kind: Kind, tenant: str, earlier: list[_Sent]) -> tuple[SimulatedEvent, bytes]:
        if kind in ("duplicate", "conflict"):
            first = self._random.choice(earlier)
            self._sent += 1
            if kind == "duplicate":
                return msgspec.structs.replace(first.event, kind="duplicate"), first.encoded
            return self._conflict(first)
        event, wire = self._new(kind, tenant)
        if kind == "malformed":
            fault = self._random.choice(EVENT_FAULTS)
            fault.damage(wire)
            return msgspec.structs.replace(event, reason=fault.reason), msgspec.json.encode(wire)
        sent = _Sent(event, wire, msgspec.json.encode(wire))
        self._remember(sent, earlier)
        return event, sent.encoded

    def _conflict(self, first: _Sent) -> tuple[SimulatedEvent, bytes]:
        usage = dict(first.event.usage)
        usage["input_tokens"] += 1
        wire = {**first.wire, "data": {**first.wire["data"], "usage": usage}}
        event = msgspec.structs.replace(first.event, kind="conflict", usage=usage, reason="id_conflict")
        return event, msgspec.json.encode(wire)

    def _remember(self, sent: _Sent, earlier: list[_Sent]) -> None:
        if len(earlier) < RECENT_MAX:
            earlier.append(sent)
        else:
            earlier[self._random.randrange(RECENT_MAX)] = sent

    def _new(self, kind: Kind, tenant: str) -> tuple[SimulatedEvent, dict[str, Any]]:
        config, random = self._config, self._random
        boundaries_left = len(self._boundary_ms)
        time = self._draw_time(kind)
        if kind == "unknown_model":
            model = config.unknown_model
        elif config.changed_model is not None and len(self._boundary_ms) < boundaries_left:
            model = config.changed_model
        else:
            model = self._draw_model()
        usage = self._draw_usage(model)
        event_id = self._draw_id(time)
        self._sent += 1
        data: dict[str, Any] = {
            "provider": model.provider,
            "model": model.model,
            "operation": model.operation,
            "usage": usage,
            "status": "ok",
            "latency_ms": random.randint(80, 30_000),
            **self._draw_names(),
        }
        if config.profile == "full":
            data |= self._every_other_attribute(usage, data["project_id"])
        wire = {
            "specversion": "1.0",
            "id": event_id,
            "source": config.source,
            "type": EVENT_TYPE,
            "time": time,
            "tenant": tenant,
            "data": data,
        }
        event = SimulatedEvent(kind, tenant, config.source, event_id, time, model.provider, model.model, usage)
        return event, wire

    def _draw_names(self) -> dict[str, str]:
        if self._config.profile == "scattered":
            project, user = self._random.randrange(8), self._random.randrange(200)
        else:
            project, user = self._few_of(4), self._few_of(20)
        return {"project_id": f"project-{project}", "user_id": f"user-{user}"}

    def _few_of(self, count: int) -> int:
        """From 1 on: the first few of what a tenant has make most of its calls. Pareto's tail is cut."""
        return min(int(self._random.paretovariate(1.2)), count)

    def _every_other_attribute(self, usage: dict[str, int], project: str) -> dict[str, Any]:
        random = self._random
        conversation = random.randrange(10_000)
        return {
            "endpoint": "/v1/chat/completions",
            "method": "POST",
            "status_code": 200,
            "error": "none",
            "ttft_ms": random.randint(40, 2_000) + 0.5,
            "retries": random.randrange(3),
            "request_bytes": random.randrange(100_000),
            "response_bytes": random.randrange(20_000),
            "api_key_id": f"key-of-{project}-{self._few_of(3)}",
            "agent_id": f"agent-{random.randrange(20)}",
            "task_id": f"task-{conversation % 977}",
            "conversation_id": f"conversation-{conversation}",
            "session_id": f"session-{conversation % 4_001}",
            "message_id": f"msg_{random.getrandbits(64):016x}",
            "request_id": f"req_{random.getrandbits(64):016x}",
            "operation_id": f"op-{conversation}",
            "attempt": 1,
            "estimated": False,
            "environment": "production",
            "region": random.choice(("eu-central-1", "us-east-1")),
            "service_tier": "standard",
            "variant": random.choice("AB"),
            "ip": f"192.0.2.{random.randrange(256)}",
            "user_agent": "simulator/1.0",
            "reported_amount": f"0.{random.randrange(10**6):06d}",
            "reported_currency": "USD",
            "tags": {"team": f"team-{random.randrange(6)}", "feature": random.choice(("search", "summary", "chat"))},
            "vendor_usage": {
                "prompt_tokens": usage["input_tokens"],
                "completion_tokens": usage.get("output_tokens", 0),
                "details": {"cached": usage.get("cache_read_tokens", 0)},
            },
        }

    # ------------------------------------------------------------------ draws

    def _draw_kind(self, *, can_repeat: bool) -> Kind:
        kind = self._kinds[bisect(self._kind_bounds, self._random.random())]
        return "new" if kind in ("duplicate", "conflict") and not can_repeat else kind

    def _draw_tenant(self) -> str:
        if self._burst_left:
            self._burst_left -= 1
            return self._burst_tenant
        weights = self._tenant_weights
        tenant = f"tenant-{bisect(weights, self._random.random() * weights[-1]):05d}"
        if self._random.random() < self._config.bursts:
            self._burst_left, self._burst_tenant = self._random.randint(10, BURST_EVENTS_MAX), tenant
        return tenant

    def _draw_model(self) -> Model:
        weights = self._model_weights
        return self._models[bisect(weights, self._random.random() * weights[-1])]

    def _draw_time(self, kind: Kind) -> datetime:
        """Rises with the count of events sent; the milliseconds in between are drawn."""
        events = self._config.events
        slot = self._span_ms * self._sent // events
        width = max(1, self._span_ms // events)
        ms = self._start_ms + slot + int(self._random.random() * width)
        if kind == "late":
            ms -= self._random.randint(1, LATE_MS_MAX)
        elif kind == "new" and self._boundary_ms and ms >= self._boundary_ms[-1]:
            ms = self._boundary_ms.pop()
        return _EPOCH + ms * _MILLISECOND

    def _boundary_times(self) -> list[int]:
        at = self._config.price_change_at
        if at is None or not self._config.start < at <= self._config.end:
            return []
        at_ms = (at - _EPOCH) // _MILLISECOND
        return [at_ms, at_ms - 1]

    def _draw_id(self, time: datetime) -> str:
        if self._random.random() < self._config.plain_ids:
            return f"call-{self._config.seed}-{self._sent}"
        return uuid7(time, self._random.getrandbits(74))

    def _draw_usage(self, model: Model) -> dict[str, int]:
        random = self._random
        total = min(200_000, 1 + int(random.lognormvariate(6.5, 1.2)))
        usage = {"input_tokens": total}
        if model.operation == "embedding":
            return usage
        usage["output_tokens"] = min(16_000, 1 + int(random.lognormvariate(5.0, 1.0)))
        if model.caches and random.random() < 0.4:
            usage["cache_read_tokens"] = total * random.randrange(1, 8) // 10
        if model.writes and random.random() < 0.3:
            usage["cache_write_tokens"] = total * random.randrange(1, 3) // 10
        if model.reasons:
            usage["reasoning_tokens"] = usage["output_tokens"] * random.randrange(10) // 10
        return usage
