"""`meter.explain_cost`: the same lines as the engine's, for random calls over a random book; tenants' walls."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from meterstream.deploy import tenants
from meterstream.deploy.connections import Connection, resolve
from meterstream.deploy.prepare import prepare
from meterstream.deploy.pricing import prices
from meterstream.deploy.pricing.explain import Books, explain_row
from meterstream.deploy.stack import Addresses
from meterstream.schema import price_file
from meterstream.schema.catalog import CONDITIONS
from meterstream.schema.cloudevents import STRUCTURED_HEADERS
from meterstream.schema.event import EVENT_TYPE
from meterstream.schema.model_match import Pattern
from meterstream.schema.money import to_decimal, to_pico
from meterstream.schema.settings import Settings
from meterstream.schema.time_window import parse_time_window
from meterstream.schema.units import PARENTS
from meterstream.schema.units import UNITS as UNITS_OF_EVENTS
from tests.integration.priced_log import EVERY_ROW, PricedLog

pytestmark = pytest.mark.stack

NOW = datetime.now(UTC).replace(microsecond=0)
CALLS = 1200
TENANTS = ("own", "other")
MODELS = (
    "m",
    "m-2026-01-31",
    "m-20260131",
    "m@2026-01-31",
    "m-2026-13-01",
    "mini",
    "",
    "Ünï",
    "windows",
    "odd-1",
    "odd-z]",
    "o.d",
    "even.7-*+x",
    "none",
    "sure",
)
UNITS = ["input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "seconds"]
HOURS = ("mon-fri 08:00-18:00 Europe/Berlin", "18:00-08:00 Europe/Berlin")
"""They have none in common."""
TIERS = ("", "batch", "priority", "auto", "Batch")


@pytest.fixture(scope="module")
async def settings(home: Path) -> Settings:
    await prepare(Settings(home=home))
    settings = resolve(Settings(home=home))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    log = PricedLog(settings, NOW)
    for turn in range(3):
        lines = price_file.parse(json.dumps(_book(chance)), "book") + [
            price_file.billing(**_billing(chance)) for _ in range(3)
        ]
        # As a release: a person would have to say all that a wider name said before.
        await prices.load_shipped(settings, list({line.key: line for line in lines}.values()))
        await log.rate([(_call(chance, f"{turn}/{n}"), STRUCTURED_HEADERS) for n in range(CALLS // 3)])
    await log.rate([(value, STRUCTURED_HEADERS) for value in _shipped_calls()])
    await log.close()
    return settings


def _book(chance: random.Random) -> dict[str, Any]:
    models: list[dict[str, Any]] = [
        {
            "names": [name],
            "match": match,
            **({"tenant": "own"} if chance.random() < 0.3 else {}),
            "prices": [_block(chance, name) for _ in range(chance.randrange(1, 5))],
        }
        for match, name in (("exact", "m"), ("exact", "m"), ("prefix", "m"), ("prefix", "min"), ("exact", "windows"))
    ]
    models += [
        {"names": [pattern], "match": "pattern", "prices": [_block(chance, "windows") for _ in range(3)]}
        for pattern in ("odd-[0-9a-c]", "?dd-[]a-z][]]", "o[.]*", "even.[7-9][-+]*[*][+][x-z]", "[nw][io]*")
    ]
    models.append({"names": ["[em]*"], "match": "pattern", "tenant": "own", "prices": [_percents(chance)]})
    models.append({"names": ["m"], "tenant": "own", "prices": [_percents(chance) for _ in range(2)]})
    models.append({"names": ["sure"], "prices": [{"valid_from": "2026-01-01", "rates": dict.fromkeys(UNITS, "0.3")}]})
    models.append({"names": [""], "prices": [{**_block(chance, ""), "rates": {"requests": "0.01"}}]})
    said: set[str] = set()
    for model in models:  # a file says each thing once
        name = [model["names"], model.get("match", "exact"), model.get("tenant")]
        blocks = {json.dumps([name, block | {"rates": None}]): block for block in model["prices"]}
        model["prices"] = [block for key, block in blocks.items() if key not in said]
        said |= blocks.keys()
    return {
        "provider": "p",
        "currency": "USD",
        "per": 1000,
        "source": "chance",
        "models": [model for model in models if model["prices"]],
    }


def _block(chance: random.Random, name: str) -> dict[str, Any]:
    block: dict[str, Any] = {"valid_from": (NOW - timedelta(hours=chance.randrange(-5, 40))).isoformat()}
    for condition, values in (
        ("service_tier", ("batch", "priority", "standard")),
        ("region", ("eu",)),
        ("processing", ("fast",)),
        ("above", (10, 1000)),
    ):
        if chance.random() < 0.25:
            block[condition] = chance.choice(values)
    if "above" in block and chance.random() < 0.3:
        block["above_unit"] = "output_tokens"
    if name == "windows" and chance.random() < 0.5:
        block["time_window"] = chance.choice(HOURS)
    block["rates"] = {
        unit: "withdrawn" if chance.random() < 0.1 else _rate(chance)
        for unit in chance.sample(UNITS, chance.randrange(1, 6))
    }
    return block


def _rate(chance: random.Random) -> dict[str, Any]:
    rate = f"{Decimal(chance.randrange(1, 10**9)).scaleb(-chance.randrange(19)):f}"
    return {"rate": rate, "per": chance.choice([1000, 10**6, 3 * 10**6])}


def _billing(chance: random.Random) -> dict[str, Any]:
    """The other provider's reported costs are billed at times, for one tenant or all."""
    return {
        "provider": chance.choice(["p", "q"]),
        "valid_from": (NOW - timedelta(hours=chance.randrange(40))).isoformat(),
        "bill": chance.choice(["reported", "reported", "computed", "withdrawn"]),
        "tenant": chance.choice([None, "own"]),
        "source": "chance",
    }


