"""The price engine alone: the events of a lot through look-up and charge, beside other libraries. No server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec

from meterstream.deploy.bench import peers
from meterstream.deploy.bench.machine import is_installed
from meterstream.deploy.bench.options import Options
from meterstream.deploy.bench.results import PricingFigures
from meterstream.deploy.bench.workload import make_lot, rates_in_force
from meterstream.deploy.pricing.check import of_files
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.decode import decode_event
from meterstream.processors.rating.price import charge
from meterstream.producers.simulated import Profile
from meterstream.schema.errors import EventRejected, MeterstreamError
from meterstream.schema.event import Event
from meterstream.schema.money import PICO

OURS: Final = "meterstream"
LIBRARIES: Final = ("genai-prices", "litellm")
ROUNDS: Final = 5
PEER_EVENTS_MAX: Final = 5_000
PEER_PATIENCE_S: Final = 300.0
NEARLY: Final = Decimal("1e-9")
"""How far an amount of a library that counts in floats may be off, as a share, to be the same."""


class _Answer(msgspec.Struct, frozen=True):
    cpu_s: float
    amounts: list[str | None]


def pricing(options: Options, say: Callable[[str], None], notes: list[str]) -> list[PricingFigures]:
    """For each profile ours, then each library that is installed. Raises MeterstreamError for a wrong price."""
    book = of_files().book
    rates, _ = rates_in_force(datetime.now(UTC))
    figures: list[PricingFigures] = []
    for profile in options.profiles:
        lot = make_lot(f"{profile}/pricing", seed=options.seed, events=options.events, profile=profile)
        events: list[Event] = []
        for record in lot.records:
            lot.add(record)
            events.append(_event(record.value))
        amounts = [_amount(book, event) for event in events]
        if sum(amounts) != lot.amount_pico(rates, with_duplicates=True):
            raise MeterstreamError("the run is void: the engine's sum is not the simulator's")
        figures.append(PricingFigures(OURS, profile, len(events), _measured(book, events), len(events), 0))
        say(f"{profile}: {len(events):,} events are priced by the engine alone")
        if options.with_peers:
            figures += _others(profile, events, amounts, notes)
    return figures


def _event(value: bytes) -> Event:
    event = decode_event(value)
    if isinstance(event, EventRejected):
        raise MeterstreamError(f"the run is void: {event.detail}")
    return event


def _amount(book: Book, event: Event) -> int:
    data = event.data
    rates = book.lookup(event.tenant, data.provider, data.model, event.time)
    amount = None if rates is None else charge(data.usage, rates)
    if amount is None:
        raise MeterstreamError(f"the shipped prices have no price for {data.provider} {data.model} {data.usage}")
    return amount


def _measured(book: Book, events: Sequence[Event]) -> float:
    """µs of CPU an event, the loop included: what the rater's own loop pays for a price."""
    best = float("inf")
    lookup = book.lookup
    for _ in range(ROUNDS):
        began = time.process_time()
        for event in events:
            data = event.data
            rates = lookup(
                event.tenant,
                data.provider,
                data.model,
                event.time,
                data.service_tier,
                data.region,
                data.tags,
            )
            if rates is not None:
                charge(data.usage, rates)
        best = min(best, time.process_time() - began)
    return best / len(events) * 1e6


def _others(profile: Profile, events: list[Event], amounts: list[int], notes: list[str]) -> list[PricingFigures]:
    scripts = peers.folder()
    found: list[PricingFigures] = []
    for library in LIBRARIES:
        if scripts is None or not is_installed(library):
            notes.append(
                f"prices of {library} were left out: " + (f"pip install {library}" if scripts else "no checkout")
            )
            continue
        some = events[:PEER_EVENTS_MAX]
        answer = _asked(scripts / "other_prices.py", library, some)
        pairs = [(Decimal(amount) / PICO, theirs) for amount, theirs in zip(amounts, answer.amounts, strict=False)]
        same = sum(theirs is not None and abs(Decimal(theirs) - ours) <= ours * NEARLY for ours, theirs in pairs)
        unknown = answer.amounts.count(None)
        found.append(PricingFigures(library, profile, len(some), answer.cpu_s / len(some) * 1e6, same, unknown))
    return found


def _asked(script: Path, library: str, events: list[Event]) -> _Answer:
    calls = [(event.data.provider, event.data.model, event.time, event.data.usage) for event in events]
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(script)],
        input=msgspec.json.encode({"library": library, "calls": calls}) + b"\n",
        capture_output=True,
        timeout=PEER_PATIENCE_S,
        check=False,
    )
    if done.returncode:
        raise MeterstreamError(f"{library} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=_Answer)
