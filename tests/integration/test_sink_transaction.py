"""The sink's transaction on a real server: what it stores, what it refuses, and that all of it happens once."""

from __future__ import annotations

import base64
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from meterstream.schema.errors import CoverageGap, Fenced, StopConsuming, UnknownSource
from meterstream.schema.ids import uuid7
from meterstream.schema.money import NO_CURRENCY
from meterstream.schema.pack import PACK_ROWS_MAX
from meterstream.schema.position import SourcePartition, position_of
from meterstream.schema.rejection import encode_rejected, reject
from meterstream.schema.topics import PRICED
from meterstream.sinks.postgres import partitions, verify
from meterstream.sinks.postgres.connection import connect
from meterstream.sinks.postgres.copying import ROWS_A_MESSAGE
from meterstream.sinks.postgres.queries import query
from tests.integration.sink_log import NOW, P0, REFUSED, Server, pack, row

pytestmark = pytest.mark.stack

COUNTED = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


async def test_a_row_is_stored_with_every_field(server: Server) -> None:
    await server.log().store(
        pack(
            [
                row(
                    0,
                    quantities='{"images": 2, "audio_seconds": "1.5"}',
                    attributes='{"endpoint": "/v1/chat", "ttft_ms": 12.5, "retries": 1}',
                    tags='{"team": "a\\u00e9"}',
                    vendor_usage='{"b":1e999999, "a": "\\u0000", "b":2}',
                    reported_amount="0.000000000001",
                    reported_currency="EUR",
                )
            ]
        )
    )
    (stored,) = await server.admin.fetch("SELECT * FROM meter.usage_events")
    expected = {
        "tenant": "acme", "event_id": uuid7(NOW, 0), "source": "svc", "occurred_at": NOW, "appended_at": NOW,
        "provider": "openai", "model": "gpt", "operation": "chat", "project_id": "p", "user_id": "u", "api_key_id": "k",
        "status": "ok", "status_code": 200, "latency_ms": 120, "pricing": "priced", "price_revision": 7,
        "currency": "USD", "input_tokens": 10, "output_tokens": 20, "cache_read_tokens": 3, "cache_write_tokens": 4,
        "reasoning_tokens": 5, "endpoint": "/v1/chat", "retries": 1, "reported_currency": "EUR", "position": 0,
        "source_id": 1, "source_partition": 0, "vendor_usage": '{"b":1e999999, "a": "\\u0000", "b":2}',
    }  # fmt: skip
    assert {name: stored[name] for name in expected} == expected
    assert str(stored["amount"]) == "1.500000000001"
    assert f"{stored['reported_amount']:f}" == "0.000000000001"
    assert str(stored["ttft_ms"]) == "12.5"
    assert json.loads(stored["tags"]) == {"team": "aé"}
    assert json.loads(stored["quantities"]) == {"images": 2, "audio_seconds": "1.5"}


async def test_a_sum_at_the_end_of_its_column_stays_there_and_stops_nobody(server: Server) -> None:
    tokens = dict.fromkeys(COUNTED, 2**62)
    log = server.log()
    for n in range(0, 6, 2):
        await log.store(pack([row(n, **tokens), row(n + 1, tenant="globex")]))
    assert await server.count("ledger") == 6
    sums = ", ".join(COUNTED)
    for rollup in ("rollup_hourly", "rollup_daily"):
        [held] = await server.admin.fetch(f"SELECT {sums} FROM meter.{rollup} WHERE tenant = 'acme'")
        assert set(held) == {2**63 - 1}
    await log.store(pack([row(6, user_id="another", **tokens)]))
    read = await server.admin.fetch("SELECT * FROM meter.spend_by_model ORDER BY tenant")
    assert [(each["input_tokens"], each["events"]) for each in read] == [(2**63 - 1, 4), (30, 3)]
    assert (await verify.verify(server.admin)).is_good


