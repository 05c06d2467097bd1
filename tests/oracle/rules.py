"""Which events are metered: shape, bounds and age, read from the contract's text."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests.oracle.records import RawRecord, Refused

PARENT: dict[str, str | None] = {
    "requests": None,
    "input_tokens": None,
    "output_tokens": None,
    "other_model_input_tokens": None,
    "other_model_output_tokens": None,
    "characters": None,
    "seconds": None,
    "audio_seconds": None,
    "video_seconds": None,
    "images": None,
    "pages": None,
    "gigabytes": None,
    "web_requests": None,
    "web_searches": None,
    "file_searches": None,
    "code_executions": None,
    "search_units": None,
    "extra_results": None,
    "summaries": None,
    "classifications": None,
    "segments": None,
    "media_messages": None,
    "credits": None,
    "token_hours": None,
    "cache_read_tokens": "input_tokens",
    "cache_write_tokens": "input_tokens",
    "input_audio_tokens": "input_tokens",
    "input_image_tokens": "input_tokens",
    "input_video_tokens": "input_tokens",
    "input_tool_tokens": "input_tokens",
    "cache_read_audio_tokens": "cache_read_tokens",
    "cache_read_image_tokens": "cache_read_tokens",
    "cache_read_video_tokens": "cache_read_tokens",
    "cache_write_5m_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": "cache_write_tokens",
    "reasoning_tokens": "output_tokens",
    "output_audio_tokens": "output_tokens",
    "output_image_tokens": "output_tokens",
    "output_video_tokens": "output_tokens",
}
"""unit -> the unit whose total includes it."""

FRACTIONAL = frozenset(
    ["seconds", "audio_seconds", "video_seconds", "gigabytes", "search_units", "credits", "token_hours"]
)

OTHER_SHAPES = frozenset(
    ["input_tokens", "inputTokens", "promptTokenCount", "usageMetadata", "billed_units", "num_segments", "costDollars"]
)
"""Fields of vendors' bodies that the model does not read."""

NAMES = frozenset(
    [
        "model",
        "operation",
        "method",
        "environment",
        "region",
        "service_tier",
        "variant",
        "ip",
        "reported_currency",
    ]  # up to 128
)
# Up to 256 characters.
IDENTIFIERS = frozenset(
    [
        "endpoint",
        "user_id",
        "project_id",
        "api_key_id",
        "agent_id",
        "task_id",
        "conversation_id",
        "session_id",
        "message_id",
        "request_id",
    ]
)
TEXTS = frozenset({"error", "user_agent"})
COUNTS = frozenset({"retries", "request_bytes", "response_bytes"})
DURATIONS = frozenset({"latency_ms", "ttft_ms"})
OTHERS = frozenset({"provider", "usage", "status_code", "status", "reported_amount", "tags", "vendor_usage"})
FIELDS = NAMES | IDENTIFIERS | TEXTS | COUNTS | DURATIONS | OTHERS

AGE_MAX = timedelta(days=35)
BACKFILL_AGE_MAX = timedelta(days=3653)
ID_AGE_MAX = timedelta(days=45)
AHEAD_MAX = timedelta(minutes=5)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(?:([Zz])|([+-])(\d\d):?(\d\d))")
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True)
class Usage:
    """An event that is metered."""

    tenant: str
    source: str
    event_id: str
    occurred_at: datetime
    data: dict[str, Any]
    model: str
    """The model that answered: the vendor's body names it, or the event."""
    quantities: dict[str, Fraction]
    is_metered: bool = True
    """False: the vendor's body says nothing that can be read."""

    @property
    def identity(self) -> tuple[str, str, str]:
        """What counts once."""
        return self.tenant, self.source, self.event_id

    @property
    def body(self) -> tuple[Any, ...]:
        """Two events with equal bodies are the same event: content without how it was written down."""
        return self.occurred_at, _frozen({k: v for k, v in self.data.items() if not _is_default(k, v)})


class _Wrong(Exception):
    """What is wrong with the event."""


