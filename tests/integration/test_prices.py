"""Prices in a real Postgres and a real catalog topic: appended, corrected, listed, published."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner, Result
from pydantic import SecretStr

from meterstream.deploy import database, stack, tenants, topics
from meterstream.deploy.catalog import Published, price_of
from meterstream.deploy.cli.group import program
from meterstream.deploy.connections import Connection, administrator, resolve
from meterstream.deploy.kafka import client_options
from meterstream.deploy.pricing import compared, listing, prices
from meterstream.deploy.pricing.listing import Filter
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.catalog import PriceCatalog
from meterstream.schema import price_file
from meterstream.schema.catalog import Entry, Head, Price, Tenant, decode_entry, encode_entry
from meterstream.schema.errors import UsageError
from meterstream.schema.moments import parse_moment
from meterstream.schema.money import PICO
from meterstream.schema.price_line import PriceLine
from meterstream.schema.settings import Settings
from meterstream.schema.topics import CATALOG
from tests import topic_log

pytestmark = pytest.mark.stack

JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

Call = Callable[..., Result]

EMPTY = (
    "SET session_replication_role = replica; TRUNCATE meter.prices, meter.price_revisions, meter.shipped_prices;"
    "TRUNCATE meter.tenants CASCADE"
)
"""Another database's beginning. Triggers guard history, so they are off for this."""


@pytest.fixture(scope="module")
async def answers(home: Path) -> list[str]:
    """What `load_shipped` answers before tables, before topics, and then the book is there."""
    settings = resolve(Settings(home=home))
    told: list[str] = []
    for step in (
        None,
        database.prepare(settings, passwords={database.READER_ROLE: stack.password(home, database.READER_ROLE)}),
        topics.apply(settings),
    ):
        if step is not None:
            await step
        try:
            await prices.load_shipped(settings)
        except UsageError as error:
            told.append(str(error))
    return told


@pytest.fixture(scope="module")
async def prepared(home: Path, answers: list[str]) -> Settings:
    """Migrated database, topics made."""
    return resolve(Settings(home=home))


@pytest.fixture
async def settings(prepared: Settings) -> Settings:
    """With an empty price book: the test's own begin."""
    async with administrator(prepared) as connection:
        await connection.execute(EMPTY)
    return prepared


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[Connection]:
    """As administrator."""
    async with administrator(settings) as open_connection:
        yield open_connection