def _percents(chance: random.Random) -> dict[str, Any]:
    start = (NOW - timedelta(hours=chance.randrange(40))).isoformat()
    percent = chance.choice(["-10", "7.5", "-100", "0.000001"])
    return {
        "valid_from": start,
        **({"percent": percent} if chance.random() < 0.5 else {"rates": {"input_tokens": {"percent": percent}}}),
    }


def _call(chance: random.Random, event_id: str) -> bytes:
    usage: dict[str, Any] = {}
    if chance.random() < 0.9:
        usage["input_tokens"] = chance.choice([0, 1, 10, 11, 1000, 1001, chance.randrange(10**6)])
        left = usage["input_tokens"]
        for part in ("cache_read_tokens", "cache_write_tokens"):
            if chance.random() < 0.5:
                usage[part] = chance.randrange(left + 1)
                left -= usage[part]
    if chance.random() < 0.7:
        usage["output_tokens"] = chance.choice([0, 10, 11, chance.randrange(10**5)])
        if chance.random() < 0.3:
            usage["reasoning_tokens"] = chance.randrange(usage["output_tokens"] + 1)
    if chance.random() < 0.2:
        usage["seconds"] = chance.randrange(10**6) / 1000
    data = {
        "provider": "p",
        "operation": "chat",
        "model": chance.choice(MODELS),
        "usage": usage,
        "service_tier": chance.choice(TIERS),
        "region": chance.choice(["", "eu", "us"]),
        "tags": chance.choice([{}, {"processing": "fast"}, {"processing": "slow"}]),
    }
    if chance.random() < 0.3:
        amount = f"{Decimal(chance.randrange(10**9)).scaleb(-chance.randrange(3, 13)):f}"
        amount = chance.choice([amount, amount, "0"])
        data |= {"reported_amount": amount, "reported_currency": chance.choice(["USD", "EUR", "XXX"])}
        data["provider"] = chance.choice(["p", "q"])
    if chance.random() < 0.03:
        data |= {"usage": {}, "vendor_usage": {"odd": 1}}
    time = NOW - timedelta(seconds=chance.randrange(30 * 3600))
    event = {"specversion": "1.0", "type": EVENT_TYPE, "id": event_id, "source": "s", "time": time, "data": data}
    return msgspec.json.encode({**event, "tenant": chance.choice(TENANTS)})


