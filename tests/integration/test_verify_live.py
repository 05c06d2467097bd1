"""Live windows and budgets against Postgres: equal where they can be compared, and each fault is named.

The priced log is made here, folded by the product's fold, published as the aggregator would, and stored by the
product's sink; each of the three goes as far as the test wants. Each test has a partition of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from click.testing import CliRunner
from msgspec import structs

from meterstream.deploy import topics as broker_topics
from meterstream.deploy.cli.verify import verify as verify_command
from meterstream.deploy.stack import Addresses
from meterstream.deploy.verify import live as verify_live
from meterstream.deploy.verify.live import LiveReport
from meterstream.processors.aggregation.budgets import Rules
from meterstream.processors.aggregation.cut import Keyed, cut
from meterstream.processors.aggregation.duplicates import SeenClaims
from meterstream.processors.aggregation.fold import Partition
from meterstream.schema.aggregate import Window, decode_aggregate, encode_aggregate
from meterstream.schema.budget import Budget
from meterstream.schema.ids import uuid7
from meterstream.schema.money import NO_CURRENCY
from meterstream.schema.pack import Row, decode_pack
from meterstream.schema.position import SourcePartition
from meterstream.schema.settings import Settings
from meterstream.schema.topics import AGGREGATES, PRICED, partition_of, partitions_of
from meterstream.sinks.postgres.verify import snapshot
from tests.background import beside
from tests.integration.sink_log import NOW, Log, Server, pack, row

pytestmark = pytest.mark.stack

HOUR = timedelta(hours=1)
NOON = NOW.replace(hour=12, minute=0, second=0)
NUMBERS = itertools.count()


@dataclass
class World:
    """One partition of the priced log, the aggregator's fold of it, and a sink."""

    number: int
    log: Log
    server: Server
    kafka: str
    producer: AIOKafkaProducer
    fold: Partition
    now: datetime = NOON
    folded: int = 0
    positions: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    budgets: list[Budget] = field(default_factory=list)
    published: list[Keyed] = field(default_factory=list)

    def tenant(self, name: str) -> str:
        """A tenant of this partition."""
        return next(t for n in itertools.count() if partition_of(t := f"{name}{n}") == self.number)

    def event(self, name: str = "acme", **changes: Any) -> dict[str, Any]:
        return {"tenant": self.tenant(name), "occurred_at": self.now, "appended_at": self.now} | changes

    def price(self, *events: dict[str, Any], source: int = 0) -> None:
        """Appends a pack of these to the log."""
        rows: list[Row] = []
        for fields in events:
            position = self.positions[source]
            self.positions[source] += 1
            rows.append(
                row(position, event_id=uuid7(NOW, next(NUMBERS)), **fields)
                if "event_id" not in fields
                else row(position, **fields)
            )
        self.log.append((PRICED, self.number), pack(rows, source=SourcePartition(1, source)))

    async def store(self) -> None:
        await self.log.store(partition=(PRICED, self.number))

    def aggregate(self) -> None:
        """Folds everything of the log that is new."""
        records = self.log.records.get((PRICED, self.number), [])
        for record in records[self.folded :]:
            self.fold.apply(record.offset, decode_pack(record.value))
        self.folded = len(records)

    async def publish(self, *, publishes_all: bool = True) -> list[Keyed]:
        """Sends what is new of the fold; returns it."""
        new = cut(self.fold, publishes_all=publishes_all).aggregates
        self.published += new
        await self.send(*new)
        return new

    async def send(self, *records: Keyed) -> None:
        for key, value in records:
            await self.producer.send(AGGREGATES, value, key=key, partition=self.number)
        await self.producer.flush()

    def live_windows(self, kind: str) -> list[Keyed]:
        """As the fold has them now."""
        return [keyed for keyed in self.published if f"/{kind}/".encode() in keyed.key and keyed.value is not None]

    async def flush(self) -> None:
        self.aggregate()
        await self.publish()

    async def all(self) -> None:
        await self.store()
        await self.flush()

    async def check(self, since: datetime | None = None) -> LiveReport:
        """As the reader."""
        connection = self.server.admin
        await connection.execute("SET ROLE meterstream_reader")
        try:
            async with (
                AIOKafkaConsumer(
                    bootstrap_servers=self.kafka,
                    auto_offset_reset="none",
                    enable_auto_commit=False,
                    fetch_max_wait_ms=10,
                ) as consumer,
                snapshot(connection),
            ):
                return await verify_live.compare(consumer, connection, since, wait_s=0.5)
        finally:
            await connection.execute("RESET ROLE")

    async def use(self, **changes: Any) -> Budget:
        """A budget of `acme`, known to the aggregator and to Postgres."""
        fields = {"tenant": self.tenant("acme"), "name": "all", "amount": "5", "currency": "USD", "period": "day"}
        budget = Budget(**fields | changes)
        self.budgets.append(budget)
        self.fold.use(Rules(self.budgets))
        await self.server.admin.execute(
            "INSERT INTO meter.budgets (tenant, name, version, amount, currency, period, thresholds)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7)",
            budget.tenant, budget.name, budget.version, budget.amount, budget.currency, budget.period,
            list(budget.thresholds),
        )  # fmt: skip
        return budget