def line(rate: str = "2.5", **changes: object) -> PriceLine:
    """A price, by default from January on."""
    plain = PriceLine(
        provider="acme",
        model="m-1",
        unit="input_tokens",
        rate=rate,
        per=1_000_000,
        currency="USD",
        valid_from=JANUARY,
        source="https://example.test/pricing",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


async def in_topic(settings: Settings) -> dict[bytes, Entry]:
    """The newest entry of each key; what was written later comes last."""
    newest: dict[bytes, bytes] = {}
    for record in await topic_log.read(client_options(settings), CATALOG):
        newest.pop(record.key, None)
        newest[record.key] = record.value
    return {key: decode_entry(value) for key, value in newest.items()}


async def rates(settings: Settings, wanted: Filter | None = None) -> list[str]:
    return [row.rate for row in await listing.list_prices(settings, wanted or Filter())]


def test_what_is_not_prepared_is_said_with_the_fix(answers: list[str]) -> None:
    assert len(answers) == 2
    assert "the database is not prepared" in answers[0] and "meterstream prepare" in answers[0]
    assert answers[1] == (
        "revision 1 is stored, but not published: there is no topic meter.catalog: run `meterstream topics apply`; "
        "once that is mended, `meterstream price load` publishes it"
    )


# Adding.


async def test_one_add_is_one_revision_known_from_that_moment(settings: Settings, connection: Connection) -> None:
    before = await connection.fetchval("SELECT clock_timestamp()")
    added = await prices.add(settings, [line(), line("10", unit="output_tokens")], "first contract")
    after = await connection.fetchval("SELECT clock_timestamp()")

    assert added == prices.Added(revision=1, rows=2)
    revision = await connection.fetchrow("SELECT * FROM meter.price_revisions")
    assert revision is not None
    assert (revision["revision"], revision["reason"]) == (1, "first contract")
    rows = await connection.fetch("SELECT * FROM meter.prices ORDER BY price_id")
    assert [row["price_id"] for row in rows] == [1, 2]
    assert {row["known_from"] for row in rows} == {revision["created_at"]}
    assert before <= revision["created_at"] <= after


async def test_a_rate_comes_back_to_the_last_digit(settings: Settings, connection: Connection) -> None:
    exact = "123456789012.123456789012345678"
    await prices.add(settings, [line(exact)], "exact")
    assert await connection.fetchval("SELECT rate FROM meter.prices") == Decimal(exact)
    assert await rates(settings) == [exact]
    assert (await in_topic(settings))[b"price/1"] == (await listing.list_prices(settings, Filter()))[0]


async def test_the_same_price_again_adds_nothing(settings: Settings) -> None:
    await prices.add(settings, [line("2.5")], "once")
    again = await prices.add(settings, [line("2.50", source="elsewhere")], "twice")
    assert again == prices.Added(revision=1, rows=0)


async def test_a_correction_is_a_new_row_and_both_can_be_seen(settings: Settings) -> None:
    await prices.add(settings, [line("2.5")], "wrong")
    known = (await listing.list_prices(settings, Filter()))[0].known_from
    await prices.add(settings, [line("3")], "right")

    assert await rates(settings) == ["3"]
    assert await rates(settings, Filter(as_known_at=known)) == ["2.5"]
    assert await rates(settings, Filter(as_known_at=known - MICROSECOND)) == []
    assert await rates(settings, Filter(at=JUNE)) == ["3"]
    assert await rates(settings, Filter(at=JUNE, as_known_at=known)) == ["2.5"]


async def test_history_cannot_be_changed(settings: Settings, connection: Connection) -> None:
    await prices.add(settings, [line()], "first")
    for statement in ("UPDATE meter.prices SET rate = 0", "DELETE FROM meter.prices", "TRUNCATE meter.prices"):
        with pytest.raises(asyncpg.PostgresError, match="only ever appended"):
            await connection.execute(statement)


async def test_revisions_made_at_once_are_numbered_in_the_order_of_their_moments(
    settings: Settings, connection: Connection
) -> None:
    added = await asyncio.gather(*[prices.add(settings, [line(model=f"m-{n}")], f"change {n}") for n in range(8)])
    assert sorted(one.revision for one in added) == list(range(1, 9))
    moments = [
        row["created_at"] for row in await connection.fetch("SELECT * FROM meter.price_revisions ORDER BY revision")
    ]
    assert moments == sorted(moments)
    assert await connection.fetchval("SELECT count(DISTINCT price_id) FROM meter.prices") == 8
    entries = await in_topic(settings)
    assert entries[b"head"] == Head(8, moments[-1])


# One currency at a time: what the book would not price is refused at the door.

EUR = {"currency": "EUR"}
OUTPUT = {"unit": "output_tokens"}
T_1 = {"tenant": "t-1"}


def priced(book: Book, tenant: str, moment: datetime) -> str | None:
    rates = book.lookup(tenant, "acme", "m-1", moment)
    return None if rates is None else rates.currency


async def the_book(connection: Connection) -> Book:
    rows = [price_of(row) for row in await connection.fetch("SELECT * FROM meter.prices")]
    return Book(rows, max((row.revision for row in rows), default=0))


@pytest.mark.parametrize(
    ("there", "new", "said"),
    [
        ([line()], [line(**OUTPUT, **EUR)], "input_tokens in USD (revision 1), output_tokens in EUR (new)"),
        ([line(valid_from=JUNE)], [line(**OUTPUT, **EUR)], "from 2026-06-01T00:00:00Z on"),
        ([line()], [line(**OUTPUT, **EUR, valid_from=JUNE)], "from 2026-06-01T00:00:00Z on"),
        ([line(), line("8", **OUTPUT)], [line(**EUR)], "input_tokens in EUR (new)"),
        ([line()], [line(**OUTPUT, **EUR, **T_1)], "for tenant t-1 from"),
        ([line(), line("9", **T_1, **EUR)], [line(**OUTPUT)], "output_tokens in USD (new, for all tenants)"),
        (
            [line(), line("8", **OUTPUT), line("2", **T_1, **EUR), line("7", **T_1, **OUTPUT, **EUR)],
            [line("0", **T_1, **EUR, valid_from=JUNE, withdrawn=True)],
            "for tenant t-1 from 2026-06-01",
        ),
    ],
    ids=[
        "other unit",
        "a row that is still to come",
        "a row in the future",
        "a correction of one unit of two",
        "a tenant's unit beside the global one",
        "a global unit beside a tenant's",
        "a tenant's unit that falls back to the global one",
    ],
)
async def test_a_second_currency_is_refused_with_the_reason_and_the_fix(
    settings: Settings, connection: Connection, there: list[PriceLine], new: list[PriceLine], said: str
) -> None:
    await prices.add(settings, there, "first")
    with pytest.raises(UsageError) as caught:
        await prices.add(settings, new, "second")
    assert str(caught.value).startswith("nothing was added: acme m-1 would have rates in more than one currency")
    assert said in str(caught.value)
    assert "in one file" in str(caught.value)
    assert await connection.fetchval("SELECT max(revision) FROM meter.price_revisions") == 1
    book = await the_book(connection)
    assert all(priced(book, tenant, moment) for tenant in ("t-1", "t-2") for moment in (JUNE,))


@pytest.mark.parametrize(
    ("there", "new", "currencies"),
    [
        ([line(), line("8", **OUTPUT)], [line(**EUR, valid_from=JUNE), line(**OUTPUT, **EUR, valid_from=JUNE)], "EUR"),
        ([line()], [line(**EUR)], "EUR"),
        ([line(), line("8", **OUTPUT)], [line(**T_1, **EUR), line("7", **T_1, **OUTPUT, **EUR)], "EUR"),
        (
            [line(), line("8", **OUTPUT)],
            [line(**EUR, valid_from=JUNE), line("0", **OUTPUT, valid_from=JUNE, withdrawn=True)],
            "EUR",
        ),
        ([line(**EUR, **T_1), line(**EUR, **T_1, **OUTPUT)], [line(), line("8", **OUTPUT)], "EUR"),
    ],
    ids=[
        "all units from a day on",
        "the only unit is corrected",
        "a tenant with all units of its own",
        "the other unit is withdrawn",
        "global rows under a tenant that has them all",
    ],
)
async def test_another_currency_for_all_units_is_taken_and_the_book_prices_it(
    settings: Settings, connection: Connection, there: list[PriceLine], new: list[PriceLine], currencies: str
) -> None:
    await prices.add(settings, there, "first")
    await prices.add(settings, new, "second")
    assert priced(await the_book(connection), "t-1", JUNE) == currencies


async def test_a_mixture_from_before_can_be_mended_but_not_added_to(settings: Settings, connection: Connection) -> None:
    await prices.add(settings, [line(), line("8", **OUTPUT)], "first")
    await connection.execute(
        "INSERT INTO meter.prices SELECT 100, revision, tenant, provider, model, 'characters', 'EUR', rate, per,"
        " valid_from, known_from, false, source, NULL FROM meter.prices WHERE price_id = 1"
    )
    assert priced(await the_book(connection), "t-1", JUNE) is None
    with pytest.raises(UsageError, match="nothing was added"):
        await prices.add(settings, [line(unit="images")], "more of the same")
    await prices.add(settings, [line("0", **OUTPUT, withdrawn=True)], "one of two that stand in the way")
    await prices.add(settings, [line("0", withdrawn=True)], "the other")
    assert priced(await the_book(connection), "t-1", JUNE) == "EUR"


async def test_of_two_currencies_added_at_once_one_is_refused(settings: Settings, connection: Connection) -> None:
    answers = await asyncio.gather(
        prices.add(settings, [line()], "dollars"),
        prices.add(settings, [line(**OUTPUT, **EUR)], "euros"),
        return_exceptions=True,
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["Added", "UsageError"]
    assert priced(await the_book(connection), "t-1", JUNE) is not None


async def test_a_release_leaves_out_what_would_mix_with_a_persons_currency(
    settings: Settings, connection: Connection
) -> None:
    await prices.load_shipped(settings, [line()])
    await prices.add(settings, [line(**EUR, valid_from=JUNE)], "our contract, in euros")
    shipped = [line(), line("8", **OUTPUT), line(model="m-2")]
    for rows in (1, 0):
        added = await prices.load_shipped(settings, shipped)
        assert (added.rows, added.kept) == (rows, 0)
        assert len(added.left_out) == 1 and "output_tokens in USD (new)" in added.left_out[0]
    assert priced(await the_book(connection), "t-1", JUNE) == "EUR"


# Listing.


async def test_a_price_holds_from_its_first_microsecond_until_the_next(settings: Settings) -> None:
    await prices.add(settings, [line("2"), line("1", valid_from=JUNE)], "two")
    assert await rates(settings, Filter(at=JANUARY - MICROSECOND)) == []
    assert await rates(settings, Filter(at=JANUARY)) == ["2"]
    assert await rates(settings, Filter(at=JUNE - MICROSECOND)) == ["2"]
    assert await rates(settings, Filter(at=JUNE)) == ["1"]
    assert await rates(settings) == ["2", "1"]


async def test_a_withdrawn_price_is_listed_but_not_in_force(settings: Settings) -> None:
    await prices.add(settings, [line("2"), line("0", valid_from=JUNE, withdrawn=True)], "gone in June")
    assert await rates(settings, Filter(at=JUNE)) == []
    assert [row.withdrawn for row in await listing.list_prices(settings, Filter())] == [False, True]


async def test_a_tenants_own_price_stands_for_the_global_one_unit_by_unit(settings: Settings) -> None:
    await prices.add(
        settings, [line("2"), line("8", unit="output_tokens"), line("1", tenant="t-1"), line("3", tenant="t-2")], "own"
    )
    assert await rates(settings, Filter(tenant="t-1")) == ["1"]
    assert await rates(settings, Filter(tenant="t-1", at=JUNE)) == ["1", "8"]
    assert await rates(settings, Filter(tenant="t-9", at=JUNE)) == ["2", "8"]
    assert await rates(settings, Filter(at=JUNE)) == ["2", "1", "3", "8"]


async def test_filters_by_provider_and_model(settings: Settings) -> None:
    await prices.add(settings, [line("1"), line("2", model="m-2"), line("3", provider="other")], "three")
    assert await rates(settings, Filter(provider="acme")) == ["1", "2"]
    assert await rates(settings, Filter(provider="acme", model="m-2")) == ["2"]
    assert await rates(settings, Filter(model="m-1")) == ["1", "3"]


async def test_prices_for_a_model_are_those_that_a_call_would_find(settings: Settings) -> None:
    prefix = [line("1", model="m-", match="prefix"), line("2", model="m-", match="prefix", unit="output_tokens")]
    percent = line("0", model="*", match="pattern", tenant="t-1", percent="-10", currency="XXX")
    await prices.add(settings, [*prefix, percent, line("9", model="n")], "wide")
    later = {"model": "m-1", "valid_from": JUNE}
    await prices.add(settings, [line("3", **later), line("4", unit="output_tokens", **later)], "near")

    assert await rates(settings, Filter(for_model="m-1", at=JUNE - MICROSECOND)) == ["0", "1", "2"]
    assert await rates(settings, Filter(for_model="m-1", at=JUNE)) == ["0", "3", "4"]
    assert await rates(settings, Filter(for_model="m-1")) == ["0", "1", "2", "3", "4"]
    assert await rates(settings, Filter(for_model="m-1", tenant="t-1")) == ["0"]
    assert await rates(settings, Filter(for_model="m-1", tenant="t-1", at=JUNE)) == ["0", "3", "4"]
    assert await rates(settings, Filter(for_model="m-1", tenant="t-2", at=JUNE)) == ["3", "4"]
    assert await rates(settings, Filter(for_model="m-", at=JUNE)) == ["0", "1", "2"]


async def test_a_nearer_name_that_says_less_is_refused_with_what_it_lacks(settings: Settings) -> None:
    wide = {"model": "m-", "match": "prefix"}
    output = {"unit": "output_tokens"}
    await prices.add(settings, [line("1", **wide), line("2", **wide, **output)], "wide")
    with pytest.raises(UsageError) as caught:
        await prices.add(settings, [line("3", valid_from=JUNE)], "near")
    assert str(caught.value) == (
        "nothing was added: acme m-1 is priced by the prefix 'm-', and a price of just this name takes the place of "
        "all that from 2026-06-01T00:00:00Z on, also of what it does not say: output_tokens 2 USD / 1,000,000. Give "
        "these too, in one file (`meterstream price add --file`), or `withdrawn` for those that are to end"
    )
    both = [line("3", valid_from=JUNE), line("2", valid_from=JUNE, **output)]
    assert (await prices.add(settings, both, "near")).rows == 2
    assert (await prices.add(settings, [line("4", valid_from=JUNE)], "near")).rows == 1, "it has rows of its own now"


# What is shipped.


async def test_shipped_prices_are_loaded_once(settings: Settings) -> None:
    first = await prices.load_shipped(settings)
    assert first == prices.Added(revision=1, rows=len(price_file.shipped()))
    assert await prices.load_shipped(settings) == prices.Added(revision=1, rows=0)


@dataclass
class Package:
    """The price files of a version, as a test wants them; `read`: how often they were parsed."""

    lines: list[PriceLine]
    digest: str = "one"
    read: int = 0

    def shipped(self) -> tuple[PriceLine, ...]:
        self.read += 1
        return tuple(self.lines)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Package:
    made = Package([line("2"), line("8", **OUTPUT)])
    monkeypatch.setattr(price_file, "shipped", made.shipped)
    monkeypatch.setattr(compared, "files_digest", lambda: made.digest)
    return made


async def test_files_that_the_book_has_are_not_parsed_again(settings: Settings, package: Package) -> None:
    for read, rows in ((1, 2), (1, 0), (1, 0)):
        assert await prices.load_shipped(settings, is_whole=False) == prices.Added(revision=1, rows=rows)
        assert package.read == read
    assert (await prices.load_shipped(settings)).rows == 0
    assert package.read == 2, "asked to: `price load`"

    package.lines, package.digest = [line("3"), line("8", **OUTPUT)], "two"
    assert await prices.load_shipped(settings, is_whole=False) == prices.Added(revision=2, rows=1)
    assert await rates(settings) == ["3", "8"]
    package.lines, package.digest = [line("2"), line("8", **OUTPUT)], "one"
    assert await prices.load_shipped(settings, is_whole=False) == prices.Added(revision=3, rows=1), "back again"


async def test_files_are_compared_again_with_a_book_that_a_person_has_changed(
    settings: Settings, package: Package
) -> None:
    await prices.load_shipped(settings, is_whole=False)
    await prices.add(settings, [line("1.5")], "our contract")
    for kept, read in ((1, 2), (0, 2)):  # compared, then known
        added = await prices.load_shipped(settings, is_whole=False)
        assert added == prices.Added(revision=2, rows=0, kept=kept)
        assert package.read == read
    assert await rates(settings) == ["1.5", "8"]


async def test_a_book_that_has_lost_rows_is_completed(
    settings: Settings, connection: Connection, package: Package
) -> None:
    await prices.load_shipped(settings, is_whole=False)
    await connection.execute("SET session_replication_role = replica; DELETE FROM meter.prices WHERE rate = 8")
    assert (await prices.load_shipped(settings, is_whole=False)).rows == 1
    assert await rates(settings) == ["2", "8"]


async def test_what_a_release_leaves_out_is_said_each_time(settings: Settings, package: Package) -> None:
    await prices.add(settings, [line(**EUR)], "our contract, in euros")
    for rows in (0, 0):
        added = await prices.load_shipped(settings, is_whole=False)
        assert added.rows == rows and len(added.left_out) == 1


async def test_a_release_with_another_rate_adds_only_that_row(settings: Settings) -> None:
    await prices.load_shipped(settings, [line("2"), line("8", unit="output_tokens")])
    again = await prices.load_shipped(settings, [line("3"), line("8", unit="output_tokens")])
    assert again == prices.Added(revision=2, rows=1)
    back = await prices.load_shipped(settings, [line("2"), line("8", unit="output_tokens")])
    assert back == prices.Added(revision=3, rows=1)
    assert await rates(settings) == ["2", "8"]


async def test_a_release_never_takes_back_what_a_person_set(settings: Settings) -> None:
    await prices.load_shipped(settings, [line("2")])
    await prices.add(settings, [line("1.5")], "our contract")
    assert await prices.load_shipped(settings, [line("2")]) == prices.Added(revision=2, rows=0, kept=1)
    assert await prices.load_shipped(settings, [line("3")]) == prices.Added(revision=2, rows=0, kept=1)
    assert await rates(settings) == ["1.5"]


async def test_the_reason_of_a_release_is_not_for_people(settings: Settings) -> None:
    with pytest.raises(UsageError, match="give another reason"):
        await prices.add(settings, [line()], prices.SHIPPED_REASON)


# Publishing.


async def test_the_topic_holds_every_row_and_the_head_comes_last(settings: Settings) -> None:
    await prices.add(settings, [line("2")], "first")
    await tenants.set_privacy(settings, "t-1", True)
    await prices.add(settings, [line("3")], "second")

    assert await prices.publish(settings) == Published(revision=2, prices=2, tenants=1, budgets=0)
    entries = await in_topic(settings)
    assert entries[b"price/1"] != entries[b"price/2"]
    assert {entry.rate for entry in entries.values() if isinstance(entry, Price) and entry.price_id <= 2} == {"2", "3"}
    assert entries[b"tenant/t-1"] == Tenant("t-1", privacy=True)
    key, head = list(entries.items())[-1]
    assert key == b"head" and isinstance(head, Head) and head.revision == 2


async def prices_written(settings: Settings, begin: int) -> int:
    """How many prices the topic has from that offset on."""
    records = await topic_log.read(client_options(settings), CATALOG)
    return sum(record.key.startswith(b"price/") for record in records if record.offset >= begin)


async def end_of(settings: Settings) -> int:
    return sum((await topic_log.ends(client_options(settings), CATALOG)).values())


async def test_prices_that_the_topic_has_are_not_written_again(settings: Settings, connection: Connection) -> None:
    """Every rater would read them again, at each `up` and each change of a tenant."""
    lines = [line("2"), line("8", unit="output_tokens")]
    await prices.load_shipped(settings, lines)
    begin = await end_of(settings)
    await tenants.set_privacy(settings, "t-4", True)
    await prices.load_shipped(settings, lines, is_whole=False)
    assert await prices_written(settings, begin) == 0
    entries = await in_topic(settings)
    assert entries[b"tenant/t-4"] == Tenant("t-4", privacy=True)
    assert list(entries)[-1] == b"head"

    begin = await end_of(settings)
    await prices.load_shipped(settings, lines)
    assert await prices_written(settings, begin) == 2, "asked to"

    begin = await end_of(settings)
    await prices.load_shipped(settings, [line("3"), lines[1]], is_whole=False)
    assert await prices_written(settings, begin) == 3, "the revision is another"


async def test_prices_of_another_database_with_as_many_revisions_are_written(
    settings: Settings, connection: Connection
) -> None:
    lines = [line("2"), line("8", unit="output_tokens")]
    await prices.load_shipped(settings, lines)
    begin = await end_of(settings)
    await connection.execute(EMPTY)
    await prices.load_shipped(settings, [line("5"), lines[1]], is_whole=False)
    assert await prices_written(settings, begin) == 2


async def test_an_end_that_is_no_head_says_nothing_of_prices(settings: Settings) -> None:
    """A publication was cut off, or somebody has written there."""
    lines = [line("2"), line("8", unit="output_tokens")]
    await tenants.set_privacy(settings, "t-5", True)
    await prices.load_shipped(settings, lines)
    for value in encode_entry(Tenant("t-5", privacy=False))[1], b"?", None:
        begin = await end_of(settings)
        async with AIOKafkaProducer(**client_options(settings)) as producer:
            await producer.send_and_wait(CATALOG, value, key=b"tenant/t-5")
        await prices.load_shipped(settings, lines, is_whole=False)
        assert await prices_written(settings, begin) == 2


async def test_what_a_cut_off_publication_left_out_comes_with_the_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker goes away between the commit and the topic; the next change of anything brings both."""
    broken = settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})
    with pytest.raises(UsageError, match="revision 1 is stored, but not published: cannot publish the catalog"):
        await prices.add(broken, [line("7.125")], "lost on the way")
    await tenants.set_privacy(settings, "t-2", False)
    entries = await in_topic(settings)
    assert isinstance(entries[b"price/1"], Price) and entries[b"price/1"].rate == "7.125"
    head = entries[b"head"]
    assert isinstance(head, Head) and head.revision == 1


async def test_two_publications_at_once_leave_the_newest_head(settings: Settings) -> None:
    await prices.add(settings, [line("2")], "first")
    await asyncio.gather(
        prices.publish(settings), prices.add(settings, [line("3")], "second"), prices.publish(settings)
    )
    key, head = list((await in_topic(settings)).items())[-1]
    assert key == b"head" and isinstance(head, Head) and head.revision == 2


async def test_a_stale_entry_in_the_topic_is_written_over(settings: Settings) -> None:
    await tenants.set_privacy(settings, "t-3", True)
    producer = AIOKafkaProducer(**client_options(settings))
    await producer.start()
    key, value = encode_entry(Tenant("t-3", privacy=False))
    await producer.send_and_wait(CATALOG, value, key=key)
    await producer.stop()
    await prices.publish(settings)
    assert (await in_topic(settings))[b"tenant/t-3"] == Tenant("t-3", privacy=True)


async def test_tenants_are_listed(settings: Settings) -> None:
    await tenants.set_privacy(settings, "t-b", True)
    await tenants.set_privacy(settings, "t-a", True)
    await tenants.set_privacy(settings, "t-a", False)
    assert [(row.tenant, row.privacy) for row in await tenants.list_tenants(settings)] == [
        ("t-a", False),
        ("t-b", True),
    ]
    with pytest.raises(UsageError, match="1 to 128 characters"):
        await tenants.set_privacy(settings, "", True)
    with pytest.raises(UsageError, match="remove it"):
        await tenants.set_privacy(settings, "t\x00", True)


async def test_what_only_lists_logs_in_as_the_reader(settings: Settings) -> None:
    await prices.add(settings, [line()], "first")
    await tenants.set_privacy(settings, "t-1", True)
    least = settings.model_copy(update={"postgres_admin_dsn": SecretStr("")})
    assert await rates(least) == ["2.5"]
    assert [row.tenant for row in await tenants.list_tenants(least)] == ["t-1"]


# The command line. Its own event loop: these tests are not coroutines.


@pytest.fixture
def call(settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs `meterstream ...` in this process."""
    monkeypatch.setenv("METERSTREAM_HOME", str(home))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(program, arguments)

    return run


ADD_OPTIONS = {
    "--provider": "acme",
    "--model": "m-1",
    "--unit": "input_tokens",
    "--rate": "2.50",
    "--per": "1000000",
    "--currency": "USD",
    "--valid-from": "2026-01-01",
    "--source": "contract",
}


def add_command(**changed: str) -> list[str]:
    """`price add` with every option, some of them changed."""
    options = {**ADD_OPTIONS, **{f"--{name.replace('_', '-')}": value for name, value in changed.items()}}
    return ["price", "add", *[word for pair in options.items() for word in pair]]


def test_add_then_ls(call: Call) -> None:
    added = call(*add_command())
    assert (added.exit_code, added.output) == (0, "revision 1: 1 price added and published\n")
    assert "nothing new; revision 1" in call(*add_command()).output

    listed = json.loads(call("price", "ls", "--json").output)
    assert [(row["rate"], row["valid_from"], row["tenant"]) for row in listed] == [
        ("2.5", "2026-01-01T00:00:00Z", None)
    ]
    table = call("price", "ls", "--at", "2026-06-01").output
    assert "2.5" in table and "USD / 1,000,000" in table and "2026-01-01" in table
    assert "the first one begins 2026-01-01T00:00:00Z" in call("price", "ls", "--at", "2025-06-01").output
    assert "no price fits" in call("price", "ls", "--at", "2026-06-01", "--provider", "another").output


def test_add_a_file(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "contract.yaml"
    file.write_text(
        "provider: acme\ncurrency: EUR\nper: 1000\nsource: contract 7\ntenant: t-1\nmodels:\n"
        '  - names: [a, b]\n    prices:\n      - valid_from: 2026-01-01\n        rates: {input_tokens: "1"}\n'
    )
    assert "revision 1: 2 prices" in call("price", "add", "--file", str(file)).output
    assert {row["model"] for row in json.loads(call("price", "ls", "--tenant", "t-1", "--json").output)} == {"a", "b"}


def test_a_price_for_some_calls_is_added_listed_and_published(call: Call, settings: Settings) -> None:
    assert "revision 1" in call(*add_command()).output
    some = {"match": "prefix", "service_tier": "batch", "region": "eu", "processing": "sealed", "above": "200000"}
    window = {"time_window": "Mon-Tue 16:30-00:30 Asia/Shanghai", "above_unit": "output_tokens"}
    assert "revision 2: 1 price added" in call(*add_command(**some, **window)).output, "beside the plain one"
    assert "nothing new; revision 2" in call(*add_command(**some, **window)).output

    table = call("price", "ls").output
    assert (
        "prefix, batch, region eu, processing sealed, mon,tue 16:30-00:30 Asia/Shanghai, above 200,000 output_tokens"
        in table
    )
    listed = json.loads(call("price", "ls", "--at", "2026-02-01", "--json").output)
    assert [tuple(map(row.get, ("match", "service_tier", "above", "above_unit"))) for row in listed] == [
        (None, None, None, None),
        ("prefix", "batch", 200_000, "output_tokens"),
    ]
    entries = asyncio.run(in_topic(settings))
    entry = entries[b"price/2"]
    assert isinstance(entry, Price) and (entry.processing, entry.region, entry.above) == ("sealed", "eu", 200_000)


async def test_a_retired_price_ends_on_that_day_and_stays_in_history(
    settings: Settings, connection: Connection
) -> None:
    before = [line(), line("10", unit="output_tokens"), line("1", service_tier="batch"), line("9", tenant="t-1")]
    await prices.add(settings, [*before, line("3", valid_from=JUNE + timedelta(days=9))], "contract")
    wanted = prices.Retirement("acme", "m-1", JUNE, "notice of May")
    retired = await prices.retire(settings, wanted, "m-1 ends")

    assert (retired.added.revision, retired.added.rows) == (2, 3)
    assert [row.rate for row in retired.later] == ["3"]
    assert await connection.fetchval("SELECT count(*) FROM meter.prices WHERE NOT withdrawn") == 5, (
        "nothing was changed"
    )
    book = await the_book(connection)
    for moment, everybody, own in ((JUNE - MICROSECOND, "USD", "USD"), (JUNE, None, "USD")):
        assert (priced(book, "other", moment), priced(book, "t-1", moment)) == (everybody, own)
    with pytest.raises(UsageError, match="nothing to retire: no such price is in force at 2026-06-01T00:00:00Z"):
        await prices.retire(settings, wanted, "again")

    only_batch = prices.Retirement("acme", "m-1", JANUARY, "s", only={"service_tier": "batch"})
    assert (await prices.retire(settings, only_batch, "it never was")).added.rows == 1
    assert priced(await the_book(connection), "other", JANUARY) == "USD", "what is for every call stays"


def test_a_call_by_hand_costs_what_its_place_and_tier_cost(call: Call) -> None:
    added = call(*add_command(model="m-by-hand", rate="2", per="1"), "--region", "eu", "--service-tier", "batch")
    assert added.exit_code == 0, added.output
    call_of = ["--tenant=t", "--provider=acme", "--model=m-by-hand", "--operation=chat", "--usage=input_tokens=3"]
    record = ["record", "--dry-run", *call_of]
    who = ("--user", "u", "--project", "p", "--api-key", "k")
    there = call(*record, "--region", "eu", "--service-tier", "batch", *who)
    assert (there.exit_code, there.output) == (0, "priced: 6 USD, to usage.raw; nothing was sent\n")
    assert call(*record, *who).output.startswith("unpriced, ")


def test_retire_from_the_command_line(call: Call) -> None:
    assert "revision 1" in call(*add_command()).output
    notice = ["price", "retire", "--provider", "acme", "--valid-from", "2026-06-01", "--source", "notice"]
    assert "nothing to retire" in str(call(*notice, "--model", "m-2").exception)
    model = ADD_OPTIONS["--model"]
    assert call(*notice, "--model", model).output == "revision 2: 1 price added and published\n"
    assert [row["rate"] for row in json.loads(call("price", "ls", "--json").output)] == ["2.5", None]
    assert json.loads(call("price", "ls", "--at", "2026-06-01", "--json").output) == []
    assert "withdrawn then, the last one since 2026-06-01" in call("price", "ls", "--at", "2026-07-01").output
    said = call("price", "ls", "--model", model, "--at", "2026-07-01").output
    assert "withdrawn then, the last one since 2026-06-01" in said
    assert len(json.loads(call("price", "ls", "--at", "2026-05-31", "--json").output)) == 1


def test_a_percent_is_a_tenants_and_has_no_rate(call: Call) -> None:
    percent = ["price", "add", "--provider", "acme", "--model", "m-", "--match", "prefix", "--percent", "-12.5"]
    dated = ["--valid-from", "2026-01-01", "--source", "contract 7"]
    assert "add `tenant`" in str(call(*percent, *dated).exception)
    assert "leave out --rate" in str(call(*percent, *dated, "--rate", "1").exception)
    assert "revision 1: 1 price added" in call(*percent, *dated, "--tenant", "t-1").output
    (row,) = json.loads(call("price", "ls", "--json").output)
    assert (row["unit"], row["percent"], row["rate"], row["tenant"]) == ("*", "-12.5", None, "t-1")
    assert "-12.5 %" in call("price", "ls").output


def test_files_are_imported_together_or_not_at_all(call: Call, tmp_path: Path) -> None:
    head = "currency: USD\nper: 1\nsource: s\nmodels: [{names: [m], prices: [{valid_from: 2026-01-01, rates: {"
    files = {"a.yaml": f"provider: a\n{head}pages: '1'}}}}]}}]\n", "b.yaml": f"provider: b\n{head}pages: 2}}}}]}}]\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    both = ["price", "import", *(str(tmp_path / name) for name in files)]
    assert "b.yaml:5: `pages`: 2 is a YAML number" in str(call(*both).exception)
    assert json.loads(call("price", "ls", "--json").output) == []
    (tmp_path / "b.yaml").write_text(files["b.yaml"].replace("2}", "'2'}"))
    assert "revision 1: 2 prices added" in call(*both).output
    assert "nothing new" in call(*both).output
    assert json.loads(call("price", "show", "1", "--json").output)["reason"] == "price import: a.yaml, b.yaml"


def test_which_cost_is_billed_is_a_row_like_any_other(call: Call) -> None:
    bill = ["price", "add", "--bill", "reported", "--provider", "acme", "--valid-from", "2026-01-01"]
    assert "--bill needs --source too" in str(call(*bill).exception)
    assert "leave out --rate" in str(call(*bill, "--source", "contract 7", "--rate", "1").exception)
    assert "revision 1: 1 price added" in call(*bill, "--source", "contract 7").output
    assert "nothing new" in call(*bill, "--source", "contract 7").output
    (row,) = json.loads(call("price", "ls", "--json").output)
    assert (row["unit"], row["bill"], row["rate"], row["tenant"]) == ("reported_cost", "reported", None, None)
    assert "bill the reported cost" in call("price", "ls").output
    assert "bill the reported cost" in call("price", "show", "1").output
    assert "revision 2: 1 price added" in call(*add_command()).output, "rates in any currency may stand beside it"
    ended = ["--valid-from", "2026-06-01", "--source", "notice", "--unit", "reported_cost"]
    assert "revision 3: 1 price added" in call("price", "retire", "--provider", "acme", *ended).output


def test_two_patterns_for_one_model_are_refused_with_the_fix(call: Call, tmp_path: Path) -> None:
    assert "revision 1" in call(*add_command(match="pattern", model="m-*-x")).output
    told = str(call(*add_command(match="pattern", model="m-1-*")).exception)
    assert "'m-*-x' (revision 1) and 'm-1-*' (new) of acme stand for the same models from 2026-01-01T00:00:00Z" in told
    assert "make one narrower" in told
    file = tmp_path / "acme.yaml"
    file.write_text(
        "provider: acme\ncurrency: USD\nper: 1\nsource: s\nmodels:\n  - names: ['m-1-*']\n    match: pattern\n"
        "    prices:\n      - valid_from: 2026-01-01\n        rates: {input_tokens: '1'}\n"
    )
    assert f"'m-*-x' (revision 1) and 'm-1-*' ({file}:10) of acme" in str(
        call("price", "add", "--file", str(file)).exception
    )
    assert "revision 2" in call(*add_command(match="pattern", model="m-1-*y")).output


def test_one_price_is_shown_with_all_that_is_known_of_it(call: Call) -> None:
    call(*add_command(service_tier="batch", reason="the first contract"))
    call(*add_command(service_tier="batch", rate="3"))
    call(*add_command(service_tier="batch", rate="4", valid_from="2026-06-01"))
    call(*add_command(rate="5", valid_from="2026-03-01"))
    shown = json.loads(call("price", "show", "1", "--json").output)
    assert (shown["price_id"], shown["rate"], shown["reason"]) == (1, "2.5", "the first contract")
    assert shown["until"] == "2026-06-01T00:00:00Z", "the price of every call, of March, is another one"
    assert (shown["corrected_by"]["price_id"], shown["corrected_by"]["rate"]) == (2, "3")
    last = json.loads(call("price", "show", "3", "--json").output)
    assert (last["until"], last["corrected_by"]) == (None, None)
    text = call("price", "show", "1").output
    assert "for every tenant, batch" in text and "up to 2026-06-01T00:00:00Z" in text
    assert "corrected by price 2" in text and "revision 1: the first contract" in text
    assert "there is no price 5" in str(call("price", "show", "5").exception)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"match": "pattern", "model": "(a+)+"}, "this is no regular expression"),
        ({"service_tier": "bacth"}, "did you mean batch?"),
        ({"time_window": "noon"}, "is no window of hours"),
        ({"above_unit": "images"}, "needs `above`"),
        ({"rate": "a lot"}, "'a lot' is no rate"),
        ({"currency": "usd"}, "three capital letters"),
        ({"unit": "inputtokens"}, "did you mean input_tokens?"),
        ({"valid_from": "2026-01-01T00:00:00"}, "add Z for UTC"),
        ({"rate": "-1"}, "'-1' is no rate"),
        ({"rate": "NaN"}, "'NaN' is no rate"),
        ({"rate": "1e400"}, "'1e400' is no rate"),
        ({"currency": "QQQ"}, "no currency in use"),
        ({"model": ""}, "--model is empty"),
        ({"model": "m\n1"}, "remove it"),
        ({"model": "m\udcff"}, "unicode"),
        ({"tenant": ""}, "`tenant`"),
        ({"valid_from": "1970-01-01"}, "is it a slip?"),
        ({"valid_from": "2200-01-01T00:00:00Z"}, "is it a slip?"),
        ({"reason": "two\nlines"}, "a reason is one line"),
    ],
)
def test_wrong_input_is_answered_with_the_fix_and_stores_nothing(
    call: Call, changed: dict[str, str], said: str
) -> None:
    told = call(*add_command(**changed))
    assert isinstance(told.exception, UsageError)
    assert said in str(told.exception)
    assert json.loads(call("price", "ls", "--json").output) == []