def _shipped_calls() -> Iterator[bytes]:
    """One for each kind of shipped rate: of what, for which calls, named how, by which provider."""
    kinds = {
        (
            line.provider,
            line.unit,
            line.match,
            line.service_tier,
            bool(line.region),
            line.processing,
            line.time_window,
            line.above > 0,
        ): line
        for line in price_file.shipped()
        if line.unit in UNITS_OF_EVENTS and line.valid_from < NOW and not line.withdrawn
    }
    for number, line in enumerate(kinds.values()):
        usage: dict[str, int] = {}
        unit: str | None = line.unit
        while unit is not None:
            usage[unit] = 1001 + line.above
            unit = PARENTS[unit]
        if line.above:
            usage.setdefault(line.above_unit, line.above + 1)
        hours = parse_time_window(line.time_window) if line.time_window else None
        days = [NOW - timedelta(hours=ago) for ago in range(8 * 24)]
        event = {
            "specversion": "1.0",
            "type": EVENT_TYPE,
            "id": f"shipped/{number}",
            "source": "s",
            "time": next(at for at in days if hours is None or hours.is_open(at)),
            "tenant": "other",
            "data": {
                "provider": line.provider,
                "operation": "chat",
                "model": line.model.replace("[0-9]", "7").replace("*", "") + ("x" if line.match == "prefix" else ""),
                "usage": usage,
                "service_tier": line.service_tier,
                "region": line.region,
                "tags": {"processing": line.processing} if line.processing else {},
            },
        }
        yield msgspec.json.encode(event)