_numbers = itertools.count()


@pytest.fixture
async def world(server: Server, stack: Addresses) -> AsyncIterator[World]:
    await broker_topics.apply(Settings(kafka_bootstrap=stack.kafka_bootstrap))
    number = next(_numbers)
    assert number < partitions_of(PRICED), "each test needs a partition that nobody has written to"
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka_bootstrap) as producer:
        yield World(
            number, server.log(), server, stack.kafka_bootstrap, producer, Partition(number, known_sources=(1,))
        )


def is_clean(report: LiveReport) -> bool:
    return (
        report.is_good
        and not report.windows_left_out
        and not report.budgets_left_out
        and not report.behind
        and not report.unwritten
    )


async def test_what_is_live_agrees_to_the_last_digit(world: World) -> None:
    await world.use(model="gpt", thresholds=(50, 100))
    again = world.event(event_id=uuid7(NOW, 10**6))
    world.price(
        world.event(),
        world.event(amount_pico=1, model="other", status="error"),
        world.event(currency="EUR", amount_pico=10**18),
        world.event(currency=NO_CURRENCY, pricing="unpriced", amount_pico=None),
        world.event("globex", occurred_at=NOON - HOUR),
        again,
        again,  # within the horizon: counted once on both sides
        world.event(event_id=again["event_id"], body=7),  # and so is a conflict
    )
    await world.all()
    report = await world.check()
    assert is_clean(report), report
    assert (report.windows.compared, report.budgets.compared, report.budgets_bounded) == (4, 1, 0)
    assert await world.server.count("duplicates") == 1

    # A budget that is made in mid-period, of a project: what came before it was made is not counted in.
    await world.use(name="late", project_id="p", currency="EUR")
    world.now += timedelta(minutes=1)
    late = {"model": "other", "currency": "EUR"}
    world.price(world.event(**late, amount_pico=2 * 10**12), world.event(**late, project_id="q"))
    # Appended before, but its source partition lags: nobody can tell from the ledger whether it was counted.
    world.price(world.event(**late, amount_pico=10**11, appended_at=NOON), source=1)
    await world.all()
    report = await world.check()
    assert is_clean(report), report
    assert (report.budgets.compared, report.budgets_bounded) == (2, 1)
    admin = world.server.admin
    await admin.execute("SET session_replication_role = replica")  # past the guard of the ledger
    for damage, held in (
        ("UPDATE meter.ledger SET amount = 2.2 WHERE amount = 2", "2.2 to 1000002.3"),
        ("UPDATE meter.ledger SET amount = 0.5 WHERE currency = 'EUR'", "0.5 to 1.5"),
    ):
        await admin.execute(damage)
        [difference] = (await world.check()).budgets.differences
        assert difference.detail.startswith(f"spent: live 2.1, ledger {held} EUR")