def test_a_rate_is_for_one_unit_or_more(call: Call) -> None:
    told = call(*add_command(per="0"))
    assert told.exit_code == 2
    assert "'--per': 0 is not in the range x>=1" in told.output
    assert json.loads(call("price", "ls", "--json").output) == []


def test_missing_and_conflicting_options_are_named(call: Call, tmp_path: Path) -> None:
    assert "--rate, --per, --currency, --valid-from, --source" in str(
        call("price", "add", "--provider", "acme", "--unit", "input_tokens").exception
    )
    assert "leave out --provider" in str(call("price", "add", "--file", "x.yaml", "--provider", "acme").exception)
    assert "cannot be read" in str(call("price", "add", "--file", str(tmp_path / "none.yaml")).exception)
    assert call("price", "ls", "--at", "yesterday").exit_code == 2


def test_tenant_commands(call: Call) -> None:
    assert "no tenant has settings" in call("tenant", "ls").output
    assert call("tenant", "set", "t-1", "--privacy", "on").output == "t-1: privacy on, published\n"
    assert [(row["tenant"], row["privacy"]) for row in json.loads(call("tenant", "ls", "--json").output)] == [
        ("t-1", True)
    ]


async def test_the_raters_book_and_the_list_agree_on_every_shipped_price(settings: Settings) -> None:
    await prices.load_shipped(settings)
    catalog = PriceCatalog()
    for entry in (await in_topic(settings)).values():
        if not isinstance(entry, Price) or entry.price_id <= len(price_file.shipped()):  # older tests left more rows
            catalog.apply(decode_entry(encode_entry(entry)[1]))
    book = catalog.book()
    for day in ("2024-09-30", "2024-10-02", "2025-06-10", "2026-11-21", "2027-01-01"):
        moment = parse_moment(f"{day}T12:00:00Z")  # no window of a vendor's hours is open
        listed = await listing.list_prices(settings, Filter(at=moment))
        assert listed
        by_model: dict[tuple[str, str], dict[str, Fraction]] = {}
        for row in listed:
            if row.is_plain:  # a call that says nothing of itself
                by_model.setdefault((row.provider, row.model), {})[row.unit] = Fraction(row.rate) * PICO / row.per
        for (provider, model), expected in by_model.items():
            found = book.lookup("any", provider, model, moment)
            assert found is not None
            rates = {unit: Fraction(rate.numerator, rate.denominator) for unit, rate in found.rates.items()}
            assert rates == expected, (provider, model, day)