def admit(record: RawRecord, content: dict[str, Any]) -> Usage | Refused:
    """The event, or why it is not metered. Age is judged by the broker's append time alone."""
    try:
        usage = _usage(content)
    except _Wrong as wrong:
        return Refused("invalid", str(wrong))
    appended_at = EPOCH + timedelta(milliseconds=record.appended_ms)
    return _too_far(usage, appended_at, is_backfill=record.topic == "usage.backfill") or usage


def _too_far(usage: Usage, appended_at: datetime, *, is_backfill: bool) -> Refused | None:
    if not -AHEAD_MAX <= appended_at - usage.occurred_at <= (BACKFILL_AGE_MAX if is_backfill else AGE_MAX):
        return Refused("time", "too old or in the future")
    ms = id_time_ms(usage.event_id)
    if ms is None:
        return None
    appended_ms = (appended_at - EPOCH) // timedelta(milliseconds=1)
    if ms - appended_ms > AHEAD_MAX // timedelta(milliseconds=1):
        return Refused("time", "id in the future")
    if appended_ms - ms > ID_AGE_MAX // timedelta(milliseconds=1):
        return Refused("time", "id too old")
    return None


def _usage(content: dict[str, Any]) -> Usage:
    texts = {
        name: _text(content.get(name), 1, limit) for name, limit in (("id", 128), ("source", 256), ("tenant", 128))
    }
    _expect(content.get("specversion") == "1.0", "specversion")
    _expect(content.get("type") == "meterstream.usage.v1", "type")
    for value in texts.values():
        _no_control(value)
    data = content.get("data")
    if not isinstance(data, dict):
        raise _Wrong("data")
    _check_data(data)
    key = [data.get(n, "") for n in ("provider", "model", "operation", "project_id", "user_id", "api_key_id")]
    _expect(sum(len(text.encode()) for text in (texts["tenant"], *key)) <= 2400, "key too long")
    usage = Usage(
        tenant=texts["tenant"],
        source=texts["source"],
        event_id=texts["id"],
        occurred_at=_moment(content.get("time")),
        data=data,
        model=data.get("model", ""),
        quantities=_quantities(data.get("usage", {})),
    )
    return _read_body(usage, data["vendor_usage"]) if not usage.quantities and "vendor_usage" in data else usage


def _read_body(usage: Usage, body: dict[str, Any]) -> Usage:
    """Only chat completions and what nobody can read: the other shapes have worked cases of their own."""
    if "usage" in body and not isinstance(body["usage"], dict):
        return replace(usage, is_metered=False)
    said = body.get("usage", body)
    if set(said) & OTHER_SHAPES:
        raise NotImplementedError(f"the model does not read {sorted(said)}")
    details = said.get("prompt_tokens_details") or {}
    prompt, completion, total, cached = (
        _told(value)
        for value in (
            said.get("prompt_tokens"),
            said.get("completion_tokens"),
            said.get("total_tokens"),
            details.get("cached_tokens"),
        )
    )
    if prompt is None or (completion is None and total is None):
        return replace(usage, is_metered=False)
    output = completion if completion is not None else (total or 0) - prompt
    if total is not None and total != prompt + output:
        return replace(usage, is_metered=False)
    if min(prompt, output, cached or 0, prompt - (cached or 0)) < 0:
        return replace(usage, is_metered=False)
    found = {"input_tokens": prompt, "output_tokens": Fraction(output), "cache_read_tokens": cached or Fraction(0)}
    return replace(usage, quantities=found, model=body.get("model") or usage.model)


def _told(value: Any) -> Fraction | None:
    """A vendor's number, which may be text."""
    return None if value is None else Fraction(value)


def _check_data(data: dict[str, Any]) -> None:
    _expect(set(data) <= FIELDS, "unknown field")
    _no_control(_text(data.get("provider"), 1, 128))
    for names, limit in ((NAMES, 128), (IDENTIFIERS, 256)):
        for name in names & set(data):
            _no_control(_text(data[name], 0, limit))
    for name in TEXTS & set(data):
        _expect("\0" not in _text(data[name], 0, 1024), "NUL")
    for name in COUNTS & set(data):
        _optional_number(data[name], 0, 2**53 - 1, whole=True)
    for name in DURATIONS & set(data):
        _optional_number(data[name], 0, 10**9, whole=False)
    _optional_number(data.get("status_code"), 100, 599, whole=True)
    _expect(data.get("status", "ok") in ("ok", "error", "cancelled"), "status")
    _expect(bool(data.get("operation") or data.get("endpoint")), "neither operation nor endpoint")
    _check_reported(data)
    _check_tags(data.get("tags", {}))
    _check_vendor_usage(data.get("vendor_usage", {}))