@pytest.mark.parametrize(
    ("damage", "place", "detail"),
    [
        ("UPDATE meter.rollup_hourly SET amount = amount + 1e-12", "hour", "1.500000000001, Postgres 1.500000000002"),
        ("UPDATE meter.rollup_daily SET errors = 1", "day", "errors: live 0, Postgres 1"),
        ("UPDATE meter.rollup_hourly SET model = 'x'", "hour", "USD openai gpt: events: live 1, Postgres 0"),
        ("INSERT INTO meter.rollup_hourly SELECT hour + interval '1 hour', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, tenant, 'USD',"
         " 'p', 'm', '', '', 0, 0 FROM meter.rollup_hourly", "hour", "the topic has not"),
        ("UPDATE meter.ledger SET amount = 2", "budget all", "spent: live 1.500000000001, ledger 2 USD"),
    ],
)  # fmt: skip
async def test_each_damage_is_named(world: World, damage: str, place: str, detail: str) -> None:
    await world.use()
    world.price(world.event())
    await world.all()
    assert is_clean(await world.check())
    await world.server.admin.execute("SET session_replication_role = replica")  # past the guard of the ledger
    await world.server.admin.execute(damage)
    report = await world.check()
    (difference,) = (*report.windows.differences, *report.budgets.differences)
    assert not report.is_good and difference.place.startswith(place) and world.tenant("acme") in difference.place
    assert detail in difference.detail


async def test_nothing_is_compared_where_the_aggregator_is_behind_or_has_never_been(world: World) -> None:
    world.price(world.event())
    await world.store()
    report = await world.check()
    assert report.is_good and (report.unwritten, report.behind) == ((world.number,), ())
    world.aggregate()
    await world.publish()
    assert is_clean(await world.check())
    world.price(world.event())
    await world.store()
    report = await world.check()
    assert report.is_good and (report.unwritten, report.behind) == ((), (world.number,))
    assert report.windows.compared == 0


async def test_what_has_moved_on_is_counted_and_the_rest_is_compared(world: World) -> None:
    world.price(world.event("a", occurred_at=NOON - HOUR))
    await world.all()
    world.price(world.event("b"))
    await world.store()
    world.price(world.event("b"))
    world.aggregate()
    await world.publish()
    report = await world.check()
    assert report.is_good and report.windows_left_out == {"moved on": 2}
    assert report.windows.compared == 2
    await world.store()
    report = await world.check()
    assert is_clean(report) and report.windows.compared == 4


async def test_while_it_waits_the_aggregator_comes(world: World) -> None:
    world.price(world.event())
    await world.all()
    world.price(world.event())
    await world.store()
    world.aggregate()
    async with beside(lambda _: world.publish()):
        report = await world.check()
    assert is_clean(report) and report.windows.compared == 2