@pytest.mark.parametrize("event_id", [None, "order-17"], ids=["timed", "hashed"])
async def test_a_resent_event_is_a_duplicate_and_another_body_a_conflict(server: Server, event_id: str | None) -> None:
    same = event_id or uuid7(NOW, 99)
    words = dict.fromkeys(("provider", "model", "operation", "project_id", "user_id", "api_key_id"), "a-word")
    words |= dict.fromkeys(("attributes", "tags", "vendor_usage"), '{"a-word": "a-word"}')
    log = server.log()
    await log.store(pack([row(0, event_id=same)]))
    other = row(2, event_id=same, body=2, quantities='{"images": 2, "audio_seconds": "1.5"}', **words)
    await log.store(pack([row(1, event_id=same), other, row(3)]))
    assert (await server.count("ledger"), await server.count("duplicates"), await server.count("rejected")) == (2, 1, 1)
    (conflict,) = await server.admin.fetch("SELECT * FROM meter.rejected")
    assert (conflict["reason"], conflict["position"], conflict["tenant"], conflict["topic"]) == (
        "id_conflict",
        2,
        "acme",
        "usage.raw",
    )
    assert b"a-word" not in conflict["value"], "the tenant may be in privacy mode"
    kept = json.loads(conflict["value"])
    assert (kept["input_tokens"], kept["amount_pico"], kept["currency"]) == (10, 1_500_000_000_001, "USD")
    assert kept["quantities"] == {"images": 2, "audio_seconds": "1.5"}
    (claim,) = await server.admin.fetch(
        "SELECT body FROM meter.claims_timed WHERE key = $1"
        " UNION ALL SELECT body FROM meter.claims_hashed WHERE key = $1",
        UUID(bytes=row(0, event_id=same).claim),
    )
    assert claim["body"] == 1


@pytest.mark.parametrize("table", ["timed", "hashed"])
async def test_a_claim_says_what_it_is_of(server: Server, table: str) -> None:
    """To the microsecond, before 2000 too, with every bit of the body; more of them than one message of COPY takes."""
    edges = {0: (-(1 << 63), datetime(1999, 12, 31, 23, 59, 59, 999_999, UTC)), 1: ((1 << 63) - 1, NOW)}
    rows = []
    for n in range(2 * ROWS_A_MESSAGE + 1):
        body, at = edges.get(n, (n, NOW + timedelta(microseconds=n)))
        event_id = uuid7(NOW, n) if table == "timed" else f"order-{n}"
        rows.append(row(n, event_id=event_id, body=body, occurred_at=at))
    log = server.log()
    for first in range(0, len(rows), PACK_ROWS_MAX):
        log.append(P0, pack(rows[first : first + PACK_ROWS_MAX]))
    await log.store()
    stored = await server.admin.fetch(f"SELECT key, body, occurred_at FROM meter.claims_{table}")
    assert {c["key"].bytes: (c["body"], c["occurred_at"]) for c in stored} == {
        r.claim: (r.body, r.occurred_at) for r in rows
    }


@pytest.mark.parametrize("event_id", [None, "order-17"], ids=["timed", "hashed"])
async def test_of_two_in_one_batch_the_first_position_counts(server: Server, event_id: str | None) -> None:
    same = event_id or uuid7(NOW, 99)
    await server.log().store(
        pack([row(0, event_id=same, body=5), row(1, event_id=same, body=6), row(2, event_id=same, body=5)])
    )
    assert [r["position"] for r in await server.admin.fetch("SELECT position FROM meter.ledger")] == [0]
    assert [r["position"] for r in await server.admin.fetch("SELECT position FROM meter.duplicates")] == [2]
    assert [r["position"] for r in await server.admin.fetch("SELECT position FROM meter.rejected")] == [1]


async def test_tenants_and_sources_do_not_claim_each_others_ids(server: Server) -> None:
    same = uuid7(NOW, 99)
    await server.log().store(
        pack([row(0, event_id=same), row(1, event_id=same, tenant="globex"), row(2, event_id=same, source="other")])
    )
    assert await server.count("ledger") == 3


async def test_an_id_without_time_is_remembered_over_the_change_of_generation(server: Server) -> None:
    log = server.log()
    generation = timedelta(days=45)
    await log.store(pack([row(0, event_id="order-17", appended_at=NOW - generation)]))
    await log.store(pack([row(1, event_id="order-17"), row(2, event_id="order-17", appended_at=NOW - generation)]))
    assert (await server.count("ledger"), await server.count("duplicates")) == (1, 2)


