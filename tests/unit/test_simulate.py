"""The simulator is repeatable, its shares are what was asked for, and its totals are exact."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from meterstream.producers.line_check import check_line
from meterstream.producers.lines import Line
from meterstream.producers.simulate import MODELS, SimulatorConfig, simulate
from meterstream.producers.simulate_change import RATES as CHANGING_RATES
from meterstream.producers.simulate_change import PriceChange
from meterstream.producers.simulate_totals import Rates, SimulationTotals
from meterstream.producers.simulated import Profile, SimulatedEvent, SimulatedRecord
from meterstream.producers.trace import SPAN, TENANTS, TraceConfig, read_trace, trace_records
from meterstream.schema.errors import UsageError
from meterstream.schema.event import Data
from meterstream.schema.ids import id_time_ms
from meterstream.schema.rejection import REASONS
from meterstream.schema.topics import BACKFILL

START = datetime(2026, 3, 1, tzinfo=UTC)
CHANGE = START + timedelta(minutes=30)
MILLION = 1_000_000


def config(**overrides: Any) -> SimulatorConfig:
    asked: dict[str, Any] = {"seed": 7, "events": 5000, "start": START, "end": START + timedelta(hours=1)} | overrides
    return SimulatorConfig(**asked)


def events(records: list[SimulatedRecord]) -> list[SimulatedEvent]:
    return [event for record in records for event in record.events]


def wires(records: list[SimulatedRecord]) -> list[dict[str, Any]]:
    """The encoded events of the records that hold good ones, arrays taken apart."""
    found: list[dict[str, Any]] = []
    for record in records:
        if all(event.kind not in ("malformed",) for event in record.events):
            value = msgspec.json.decode(record.value)
            found += value if isinstance(value, list) else [value]
    return found


def test_the_same_configuration_gives_the_same_bytes() -> None:
    first, second, other = (list(simulate(config(seed=seed, arrays=0.1))) for seed in (7, 7, 8))
    assert first == second
    assert [record.value for record in first] != [record.value for record in other]


def test_as_many_events_are_sent_as_asked_for_and_the_shares_hold() -> None:
    made = events(list(simulate(config(events=20_000, malformed=0.01, conflicts=0.01, arrays=0.05))))
    kinds = Counter(event.kind for event in made)
    assert len(made) == 20_000
    for kind, share in {"duplicate": 0.02, "late": 0.01, "malformed": 0.01, "unknown_model": 0.05}.items():
        assert 0.6 * share < kinds[kind] / 20_000 < 1.4 * share, kind  # type: ignore[index]


def test_tenants_are_skewed() -> None:
    counts = Counter(event.tenant for event in events(list(simulate(config(events=20_000, bursts=0)))))
    ranked = [count for _, count in counts.most_common()]
    assert counts.most_common(1)[0][0] == "tenant-00000"
    assert ranked[0] > 1.6 * ranked[1] > 1.6 * ranked[4]


@pytest.mark.parametrize("profile", ["lean", "full", "scattered"])
def test_what_is_not_malformed_passes_the_public_contract(profile: str) -> None:
    made = list(simulate(config(profile=profile, arrays=0.05, malformed=0.02)))
    for wire in wires(made):
        assert not check_line(Line(1, 0, msgspec.json.encode(wire)), derive_ids=False).problem


def test_full_sets_every_field_of_the_contract() -> None:
    wire = wires(list(simulate(config(profile="full", events=50))))[0]
    assert set(wire["data"]) == set(Data.__struct_fields__)


def test_scattered_calls_hardly_ever_share_user_project_and_model_within_a_tenant() -> None:
    def combinations(profile: Profile) -> int:
        made = wires(list(simulate(config(profile=profile, events=4_000, duplicates=0))))
        fields = [
            (wire["tenant"], *(wire["data"][name] for name in ("project_id", "user_id", "model"))) for wire in made
        ]
        return len(set(fields))

    assert combinations("scattered") > 1.5 * combinations("lean")


def test_times_rise_but_for_late_events_and_stay_in_the_span() -> None:
    made = [event for event in events(list(simulate(config(late=0.05)))) if event.kind in ("new", "unknown_model")]
    assert all(START <= event.time <= START + timedelta(hours=1) for event in made)
    assert [event.time for event in made] == sorted(event.time for event in made)


def test_a_re_send_repeats_an_earlier_event_byte_for_byte_under_the_same_key() -> None:
    seen: dict[tuple[str, str], bytes] = {}
    repeats = 0
    for record in simulate(config(arrays=0)):
        event = record.events[0]
        identity = (event.tenant, event.id)
        if event.kind == "duplicate":
            assert seen[identity] == record.value
            repeats += 1
        elif event.kind == "conflict":
            assert seen[identity] != record.value
        else:
            assert identity not in seen
            seen[identity] = record.value
        assert record.key == event.tenant.encode()
    assert repeats > 0


def test_every_malformed_event_has_a_reason_of_the_contract_and_no_other_event_has() -> None:
    for event in events(list(simulate(config(malformed=0.1, conflicts=0.01)))):
        assert (event.reason in REASONS) == (event.kind in ("malformed", "conflict")), event


def test_an_array_holds_events_of_one_tenant() -> None:
    made = [record for record in simulate(config(arrays=0.2, malformed=0.02)) if record.value.startswith(b"[{")]
    assert made
    for record in made:
        assert len(msgspec.json.decode(record.value)) == len(record.events)
        assert {event.tenant.encode() for event in record.events} == {record.key}


def test_both_sides_of_a_price_change_are_hit() -> None:
    times = {event.time for event in events(list(simulate(config(price_change_at=CHANGE))))}
    assert {CHANGE, CHANGE - timedelta(milliseconds=1)} <= times


@pytest.mark.parametrize("seed", range(5))
def test_a_price_of_a_model_of_the_runs_own_is_hit_on_both_sides(seed: int) -> None:
    end = START + timedelta(hours=1, microseconds=2999)
    change = PriceChange.in_the_middle("7/x", START, end)
    assert change.at == CHANGE + timedelta(milliseconds=1)
    made = events(list(simulate(config(seed=seed, price_change_at=change.at, changed_model=change.model))))
    own = [event for event in made if event.provider == "simulator"]
    assert {event.model for event in own} == {change.model.model}
    assert 0.05 < len(own) / len(made) < 0.2
    assert {change.at, change.at - timedelta(milliseconds=1)} <= {event.time for event in own}
    rates = change.rates()
    for line in change.lines():
        assert (line.valid_from, line.rate, line.per) in rates[line.provider, line.model, line.unit]
    totals = SimulationTotals(rates)
    for event in own:
        now = 1 if event.time >= change.at else 0
        lines = (Fraction(event.usage[unit] * Fraction(both[now])) * 10**6 for unit, both in CHANGING_RATES.items())
        assert totals.charge(event) == Fraction(sum(round(line) for line in lines), 10**12)


def test_the_topic_is_the_one_asked_for() -> None:
    assert {record.topic for record in simulate(config(topic=BACKFILL, events=20))} == {BACKFILL}


@pytest.mark.parametrize(
    "wrong",
    [
        {"duplicates": 1.5},
        {"duplicates": 0.6, "late": 0.6},
        {"tenants": 0},
        {"events": -1},
        {"start": START + timedelta(days=1)},
        {"start": datetime(2026, 3, 1)},  # noqa: DTZ001
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        config(**wrong)


# ------------------------------------------------------------------ totals

RATES: Rates = {
    ("openai", "gpt-4o", "input_tokens"): [(START - timedelta(days=1), "2.5", MILLION), (CHANGE, "5", MILLION)],
    ("openai", "gpt-4o", "output_tokens"): [(START - timedelta(days=1), "10", MILLION)],
    ("openai", "gpt-4o", "cache_read_tokens"): [(START - timedelta(days=1), "1.25", MILLION)],
    ("odd", "third", "requests"): [(START, "1", 3)],
    ("odd", "tie", "requests"): [(START, "0.0000000000005", 1)],
}


def one(provider: str, model: str, at: datetime, **usage: int) -> SimulatedEvent:
    return SimulatedEvent("new", "t", "s", "id", at, provider, model, usage)


@pytest.mark.parametrize(
    ("event", "amount"),
    [
        (one("openai", "gpt-4o", START, input_tokens=1000, output_tokens=100), Fraction("0.0035")),
        (one("openai", "gpt-4o", CHANGE, input_tokens=1000), Fraction("0.005")),
        (one("openai", "gpt-4o", CHANGE - timedelta(milliseconds=1), input_tokens=1000), Fraction("0.0025")),
        # 400 of the 1000 at the cached rate, each token on one line
        (one("openai", "gpt-4o", START, input_tokens=1000, cache_read_tokens=400), Fraction("0.002")),
        # no rate of its own: the total pays for it, once
        (one("openai", "gpt-4o", START, output_tokens=100, reasoning_tokens=80), Fraction("0.001")),
        (one("openai", "gpt-4o", START, input_tokens=1000, web_searches=1), None),
        (one("openai", "gpt-4o", START, input_tokens=1000, web_searches=0), Fraction("0.0025")),
        (one("openai", "gpt-5o", START, input_tokens=1), None),
        (one("openai", "gpt-4o", START - timedelta(days=2), input_tokens=1), None),
        (one("odd", "third", START, requests=1), Fraction(333_333_333_333, 10**12)),
        (one("odd", "third", START, requests=2), Fraction(666_666_666_667, 10**12)),
        (one("odd", "tie", START, requests=1), Fraction(0)),
        (one("odd", "tie", START, requests=3), Fraction(2, 10**12)),
    ],
)
def test_a_charge_is_exact(event: SimulatedEvent, amount: Fraction | None) -> None:
    assert SimulationTotals(RATES).charge(event) == amount


def test_every_event_is_counted_in_one_place_and_every_split_adds_up() -> None:
    totals = SimulationTotals(RATES)
    for record in simulate(config(events=20_000, malformed=0.01, conflicts=0.01, arrays=0.02, price_change_at=CHANGE)):
        totals.add(record)
    assert totals.sent == 20_000 == totals.accepted + totals.duplicates + totals.rejected.total()
    assert totals.amount > 0
    for split in (totals.by_tenant, totals.by_model, totals.by_hour):
        assert sum(split.values()) == totals.amount
    assert totals.events_by_hour.total() == totals.accepted
    assert {model for model, amount in totals.by_model.items() if amount} == {"gpt-4o"}
    assert len(totals.by_model) == len(MODELS) + 1


# ------------------------------------------------------------------ the demo's trace

END = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def test_the_trace_is_the_published_one() -> None:
    rows = read_trace()
    assert Counter(row.service for row in rows) == {"code": 8_819, "conv": 19_366}
    assert [row.at for row in rows] == sorted(row.at for row in rows)


def test_the_trace_fills_the_day_before_its_end() -> None:
    made = events(list(trace_records(TraceConfig(source="demo/1", end=END))))
    fresh = [event for event in made if event.kind in ("new", "unknown_model")]
    assert len(fresh) == len(read_trace())
    assert (fresh[0].time, fresh[-1].time) == (END - SPAN, END)
    assert {event.tenant for event in fresh} == set(TENANTS)
    assert len({event.time.hour for event in fresh}) == 24
    assert all(abs((id_time_ms(e.id) or 0) - e.time.timestamp() * 1000) < 2 for e in fresh)


def test_a_thinned_trace_still_shows_everything() -> None:
    made = events(list(trace_records(TraceConfig(source="demo/1", end=END, events=2000))))
    kinds = Counter(event.kind for event in made)
    assert kinds["new"] + kinds["unknown_model"] == 2000
    assert kinds["duplicate"] > 5 and kinds["conflict"] == 1 and kinds["malformed"] == 12 and kinds["unknown_model"] > 0
    assert made[0].time == END - SPAN


def test_what_is_not_malformed_in_the_trace_passes_the_public_contract() -> None:
    for wire in wires(list(trace_records(TraceConfig(source="demo/1", end=END, events=1000)))):
        assert not check_line(Line(1, 0, msgspec.json.encode(wire)), derive_ids=False).problem