async def test_it_never_disagrees_whatever_has_come_how_far(world: World) -> None:
    """Late events, re-sends, a source that lags, hours and days that end; sink and aggregator at any distance."""
    seed = 11
    print(f"seed {seed}")
    rng = random.Random(seed)
    sent: list[dict[str, Any]] = []
    compared = 0
    await world.use(name="from-the-beginning", period="month")
    for step in range(40):
        if step == 10:
            await world.use(name="late-comer", period="week")
        world.now += timedelta(minutes=rng.choice((0, 1, 20, 50, 50, 400)))
        events = []
        for _ in range(rng.randint(1, 5)):
            age = timedelta(minutes=rng.choice((0, 0, 5, 40, 90, 200, 1600)))
            event = world.event(
                rng.choice(("a", "b", "acme")),
                occurred_at=world.now - age,
                model=rng.choice(("m", "n")),
                amount_pico=rng.randint(0, 10**13),
                event_id=uuid7(NOW, next(NUMBERS)),
            )
            events.append(rng.choice(sent) | {"appended_at": world.now} if sent and rng.random() < 0.2 else event)
        sent += events
        world.price(*events)
        if rng.random() < 0.3:
            before = world.now - timedelta(minutes=rng.choice((30, 90, 300)))
            world.price(world.event("a", occurred_at=before, appended_at=before), source=1)
        if rng.random() < 0.6:
            await world.store()
        if rng.random() < 0.6:
            world.aggregate()
        if rng.random() < 0.8:
            await world.publish(publishes_all=rng.random() < 0.7)
        if step % 4 == 0:
            report = await world.check()
            assert report.is_good, report
            compared += report.windows.compared + report.budgets.compared
    world.price(world.event())
    await world.all()
    report = await world.check()
    assert report.is_good and not report.behind and "moved on" not in report.windows_left_out, report
    assert report.windows.compared and report.budgets.compared and compared > 20


async def test_it_never_disagrees_under_load(world: World) -> None:
    await world.use(period="month")

    packs = itertools.count()
    has_run = asyncio.Event()

    async def load(is_over: asyncio.Event) -> None:
        rng = random.Random(7)
        while not is_over.is_set():
            world.now += timedelta(minutes=rng.choice((0, 0, 1, 30)))
            world.price(*(world.event(name) for name in ("a", "b", "acme")))
            for work in rng.sample((world.store, world.flush), 2):
                await work()
            if next(packs) == 20:
                has_run.set()

    reports: list[LiveReport] = []
    async with beside(load):
        while not has_run.is_set() or len(reports) < 6:
            reports.append(await world.check())
    assert all(report.is_good for report in reports), reports
    assert sum(report.windows.compared + report.windows_left_out.get("moved on", 0) for report in reports) > 0


async def test_events_that_come_when_their_window_is_settled_are_only_in_postgres(world: World) -> None:
    world.price(world.event(occurred_at=NOON - 3 * HOUR, appended_at=NOON - 3 * HOUR))
    world.price(world.event(occurred_at=NOON - 2 * HOUR, appended_at=NOON - 2 * HOUR))
    world.price(world.event())
    world.price(world.event(occurred_at=NOON - 2 * HOUR))  # its hour was settled by its own append time
    await world.all()
    report = await world.check()
    assert is_clean(report), report
    assert (report.windows.compared, report.late_events) == (3, 1)

    # Appended in time, but the rater was late with that source partition.
    world.price(world.event(occurred_at=NOON - 2 * HOUR, appended_at=NOON - 2 * HOUR), source=1)
    await world.all()
    report = await world.check()
    assert report.is_good and report.windows_left_out == {"late": 1}
    assert (report.windows.compared, report.late_events) == (2, 2)

    # Fewer is possible, more is not; nor is as many with another amount.
    for amount in ("9", "1"):
        for key, value in world.live_windows("hour"):
            window = decode_aggregate(value or b"")
            assert isinstance(window, Window)
            if window.settled:
                total = structs.replace(window.totals[0], amount=amount, events=3 if amount == "1" else 1)
                altered = structs.replace(window, totals=(total,), models=())
                await world.send(Keyed(key, encode_aggregate(altered)))
        await world.publish()
        world.price(world.event())
        await world.all()
        report = await world.check()
        assert report.windows.different == 1, (amount, report)


async def test_an_id_that_the_aggregator_has_forgotten_is_named(world: World) -> None:
    await world.use()
    again = world.event(event_id=uuid7(NOW, 10**6 + 1))
    world.price(again)
    await world.all()
    world.fold.claims = SeenClaims()  # as after so many other rows
    world.price(again)
    await world.all()
    report = await world.check()
    assert (report.windows.different, report.budgets.different) == (2, 1)
    for difference in (*report.windows.differences, *report.budgets.differences):
        assert "of its events 1 came again, which Postgres counts once" in difference.detail