def _check_reported(data: dict[str, Any]) -> None:
    amount, currency = data.get("reported_amount"), data.get("reported_currency", "")
    _expect((amount is None) == (currency == ""), "reported_amount and reported_currency go together")
    if amount is not None:
        _expect(
            isinstance(amount, str) and re.fullmatch(r"\d{1,7}(\.\d{1,12})?", amount) is not None, "reported_amount"
        )
        _expect(re.fullmatch(r"[A-Z]{3}", currency) is not None, "reported_currency")


def _check_vendor_usage(value: Any) -> None:
    _expect(isinstance(value, dict), "vendor_usage")
    level: list[Any] = [value]
    for _ in range(32):
        level = [child for node in level for child in _children(node)]
    _expect(not level, "vendor_usage is nested too deep")


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _check_tags(tags: Any) -> None:
    _expect(isinstance(tags, dict) and len(tags) <= 32, "tags")
    for key, value in tags.items():
        _expect("\0" not in _text(key, 1, 64), "tag")
        _expect("\0" not in _text(value, 0, 256), "tag")


def _quantities(usage: Any) -> dict[str, Fraction]:
    _expect(isinstance(usage, dict), "usage")
    _expect(set(usage) <= set(PARENT), "unknown unit")
    exact: dict[str, Fraction] = {}
    for unit, value in usage.items():
        _expect(isinstance(value, int | Decimal) and not isinstance(value, bool), "quantity is no number")
        exact[unit] = Fraction(value)
        _expect(0 <= exact[unit] <= 10**12, "quantity out of bounds")
        _expect((exact[unit] * 10**9).denominator == 1, "more than 9 decimal places")
        _expect(unit in FRACTIONAL or exact[unit].denominator == 1, "counts are whole")
    for total in {parent for unit in exact if (parent := PARENT[unit]) is not None}:
        parts = sum(quantity for unit, quantity in exact.items() if PARENT[unit] == total)
        _expect(total in exact and parts <= exact[total], "sub-counts above their total")
    return exact


def _text(value: Any, shortest: int, longest: int) -> str:
    if not isinstance(value, str) or not shortest <= len(value) <= longest:
        raise _Wrong("a text is missing, no text or too long")
    return value


def _no_control(text: str) -> None:
    _expect(not any(ord(c) < 32 for c in text), "control character")


def _optional_number(value: Any, low: int, high: int, *, whole: bool) -> None:
    if value is None:
        return
    _expect(isinstance(value, int | Decimal) and not isinstance(value, bool), "no number")
    _expect(low <= value <= high, "out of bounds")
    _expect(not whole or value == int(value), "not whole")


def _expect(is_right: bool, what: str) -> None:
    if not is_right:
        raise _Wrong(what)


def _moment(value: Any) -> datetime:
    match = RFC3339.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _Wrong("time")
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    micros = int((match[7] or "").ljust(9, "0")[:6])
    zone = UTC
    if match[8] is None:
        zone = timezone((1 if match[9] == "+" else -1) * timedelta(hours=int(match[10]), minutes=int(match[11])))
    try:
        return datetime(year, month, day, hour, minute, second, micros, zone).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _Wrong("time") from error


def id_time_ms(event_id: str) -> int | None:
    """Milliseconds since 1970 that a UUIDv7 or a ULID carries."""
    if re.fullmatch(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-7[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}", event_id):
        return int(event_id.replace("-", "")[:12], 16)
    if re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}", event_id):
        ms = 0
        for letter in event_id[:10].upper():
            ms = ms * 32 + CROCKFORD.index(letter)
        return ms
    return None


def _is_default(name: str, value: Any) -> bool:
    return value in ("", None, {}) or (name == "status" and value == "ok")


def _frozen(value: Any) -> Any:
    """Hashable, and equal where two ways of writing JSON mean the same."""
    if isinstance(value, dict):
        return frozenset((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__, value
    return "number", Fraction(value)