@pytest.mark.parametrize("wrong_first", [True, False], ids=["wrong clock first", "right clock first"])
@pytest.mark.parametrize("event_id", [None, "order-17"], ids=["timed", "hashed"])
async def test_an_id_is_remembered_when_the_brokers_clock_was_years_ahead(
    server: Server, event_id: str | None, wrong_first: bool
) -> None:
    same = event_id or uuid7(NOW, 99)
    years_ahead = NOW + timedelta(days=3000)
    times = (years_ahead, NOW) if wrong_first else (NOW, years_ahead)
    log = server.log()
    for position, appended_at in enumerate(times):
        await log.store(pack([row(position, event_id=same, appended_at=appended_at)]))
    assert (await server.count("ledger"), await server.count("duplicates")) == (1, 1)
    assert (log.sink.warning() is None) == wrong_first, "while it is ahead, and no longer"


async def test_repeats_of_the_rater_are_dropped_by_position(server: Server) -> None:
    log = server.log()
    first = [row(0), row(1), row(2)]
    await log.store(pack(first), pack(first), pack([row(1), row(2), row(3)], lo=1))
    assert (await server.count("ledger"), await server.count("duplicates")) == (4, 0)


async def test_a_new_owner_goes_on_where_the_last_one_was(server: Server) -> None:
    first = server.log()
    await first.store(pack([row(0)]), pack([row(1)]))
    second = server.log(first.records)
    await second.store(pack([row(2)]))
    assert second.offsets == {P0: 3}
    assert await server.count("ledger") == 3
    (stored,) = await server.admin.fetch("SELECT next_offset, epoch, covered FROM meter.sink_positions")
    assert (stored["next_offset"], stored["epoch"], json.loads(stored["covered"])) == (3, 2, {"1/0": 2})


async def test_a_batch_that_was_committed_without_our_knowing_is_not_stored_again(server: Server) -> None:
    log = server.log()
    log.append(P0, pack([row(0), row(1)]))
    await log.claim()
    log.take()
    before_flush = dict(log.sink._owned)
    await log.sink.flush()
    stored = await server.dump()
    log.sink._owned = before_flush  # as if the reply of COMMIT had been lost
    log.sink.take(P0, log.records[P0])
    with pytest.raises(Fenced):
        await log.sink.flush()
    await log.sink.reset()
    await log.claim()
    assert log.offsets == {P0: 1}
    assert await server.dump() == stored


async def test_a_zombie_is_fenced_and_leaves_nothing(server: Server) -> None:
    zombie = server.log()
    zombie.append(P0, pack([row(0)]))
    zombie.append((PRICED, 1), pack([row(0, tenant="globex")]))
    await zombie.claim()
    zombie.take()
    successor = server.log(zombie.records)
    await successor.claim((PRICED, 1))
    with pytest.raises(Fenced, match=r"usage.priced/1"):
        await zombie.sink.flush()
    assert await server.count("ledger") == 0
    successor.take()
    await successor.sink.flush()
    assert await server.count("ledger") == 1


async def test_a_gap_stops_and_stores_nothing(server: Server) -> None:
    log = server.log()
    await log.store(pack([row(0)]))
    with pytest.raises(CoverageGap, match=r"offset 0 index 0.*offset 0 index 2"):
        await log.store(pack([row(2)]))
    assert await server.count("ledger") == 1


async def test_coverage_moves_on_without_rows_and_shows_gaps(server: Server) -> None:
    log = server.log()
    await log.store(pack([row(0)]))
    log.cover(P0, 1, position_of(9) - 1)
    await log.store(pack([row(position_of(9))]))
    assert await server.count("ledger") == 2
    log.cover(P0, position_of(11), position_of(12))
    with pytest.raises(CoverageGap):
        await log.store()
    assert (await server.admin.fetchval("SELECT next_offset FROM meter.sink_positions")) == 3


@pytest.mark.parametrize("record", ["pack", "coverage", "rejected"])
async def test_an_unknown_source_stops(server: Server, record: str) -> None:
    log = server.log()
    stranger = SourcePartition(77, 0)
    if record == "pack":
        log.append(P0, pack([row(0)], source=stranger))
    elif record == "coverage":
        log.cover(P0, 0, 5, stranger)
    else:
        log.append(REFUSED, rejected_record(0, source_id=77))
    await log.claim()
    log.take()
    with pytest.raises(UnknownSource):
        await log.sink.flush()


