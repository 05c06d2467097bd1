"""What the fault runs publish: the seeded simulator, with prices of our own that the model reads too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from meterstream.producers.simulate import MODELS, SimulatorConfig, simulate
from meterstream.producers.simulated import SimulatedRecord
from tests.oracle.prices import PriceRow, Prices

# Below a millionth of a dollar a token, with halves at the twelfth place: rounding and its direction matter.
RATES = ("2.50", "0.0375", "0.1234567", "15", "0.0000005", "0.30")
UNITS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


def price_entries(change_at: datetime) -> list[dict[str, Any]]:
    """Price rows as `meter.catalog` carries them. Not every unit has one; some change at `change_at`."""
    long_ago = change_at - timedelta(days=400)
    entries: list[dict[str, Any]] = []

    def add(model: Any, unit: str, rate: str, valid_from: datetime, revision: int, tenant: str | None = None) -> None:
        entry = {
            "kind": "price",
            "price_id": len(entries) + 1,
            "revision": revision,
            "provider": model.provider,
            "model": model.model,
            "unit": unit,
            "currency": "EUR" if model.provider == "google" else "USD",
            "rate": rate,
            "per": 1_000_000,
            "valid_from": valid_from.isoformat(),
            "known_from": valid_from.isoformat(),
            "source": "test",
        }
        entries.append(entry | ({"tenant": tenant} if tenant else {}))

    for number, model in enumerate(MODELS):
        for place, unit in enumerate(UNITS):
            if place < 2 or (number + place) % 3:  # every third sub-count is paid within its total
                add(model, unit, RATES[(number + place) % len(RATES)], long_ago, 1)
        add(model, "input_tokens", RATES[(number + 3) % len(RATES)], change_at, 2)
    add(MODELS[0], "output_tokens", "7.77", long_ago, 2, tenant="tenant-00000")
    return entries


def catalog_records(entries: list[dict[str, Any]]) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of each record, the head last."""
    for entry in entries:
        yield f"price/{entry['price_id']}".encode(), json.dumps(entry).encode()
    revision = max(entry["revision"] for entry in entries)
    yield b"head", json.dumps({"kind": "head", "revision": revision}).encode()


def oracle_prices(entries: list[dict[str, Any]]) -> Prices:
    """The same rows for the model."""
    return Prices(
        PriceRow(
            tenant=entry.get("tenant"),
            provider=entry["provider"],
            model=entry["model"],
            unit=entry["unit"],
            currency=entry["currency"],
            rate=Fraction(entry["rate"]),
            per=entry["per"],
            valid_from=datetime.fromisoformat(entry["valid_from"]),
            revision=entry["revision"],
        )
        for entry in entries
    )


def usage(seed: int, events: int, change_at: datetime) -> Iterator[SimulatedRecord]:
    """Everything that can go wrong with single events, more often than it does."""
    return simulate(
        SimulatorConfig(
            seed=seed,
            events=events,
            start=change_at - timedelta(hours=2),
            end=min(change_at + timedelta(hours=2), datetime.now(UTC)),
            tenants=60,
            duplicates=0.05,
            malformed=0.01,
            conflicts=0.005,
            late=0.02,
            arrays=0.1,
            plain_ids=0.1,
            bursts=0.01,
            price_change_at=change_at,
        )
    )


def hostile(at: datetime) -> Iterator[tuple[str, bytes | None, list[tuple[str, bytes]]]]:
    """(topic, value, headers): what the simulator does not send. Single, binary, arrays; most of it is refused."""
    event = {
        "specversion": "1.0",
        "type": "meterstream.usage.v1",
        "source": "hostile",
        "tenant": "hostile",
        "time": at.isoformat(),
        "data": {"provider": "openai", "model": "gpt-4o-mini", "operation": "chat", "usage": {"input_tokens": 3}},
    }
    data = json.dumps(event["data"]).encode()
    binary = [(f"ce_{name}", str(value).encode()) for name, value in event.items() if name != "data"]
    json_type = ("content-type", b"application/json; charset=utf-8")
    number = iter(range(1_000))

    def one(**changes: Any) -> bytes:
        return json.dumps({**event, "id": f"hostile-{next(number)}", **changes}).encode()

    def using(usage: dict[str, Any]) -> bytes:
        return one(data={"provider": "openai", "model": "gpt-4o-mini", "operation": "chat", "usage": usage})

    yield "usage.raw", data, [*binary, ("ce_id", b"binary-1"), json_type]
    yield "usage.raw", data, [*binary, ("CE_ID", b"binary-2")]
    yield "usage.raw", data, [*binary, ("ce_id", b"a\x00b"), json_type]
    yield "usage.raw", data, [*binary, ("ce_id", b"\xff"), json_type]
    yield "usage.raw", data, [*binary, ("ce_id", b"binary-3"), ("content-type", b"text/plain")]
    yield "usage.raw", data, [*binary, ("ce_id", b"binary-4"), ("Ce_Tenant", b"victim")]
    yield "usage.raw", data + b',"tenant":"victim"', [*binary, ("ce_id", b"binary-5"), json_type]
    for value in (None, b"", b"null", b"[]", b"[[]]", b"{}", b"\xff", b"[1, 2", b"[" * 5_000, b'"\\ud800"', b"NaN"):
        yield "usage.raw", value, []
    for value in (one(id="a\x00b"), one(tenant=""), one(type="other"), one(id="x" * 129), one(time="yesterday")):
        yield "usage.raw", value, []
    wrong: tuple[Any, ...] = (-1, True, "1", 10**12, 10**12 + 1, 10**16, 10**400, 0.5, 1e-10, 1e300, None, {})
    for quantity in wrong:
        yield "usage.raw", using({"input_tokens": quantity}), []
    yield "usage.raw", using({"audio_seconds": 0.25}), []
    yield "usage.raw", using({"input_tokens": 1, "cache_read_tokens": 2}), []
    yield "usage.raw", using({}), []
    good, twice = one(), one()
    yield "usage.raw", b"[" + b",".join([good, b"3", twice, twice, b'{"id": 1}', b"null"]) + b"]", []
    yield "usage.raw", b"[" + b",".join([one() for _ in range(50)]) + b"]", [("content-type", b"application/json")]
    for days in (36, 34, 400):
        yield "usage.raw", one(time=(at - timedelta(days=days)).isoformat()), []
    yield "usage.raw", one(time=(at + timedelta(hours=5)).isoformat()), []
    yield "usage.backfill", one(tenant="backfill", time=(at - timedelta(days=400)).isoformat()), []
    yield "usage.backfill", one(tenant="backfill", time="1969-12-31T23:59:59Z"), []
    yield "usage.backfill", one(tenant="backfill", id="01900000-0000-7000-8000-000000000000"), []
