"""What the sink stores of the aggregator's topics: alerts once, the newest state of a budget, and nothing else."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from meterstream.deploy import topics as broker_topics
from meterstream.deploy.stack import Addresses
from meterstream.schema.aggregate import (
    Aggregate,
    BudgetPeriod,
    BudgetState,
    Progress,
    Sums,
    Window,
    budget_key,
    encode_aggregate,
    key_of,
)
from meterstream.schema.alert import Alert, AlertData, Place, alert_id, encode_alert
from meterstream.schema.errors import RecordUnreadable
from meterstream.schema.position import NOTHING_COVERED
from meterstream.schema.settings import Settings
from meterstream.schema.topics import AGGREGATES, ALERTS, PRICED
from meterstream.sinks.postgres import verify
from tests.fault.roles import KILLED, Role, clean_environment
from tests.integration.sink_log import NOW, P0, Log, Server, pack, row
from tests.integration.test_sink_service import eventually

pytestmark = pytest.mark.stack

LIVE = (AGGREGATES, 0)
FIRED = (ALERTS, 0)
MONTH = timedelta(days=30)
START = NOW.replace(minute=0, second=0)


def alert(percent: int = 50, **changes: Any) -> Alert:
    """That the budget `all` of `acme` has reached a level."""
    fields: dict[str, Any] = {
        "rule": "budget", "budget": "all", "version": 1, "tenant": "acme", "currency": "USD", "amount": "100",
        "percent": percent, "threshold": str(percent), "spent": "80.000000000001", "period": "month",
        "time_zone": "Europe/Berlin", "period_start": START, "period_end": START + MONTH, "model": "gpt",
        "place": Place(event_id="e", source="svc", source_id=1, source_partition=3, position=7),
    } | changes  # fmt: skip
    data = AlertData(**fields)
    return Alert(
        id=alert_id(data.tenant, data.budget, data.version, data.period_start, percent),
        time=NOW,
        tenant=data.tenant,
        data=data,
    )


def state(offset: int, spent: str = "1.5", **changes: Any) -> BudgetState:
    """Where the budget `all` of `acme` stands at an offset."""
    fields: dict[str, Any] = {
        "tenant": "acme", "name": "all", "version": 1, "currency": "USD", "amount": "100", "period": "month",
        "time_zone": "UTC", "period_start": START, "period_end": START + MONTH, "spent": spent,
        "remaining": f"{100 - Decimal(spent):f}", "percent": "1.50", "thresholds": (50, 80), "reached": (50,),
        "provisional": False, "counts_since": None, "partition": 0, "offset": offset, "user_id": "u",
        "previous": BudgetPeriod(start=START - MONTH, end=START, spent="0.000000000001"),
    } | changes  # fmt: skip
    return BudgetState(**fields)


def window(offset: int) -> Window:
    total = Sums(currency="USD", events=1, amount="1")
    return Window(
        tenant="acme",
        window="hour",
        start=START,
        end=START + timedelta(hours=1),
        partition=0,
        offset=offset,
        settled=False,
        totals=(total,),
        models=(),
    )


def publish(log: Log, *aggregates: Aggregate) -> None:
    for aggregate in aggregates:
        log.append(LIVE, encode_aggregate(aggregate), key=key_of(aggregate))


async def spent(server: Server) -> dict[str, tuple[int, Decimal | int, int]]:
    rows = await server.admin.fetch("SELECT name, version, spent, priced_offset FROM meter.budget_states ORDER BY 1")
    return {row["name"]: (row["version"], row["spent"], row["priced_offset"]) for row in rows}


async def test_an_alert_is_stored_with_every_field_and_read_through_the_view(server: Server) -> None:
    fired = alert()
    await server.log().store(encode_alert(fired), encode_alert(alert(80, place=None)), partition=FIRED)
    first, second = await server.admin.fetch("SELECT * FROM meter.alerts ORDER BY percent")
    expected = {
        "alert_id": fired.id, "alert_time": NOW, "rule": "budget", "tenant": "acme", "budget": "all", "version": 1,
        "currency": "USD", "amount": Decimal(100), "percent": 50, "threshold": Decimal(50),
        "spent": Decimal("80.000000000001"), "period": "month", "time_zone": "Europe/Berlin", "period_start": START,
        "period_end": START + MONTH, "provisional": False, "project_id": None, "user_id": None, "api_key_id": None,
        "provider": None, "model": "gpt", "event_id": "e", "source": "svc", "source_id": 1, "source_partition": 3,
        "position": 7,
    }  # fmt: skip
    found = dict(first) | {"alert_id": str(first["alert_id"])}
    assert found.pop("stored_at") is not None
    assert found == expected
    assert (second["event_id"], second["position"]) == (None, None)
    assert await server.admin.fetchval("SELECT count(*) FROM meter.budget_alerts WHERE tenant = 'acme'") == 2


async def test_an_alert_that_is_sent_again_counts_once_and_the_first_stays(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    log = server.log()
    await log.store(encode_alert(alert()), encode_alert(alert()), partition=FIRED)
    await log.store(encode_alert(alert()), encode_alert(alert(80)), partition=FIRED)
    assert caplog.records == [] and await server.count("alerts") == 2
    await log.store(encode_alert(alert(spent="99")), partition=FIRED)
    await log.store(encode_alert(alert(100)), encode_alert(alert(100, spent="101")), partition=FIRED)
    assert [record.getMessage().split()[1] for record in caplog.records] == [alert().id, alert(100).id]
    rows = await server.admin.fetch("SELECT spent FROM meter.alerts")
    assert {row["spent"] for row in rows} == {Decimal("80.000000000001")}
    assert log.sink.detail()["meterstream_sink_rows_total"]["alerts"] == 3


async def test_how_far_was_counted_is_stored_and_never_taken_back(server: Server) -> None:
    """Also by what a paused aggregator sends late, and by records that do not say it."""
    log = server.log()
    later = NOW + timedelta(seconds=1)

    async def counted() -> tuple[int | None, datetime | None]:
        (row,) = await server.admin.fetch("SELECT * FROM meter.sink_positions WHERE topic = $1", AGGREGATES)
        return row["counted_offset"], row["counted_watermark"]

    publish(log, window(3))
    await log.store(partition=LIVE)
    assert await counted() == (None, None)
    publish(log, Progress(partition=0, offset=9, watermark=later), Progress(partition=0, offset=7, watermark=NOW))
    await log.store(partition=LIVE)
    for late in (Progress(partition=0, offset=8, watermark=NOW), window(10)):
        assert await counted() == (9, later)
        publish(log, late)
        await log.store(partition=LIVE)
    assert await counted() == (9, later)


async def test_the_state_of_a_budget_is_stored_with_every_field(server: Server) -> None:
    log = server.log()
    await server.admin.execute(
        "INSERT INTO meter.budgets (tenant, name, version, amount, currency, period, thresholds, user_id, removed)"
        " VALUES ('acme', 'all', 1, 100, 'USD', 'month', '{50,80}', 'u', false),"
        " ('acme', 'gone', 1, 1, 'USD', 'day', '{50}', NULL, false),"
        " ('acme', 'gone', 2, 1, 'USD', 'day', '{50}', NULL, true)"
    )
    query = "SELECT * FROM meter.budget_status"
    (before,) = await server.admin.fetch(query)
    assert (before["name"], before["spent"], before["resets_at"]) == ("all", None, None)
    publish(log, state(7))
    await log.store(partition=LIVE)
    (found,) = await server.admin.fetch(query)
    expected = {
        "tenant": "acme", "name": "all", "version": 1, "amount": Decimal(100), "currency": "USD",
        "thresholds": [50, 80], "user_id": "u", "model": None, "spent": Decimal("1.5"),
        "remaining": Decimal("98.5"), "reached": [50],
        "provisional": False, "period_start": START, "resets_at": START + MONTH, "counts_since": None,
        "previous_start": START - MONTH, "previous_end": START, "previous_spent": Decimal("1e-12"),
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert str(found["percent"]) == "1.50"
    await server.admin.execute(
        "INSERT INTO meter.budgets (tenant, name, version, amount, currency, period, thresholds)"
        " VALUES ('acme', 'all', 2, 5, 'EUR', 'month', '{50}')"
    )
    (newer,) = await server.admin.fetch(query)
    assert (newer["amount"], newer["currency"], newer["spent"]) == (5, "EUR", None)  # nothing is counted of it yet


async def test_the_state_with_the_higher_offset_stays(server: Server) -> None:
    log = server.log()
    publish(log, state(10, "1"), state(9, "9"))
    await log.store(partition=LIVE)
    assert await spent(server) == {"all": (1, 1, 10)}
    publish(log, state(8, "8"))  # sent by an aggregator that was paused
    await log.store(partition=LIVE)
    assert await spent(server) == {"all": (1, 1, 10)}
    publish(log, state(10, "2", version=2))  # changed while no event came
    await log.store(partition=LIVE)
    publish(log, state(10, "1"))
    await log.store(partition=LIVE)
    assert await spent(server) == {"all": (2, 2, 10)}
    publish(log, state(11, "3", version=2))
    await log.store(partition=LIVE)
    assert await spent(server) == {"all": (2, 3, 11)}


@pytest.mark.parametrize("seed", range(5))
async def test_what_stays_does_not_depend_on_the_batches(server: Server, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    log = server.log()
    expected: dict[str, tuple[int, Decimal | int, int]] = {}
    for _ in range(12):
        for _ in range(rng.randint(1, 6)):
            name = rng.choice(("a", "b", "c"))
            if rng.random() < 0.25:
                log.append(LIVE, None, key=budget_key("acme/europe", name))
                expected.pop(name, None)
                continue
            sent = state(rng.randint(0, 20), str(rng.randint(0, 9)), name=name, tenant="acme/europe")
            publish(log, sent)
            if name not in expected or sent.offset >= expected[name][2]:
                expected[name] = (1, Decimal(sent.spent), sent.offset)
        await log.store(partition=LIVE)
        assert await spent(server) == expected


async def test_windows_and_progress_are_not_stored_but_the_position_moves(server: Server) -> None:
    log = server.log()
    publish(log, window(3), Progress(partition=0, offset=4, watermark=NOW))
    log.append(LIVE, b"not even JSON", key=b"window/acme/day/2026-01-01T00")
    log.append(LIVE, None, key=b"window/acme/day/2026-01-01T00")
    log.append(LIVE, b"of nobody we know")
    await log.claim(LIVE)
    assert log.sink.take(LIVE, log.records[LIVE]) == 1  # that the batch is stored, however little it holds
    assert await log.sink.flush() == {LIVE: 5}
    assert await server.admin.fetchval("SELECT next_offset FROM meter.sink_positions") == 5
    assert await server.count("budget_states") == 0


@pytest.mark.parametrize(
    ("partition", "key", "value"),
    [
        (FIRED, None, b"{}"),
        (FIRED, None, None),
        (FIRED, None, encode_alert(alert(spent="1e400"))),
        (FIRED, None, encode_alert(msgspec.structs.replace(alert(), id="no uuid"))),
        (FIRED, None, encode_alert(alert(period_end=NOW.replace(tzinfo=None)))),
        (LIVE, b"budget/acme/all", b"{}"),
        (LIVE, b"budget/acme/all", encode_aggregate(state(1, name="other"))),
        (LIVE, b"budget/acme/all", encode_aggregate(window(1))),
        (LIVE, b"budget/all", None),
        (LIVE, b"budget/\xff/all", None),
    ],
)
async def test_a_record_that_cannot_be_read_stops_the_sink(
    server: Server, partition: tuple[str, int], key: bytes | None, value: bytes | None
) -> None:
    log = server.log()
    log.append(partition, value, key=key)
    await log.claim(partition)
    with pytest.raises(RecordUnreadable, match=f"{partition[0]}/{partition[1]} offset 0: "):
        log.take()


async def test_alerts_states_and_events_are_stored_together_or_not_at_all(server: Server) -> None:
    log = server.log()
    await server.admin.execute("ALTER TABLE meter.budget_states ADD CONSTRAINT tests_only CHECK (spent < 5)")
    log.append(P0, pack([row(0)]))
    log.append(FIRED, encode_alert(alert()))
    publish(log, state(1, "9"))
    with pytest.raises(Exception, match="tests_only"):
        await log.store()
    assert [await server.count(table) for table in ("ledger", "alerts", "budget_states")] == [0, 0, 0]
    await server.admin.execute("ALTER TABLE meter.budget_states DROP CONSTRAINT tests_only")
    await log.start_anew()
    await log.store()
    assert [await server.count(table) for table in ("ledger", "alerts", "budget_states")] == [1, 1, 1]
    assert await server.admin.fetchval("SELECT sum(next_offset) FROM meter.sink_positions") == 3


async def test_these_topics_cover_no_event(server: Server) -> None:
    log = server.log()
    log.append(P0, pack([row(0)]))
    log.append(FIRED, encode_alert(alert()))
    await log.store()
    report = await verify.verify(server.admin)
    assert report.is_good and report.checks[2].compared == 1
    assert set((await verify.covered(server.admin)).values()) == {NOTHING_COVERED}  # 15 partitions are unread


async def test_a_sink_that_is_killed_in_the_middle_stores_each_alert_once(
    server: Server, stack: Addresses, tmp_path: Path
) -> None:
    """The real role on the real broker; the log has holes, as compaction leaves them."""
    settings = Settings(kafka_bootstrap=stack.kafka_bootstrap)
    await broker_topics.apply(settings)
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka_bootstrap, transactional_id="holes") as producer:
        for percent in (50, 80, 50, 100, 80):
            async with producer.transaction():  # its end is a record that no consumer sees
                await producer.send(ALERTS, encode_alert(alert(percent)), key=b"acme", partition=0)
                for aggregate in (window(percent), state(percent, str(percent))):
                    await producer.send(AGGREGATES, encode_aggregate(aggregate), key=key_of(aggregate), partition=0)
                await producer.send(PRICED, pack([row(0), row(1)]), partition=0)
    environment = clean_environment() | {
        "METERSTREAM_HOME": str(tmp_path),
        "METERSTREAM_KAFKA_BOOTSTRAP": stack.kafka_bootstrap,
        "METERSTREAM_POSTGRES_INGEST_DSN": server.ingest_dsn,
        "METERSTREAM_INSTANCE": "one",  # its partitions come back at once
        "METERSTREAM_SINK_BATCH_ROWS_MAX": "1",  # several transactions
    }
    role = Role("sink-postgres", env=environment, log=tmp_path / "log", armed=("after_alerts:2", "after_commit:2"))
    await role.start()

    async def is_stored() -> bool:
        rows = await server.admin.fetch(
            "SELECT topic, next_offset FROM meter.sink_positions WHERE partition = 0 AND topic <> 'usage.rejected'"
        )
        # Each transaction leaves one offset to its end; the last of them nobody has to pass.
        return {r["topic"]: r["next_offset"] for r in rows} == {ALERTS: 9, AGGREGATES: 14, PRICED: 9}

    await eventually(is_stored, "all is read")
    await role.stop()
    assert role.exits == [KILLED, KILLED, 0], role.said()
    fired = await server.admin.fetch("SELECT percent FROM meter.alerts ORDER BY 1")
    assert [r["percent"] for r in fired] == [50, 80, 100]
    assert await spent(server) == {"all": (1, 100, 100)}
    assert await server.count("ledger") == 2