async def test_another_cluster_stops(server: Server) -> None:
    await server.log().store(pack([row(0)]))
    with pytest.raises(StopConsuming, match=r"cluster c1.*cluster c2"):
        await server.log({P0: []}, cluster_id="c2").claim()
    assert await server.admin.fetchval("SELECT epoch FROM meter.sink_positions") == 1


async def test_missing_leaves_are_made(server: Server) -> None:
    old = datetime(2019, 7, 1, tzinfo=UTC)
    long_ago = NOW - timedelta(days=400)
    log = server.log()
    log.append(REFUSED, rejected_record(0, appended_at=long_ago))
    await log.store(
        pack(
            [
                row(0, occurred_at=old, appended_at=long_ago, event_id=uuid7(long_ago, 1)),
                row(1, occurred_at=old, appended_at=long_ago, event_id="a"),
                row(2, occurred_at=old, appended_at=long_ago, event_id="a"),
            ]
        )
    )
    await log.claim()
    log.take()
    await log.sink.flush()
    assert (await server.count("ledger"), await server.count("duplicates"), await server.count("rejected")) == (2, 1, 1)
    assert await server.count("rollup_daily") == 1


async def test_a_value_that_the_database_refuses_stores_nothing(server: Server) -> None:
    log = server.log()
    await log.store(pack([row(0)]))
    before = await server.dump()
    with pytest.raises(asyncpg.CheckViolationError, match="ledger_amount_check"):
        await log.store(pack([row(1), row(2, amount_pico=None)]))
    assert await server.dump() == before


def rejected_record(position: int, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "reason": "malformed_json",
        "detail": "no",
        "topic": "usage.raw",
        "source_id": 1,
        "partition": 0,
        "position": position,
        "appended_at": NOW,
        "value": b"\x00\xff{",
        "key": b"acme",
        "headers": (("h", b"\x00v"),),
    } | changes
    return encode_rejected(reject(**fields))


async def test_rejected_records_are_kept_once(server: Server) -> None:
    log = server.log()
    await log.store(rejected_record(0), rejected_record(3), rejected_record(3), partition=REFUSED)
    await log.store(rejected_record(0), partition=REFUSED)
    rows = await server.admin.fetch("SELECT * FROM meter.rejected ORDER BY position")
    assert [r["position"] for r in rows] == [0, 3]
    assert (rows[0]["value"], rows[0]["key"], rows[0]["value_length"]) == (b"\x00\xff{", b"acme", 3)
    assert json.loads(rows[0]["headers"]) == [["h", base64.b64encode(b"\x00v").decode()]]
    log.cover(REFUSED, 0, 10)
    await log.store(rejected_record(4), rejected_record(11), partition=REFUSED)
    assert [r["position"] for r in await server.admin.fetch("SELECT position FROM meter.rejected ORDER BY 1")] == [
        0,
        3,
        11,
    ]


