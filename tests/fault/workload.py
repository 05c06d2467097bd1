"""What the fault runs publish: the seeded simulator, with prices of our own that the model reads too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.oracle.prices import PriceRow, Prices

from meterstream.producers.simulate import MODELS, SimulatorConfig, simulate
from meterstream.producers.simulated import SimulatedRecord

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