async def test_what_a_paused_aggregator_sends_late_is_no_difference(world: World) -> None:
    await world.use(name="old")
    world.price(world.event())
    world.aggregate()
    old = await world.publish()
    await world.server.admin.execute(
        "INSERT INTO meter.budgets (tenant, name, version, amount, currency, period, thresholds, removed)"
        " VALUES ($1, 'old', 2, 1, 'USD', 'day', '{1}', true)",
        world.tenant("acme"),
    )
    world.budgets.clear()
    await world.use(name="new")
    world.price(world.event())
    await world.all()  # with the tombstone of `old`
    world.price(world.event())
    await world.store()
    await world.send(*old)
    world.aggregate()
    await world.publish()
    report = await world.check()
    assert report.is_good and report.budgets_left_out == {"left over": 1}, report
    assert (report.windows.compared, report.budgets.compared) == (2, 1)


async def test_a_window_that_stayed_when_its_successors_were_compacted_is_left_over(world: World) -> None:
    world.price(world.event())
    world.aggregate()
    old = cut(world.fold, publishes_all=True).aggregates
    world.price(world.event())
    world.now += 30 * HOUR
    world.price(world.event())
    await world.store()
    world.aggregate()
    new = cut(world.fold, publishes_all=True).aggregates
    keys = {keyed.key for keyed in old if b"/hour/" in keyed.key}
    await world.send(*(keyed for keyed in old if keyed.key in keys))
    await world.send(*(keyed for keyed in new if keyed.key not in keys))
    report = await world.check()
    assert report.is_good and report.windows_left_out == {"left over": 1}, report
    assert report.windows.compared == 3


async def test_the_command_prints_what_was_compared_and_names_the_place(
    world: World, stack: Addresses, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await world.use()
    world.price(world.event())
    await world.all()
    cluster_id = await broker_topics.cluster_id(Settings(kafka_bootstrap=stack.kafka_bootstrap))
    await world.server.admin.execute("UPDATE meter.sink_positions SET cluster_id = $1", cluster_id)
    name = await world.server.admin.fetchval("SELECT current_database()")
    monkeypatch.setenv("METERSTREAM_HOME", str(tmp_path))
    monkeypatch.setenv("METERSTREAM_POSTGRES_READER_DSN", stack.dsn(database=name))

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(verify_command, arguments, standalone_mode=False)
        assert result.exception is None, result.exception
        return result.return_value, result.output

    code, output = await asyncio.to_thread(run)
    assert code == 0 and "live aggregates: not compared" in output
    monkeypatch.setenv("METERSTREAM_KAFKA_BOOTSTRAP", stack.kafka_bootstrap)
    code, output = await asyncio.to_thread(run)
    assert code == 0, output
    assert "live windows = rollups                2 windows, 0 different" in output
    assert "live budgets = ledger                 1 periods, 0 different" in output
    code, output = await asyncio.to_thread(run, "--no-live")
    assert code == 0 and "live aggregates: not compared" in output
    world.price(world.event())
    await world.store()  # the aggregator has not come as far
    assert (await asyncio.to_thread(run))[0] == 0
    code, output = await asyncio.to_thread(run, "--live")
    assert code == 1 and "--live asks for all of it" in output
    world.aggregate()
    await world.publish()
    assert (await asyncio.to_thread(run, "--live"))[0] == 0
    await world.server.admin.execute("UPDATE meter.rollup_hourly SET events = 7")
    code, output = await asyncio.to_thread(run)
    assert code == 1 and f"hour {NOON:%Y-%m-%dT%H}Z of {world.tenant('acme')}" in output
    code, output = await asyncio.to_thread(run, "--json")
    assert code == 1 and json.loads(output)["live"]["windows"]["different"] == 1