async def test_rollups_are_the_sums_of_the_ledger(server: Server) -> None:
    pick = random.Random(7)
    log = server.log()
    position = 0
    for _ in range(6):
        rows = []
        for _ in range(200):
            unpriced = pick.random() < 0.1
            rows.append(
                row(
                    position,
                    tenant=pick.choice(["a", "b"]),
                    occurred_at=NOW - timedelta(minutes=pick.randrange(3000)),
                    event_id=pick.choice([uuid7(NOW, pick.randrange(800)), f"id-{pick.randrange(800)}"]),
                    model=pick.choice(["m1", "m2", ""]),
                    user_id=pick.choice(["", "u1", "u2"]),
                    status=pick.choice(["ok", "error", "cancelled"]),
                    latency_ms=pick.choice([None, 0, 17]),
                    pricing=pick.choice(["unpriced", "unmetered"]) if unpriced else "priced",
                    currency=NO_CURRENCY if unpriced else pick.choice(["USD", "EUR"]),
                    amount_pico=None if unpriced else pick.choice([0, 1, 10**18, pick.randrange(10**15)]),
                    input_tokens=pick.randrange(10**6),
                )
            )
            position += 1
        chosen = pick.randrange(2)
        log.append((PRICED, chosen), pack(rows))
        log.cover((PRICED, 1 - chosen), rows[0].position, rows[-1].position)
        if not log.offsets:
            await log.claim((PRICED, 0), (PRICED, 1))
        log.take()
        await log.sink.flush()
    assert await server.count("duplicates") > 50
    for table, period, extra in (
        ("rollup_hourly", "date_trunc('hour', occurred_at, 'UTC')", ""),
        ("rollup_daily", "(occurred_at AT TIME ZONE 'UTC')::date", ", user_id, api_key_id"),
    ):
        bucket = "hour" if table == "rollup_hourly" else "day"
        measures = (
            "events, errors, unpriced_events, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,"
            " reasoning_tokens, latency_ms_sum, latency_events, amount"
        )
        keys = f"tenant, {bucket}, currency, provider, model, operation, project_id{extra}"
        summed = f"""
            SELECT tenant, {period} AS {bucket}, currency, provider, model, operation, project_id{extra},
                count(*), count(*) FILTER (WHERE status <> 'ok'), count(*) FILTER (WHERE amount IS NULL),
                sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(cache_write_tokens),
                sum(reasoning_tokens), coalesce(sum(latency_ms), 0), count(latency_ms), coalesce(sum(amount), 0)
            FROM meter.ledger GROUP BY {keys}
        """
        stored = await server.admin.fetch(f"SELECT {keys}, {measures} FROM meter.{table} ORDER BY {keys}")
        expected = await server.admin.fetch(f"{summed} ORDER BY {keys}")
        assert [tuple(r) for r in stored] == [tuple(r) for r in expected]
        assert len(stored) > 50 if table == "rollup_hourly" else stored


async def test_the_order_of_batches_does_not_matter(server: Server) -> None:
    """One batch of everything stores what many small ones store."""
    packs = [pack([row(n, event_id=f"id-{n % 7}"), row(n + 1)], lo=n, hi=n + 1) for n in range(0, 40, 2)]
    await server.log().store(*packs)
    at_once = await server.dump()
    await server.admin.execute("SET session_replication_role = replica")  # past the guard of the ledger
    await server.admin.execute(
        "TRUNCATE meter.ledger, meter.claims_timed, meter.claims_hashed, meter.duplicates, meter.rejected,"
        " meter.rollup_hourly, meter.rollup_daily, meter.sink_positions"
    )
    log = server.log()
    for value in packs:
        await log.store(value)
    assert await server.dump() == at_once


@pytest.mark.parametrize("is_taken_for_empty", [False, True])
@pytest.mark.parametrize("table", ["timed", "hashed"])
async def test_claims_are_looked_up_by_index_without_any_statistics(
    server: Server, table: str, is_taken_for_empty: bool
) -> None:
    """A leaf that autovacuum has not seen, or only before its first commit, must not make a batch read all of it."""
    now_ms = int(NOW.timestamp() * 1000)
    prefix = f"{now_ms:012x}" if table == "timed" else "f" * 12
    generation = partitions.generation_of(NOW)
    await server.admin.execute(
        f"INSERT INTO meter.claims_{table} SELECT ($1 || lpad(to_hex(n), 20, '0'))::uuid, 1, now()"
        + ("" if table == "timed" else f", {generation}")
        + " FROM generate_series(1, 20000) n",
        prefix,
    )
    if is_taken_for_empty:
        await server.admin.execute(
            f"UPDATE pg_class SET relpages = 100, reltuples = 0 WHERE relname LIKE 'claims_{table}_%' AND relkind = 'r'"
        )
    keys = [bytes.fromhex(prefix) + n.to_bytes(10, "big") for n in range(10_000, 12_000)]
    bounds = (keys[0], keys[-1]) if table == "timed" else ()
    connection = await connect(server.ingest_dsn)
    plan = "\n".join(
        row[0] for row in await connection.fetch(f"EXPLAIN {query(f'find_claims_{table}')}", keys, *bounds)
    )
    found = await connection.fetch(query(f"find_claims_{table}"), keys, *bounds)
    await connection.close()
    plan = plan[plan.index("claims_timed" if table == "timed" else "unnest") :]  # after the list of generations
    assert len(found) == len(keys)
    assert "Index" in plan and ("key = ANY" if table == "timed" else "key = k.key") in plan
    for whole in ("Seq Scan on claims", "Sort", "Hash", "Merge"):
        assert whole not in plan, plan