async def test_sql_reads_patterns_and_hours_as_the_engine_does(settings: Settings) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    connection = await asyncpg.connect(settings.postgres_reader_dsn.get_secret_value())
    parts = ["a", "b", ".", "-", "*", "?", "[ab]", "[a-c]", "[]x]", "[*]", "[+-9]", "[a-c-]", "[^]", "[(]", "[[]", "Ü"]
    texts: list[str] = []
    while len(texts) < 400:
        text = "".join(chance.choice(parts) for _ in range(chance.randrange(1, 7)))
        if "**" not in text:
            texts.append(text)
    names = ["".join(chance.choice("aabbc.-*?[]^(+5Üx") for _ in range(chance.randrange(6))) for _ in range(100)]
    found = await connection.fetch(
        "SELECT p, n, n ~ meter.pattern_regex(p) AS fits FROM unnest($1::text[]) p, unnest($2::text[]) n", texts, names
    )
    assert [row for row in found if row["fits"] != Pattern(row["p"]).matches(row["n"])] == []
    assert sum(row["fits"] for row in found) > 100
    zones = ["UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]
    clocks = ["00:00", "00:30", "01:59", "02:30", "08:00", "16:30", "23:59"]
    windows = [
        str(parse_time_window(f"{chance.choice(days)}{chance.choice(clocks)}-{chance.choice(clocks)} {zone}"))
        for zone in zones
        for days in (["", "mon-fri ", "sat,sun ", "sun ", "wed,fri-sun "],) * 12
    ]
    year = datetime(2026, 1, 1, tzinfo=UTC)
    moments = [
        year + timedelta(minutes=30 * chance.randrange(2 * 24 * 365), seconds=-chance.randrange(2)) for _ in range(300)
    ]
    rows = await connection.fetch(
        "SELECT w, t, meter.is_open(w, t) AS is_open FROM unnest($1::text[]) w, unnest($2::timestamptz[]) t",
        windows,
        moments,
    )
    assert [row for row in rows if row["is_open"] != parse_time_window(row["w"]).is_open(row["t"])] == []
    await connection.close()


async def test_the_lines_are_those_of_the_engine(settings: Settings) -> None:
    admin = await asyncpg.connect(settings.postgres_reader_dsn.get_secret_value())
    books = Books(admin)
    seen: Counter[str] = Counter()
    for record in await admin.fetch(EVERY_ROW):
        row = await explain_row(record, books)
        assert row.is_equal, row
        found = await admin.fetch("SELECT * FROM meter.explain_cost($1, $2)", row.event_id, row.occurred_at)
        first = found[0]
        what = f"{row}\n{found}"
        seen[row.pricing] += 1
        if row.event_id.startswith("shipped/"):
            assert row.pricing == "priced", row
            seen["shipped"] += 1
        # A row that counts nothing was sent so, as one request, or with zeros: the ledger does not tell which.
        if (
            record["reported_amount"] is not None
            and row.recomputed is not None
            and "requests" not in row.recomputed.usage
        ):
            (cost,) = await admin.fetch("SELECT * FROM meter.reported_costs WHERE event_id = $1", row.event_id)
            computed = row.recomputed.computed or row.recomputed
            is_reported = computed is not row.recomputed
            billed = "reported" if is_reported else "computed"
            assert cost["billed_cost"] == (None if row.amount_pico is None else billed)
            assert (cost["amount"], cost["reported_amount"]) == (record["amount"], record["reported_amount"])
            amount = None if computed.amount_pico is None else to_decimal(computed.amount_pico)
            assert (cost["computed_amount"], cost["computed_currency"]) == (amount, computed.currency), what
            is_comparable = amount is not None and computed.currency == record["reported_currency"]
            assert cost["difference"] == (cost["reported_amount"] - amount if is_comparable else None)
            seen["reported"] += is_reported
            seen["reported zero"] += is_reported and not record["reported_amount"]
        assert first["is_equal"], what
        assert json.loads(first["call_context"]) == row.context, what
        seen["context"] += len(row.context) == 3
        lines = [] if row.recomputed is None else sorted(row.recomputed.lines, key=lambda line: line.unit)
        assert [(line.unit, line.quantity, line.per, line.amount_pico, line.price.price_id) for line in lines] == [
            (f["unit"], f["quantity"], f["per"], to_pico(f["line_amount"]), f["price_id"])
            for f in found
            if f["unit"] is not None
        ], what
        for line, f in zip(lines, found, strict=False):
            assert line.rate == f["rate"] * (100 + (f["percent"] or 0)) / 100
            conditions = json.loads(f["price_conditions"])
            assert conditions == {
                name: getattr(line.price, name)
                for name in CONDITIONS
                if name != "match" and (name != "above_unit" or line.price.above) and getattr(line.price, name)
            }
            assert (f["price_match"], f["price_model"]) == (line.price.match, line.price.model)
            assert f["percent_price_id"] == (line.percent and line.percent.price_id)
            seen["percent"] += line.percent is not None
            seen[line.price.match] += 1
            seen["hours"] += bool(line.price.time_window)
            assert abs(Decimal(line.rounding.numerator) / line.rounding.denominator - f["rounding"]) < Decimal("1e-20")
    await admin.close()
    assert (
        min(
            seen[kind]
            for kind in (
                "priced",
                "unpriced",
                "unmetered",
                "reported",
                "reported zero",
                "prefix",
                "pattern",
                "hours",
                "percent",
                "context",
                "shipped",
            )
        )
        > 0
    ), seen  # how many of each is chance's
    print(dict(seen))


async def test_the_units_are_those_of_the_contract(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.postgres_reader_dsn.get_secret_value())
    assert {row["unit"]: row["parent"] for row in await connection.fetch("SELECT * FROM meter.units")} == PARENTS
    await connection.close()


async def test_a_tenant_explains_its_own_and_nobody_elses(settings: Settings, stack: Addresses) -> None:
    logins = {tenant: f"explain-{tenant}" for tenant in TENANTS}
    for tenant, login in logins.items():
        await tenants.create_login(settings, tenant=tenant, login=login, password="for-tests")
    admin = await asyncpg.connect(settings.postgres_admin_dsn.get_secret_value())
    database = await admin.fetchval("SELECT current_database()")
    ids = {
        tenant: await admin.fetchval(
            "SELECT event_id FROM meter.ledger WHERE tenant = $1 AND amount > 0 AND model = 'sure'",
            tenant,
        )
        for tenant in TENANTS
    }
    await admin.close()
    for tenant, other in (TENANTS, TENANTS[::-1]):
        connection = await asyncpg.connect(stack.dsn(logins[tenant], "for-tests", database))
        explain = "SELECT * FROM meter.explain_cost($1)"
        mine = await connection.fetch(explain, ids[tenant])
        assert {row["tenant"] for row in mine} == {tenant} and all(row["is_equal"] for row in mine)
        assert await connection.fetch(explain, ids[other]) == []
        assert {row["price_tenant"] for row in mine} <= {None, tenant}
        await connection.close()


async def test_nobody_else_may_call_it(settings: Settings) -> None:
    connection: Connection = await asyncpg.connect(settings.postgres_ingest_dsn.get_secret_value())
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch("SELECT * FROM meter.explain_cost('x')")
    await connection.close()
