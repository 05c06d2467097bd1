"""Migrations on a real server: up, down, up; the sum of them; what goes wrong and is found."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from meterstream.deploy.stack import Addresses
from meterstream.schema.errors import MigrationError, UsageError
from meterstream.sinks.postgres import migrate
from meterstream.sinks.postgres.migrate import Migration

pytestmark = pytest.mark.stack

CATALOG = """
SELECT 'column' AS kind, format('%s.%s', c.oid::regclass, a.attname) AS name,
       format('%s %s %s', format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)) AS text
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'meter'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'relation', c.oid::regclass::text, format('%s %s %s %s %s %s', c.relkind, c.relrowsecurity,
       (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(coalesce(c.relacl, acldefault('r', c.relowner))) a),
       c.reloptions, pg_get_partkeydef(c.oid), obj_description(c.oid))
FROM pg_class c WHERE c.relnamespace = 'meter'::regnamespace
UNION ALL
SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'meter'
UNION ALL
SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'meter'::regnamespace
UNION ALL
SELECT 'function', p.oid::regprocedure::text, format('%s %s', pg_get_functiondef(p.oid),
       (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(coalesce(p.proacl, acldefault('f', p.proowner))) a))
FROM pg_proc p WHERE p.pronamespace = 'meter'::regnamespace
UNION ALL
SELECT 'policy', policyname, format('%s %s %s %s', tablename, roles, cmd, qual)
FROM pg_policies WHERE schemaname = 'meter'
UNION ALL
SELECT 'view', viewname, definition FROM pg_views WHERE schemaname = 'meter'
UNION ALL
SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
ORDER BY 1, 2, 3
"""

REMADE = {
    *(f"meter.shipped_prices.{column}" for column in ("digest", "revision", "prices", "compared_at")),
    *(f"meter.sink_positions.{column}" for column in ("counted_offset", "counted_watermark")),
}
"""What a down file may drop without saying so: the next `up`, `prepare` or flush of a role makes it again."""


@pytest.fixture
def dsn(stack: Addresses, database_name: str) -> str:
    """A database without anything in it."""
    return stack.dsn(database=database_name)


async def catalog(dsn: str) -> list[tuple[str, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(CATALOG)
    finally:
        await connection.close()
    return [tuple(row) for row in rows if "schema_migrations" not in row["name"]]


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_up_down_up_gives_the_same_schema(dsn: str) -> None:
    applied = await migrate.up(dsn)
    assert [m.version for m in applied] == list(range(1, len(applied) + 1))
    first = await catalog(dsn)
    assert any(kind == "relation" and name == "meter.ledger" for kind, name, _ in first)
    assert await migrate.up(dsn) == []
    await migrate.verify(dsn)

    undone = await migrate.down(dsn, to_version=0, drop_data=True)
    assert undone == applied[::-1]
    assert await catalog(dsn) == []
    await migrate.up(dsn)
    assert await catalog(dsn) == first


async def test_each_down_reverses_its_up_and_says_what_it_drops(dsn: str) -> None:
    known = migrate.load()
    silent: set[str] = set()
    for count in range(1, len(known)):
        await migrate.up(dsn, known[:count])
        before = await catalog(dsn)
        await migrate.up(dsn, known[: count + 1])
        columns = stored_columns(await catalog(dsn))
        await migrate.down(dsn, to_version=count, drop_data=True, migrations=known)
        after = await catalog(dsn)
        assert after == before, str(known[count])
        if not known[count].drops_data:
            silent |= columns - stored_columns(after)
    assert silent <= REMADE


def stored_columns(found: list[tuple[str, ...]]) -> set[str]:
    """Of every table: what can hold something."""
    tables = {name for kind, name, text in found if kind == "relation" and text[0] in "rp"}
    return {name for kind, name, _ in found if kind == "column" and name.rpartition(".")[0] in tables}


async def test_leaves_from_before_the_guard_are_guarded_and_let_go_again(dsn: str) -> None:
    known = migrate.load()
    guard = next(m.version for m in known if m.name == "ledger_append_only")
    await migrate.up(dsn, known[: guard - 1])
    leaves = [f"meter.ledger_{year}" for year in (2001, 2002)]
    for year in (2001, 2002):
        await execute(dsn, f"SELECT meter.ensure_partition('ledger', '{year}-02-03', 'year')")
    await migrate.up(dsn, known[:guard])
    for leaf in leaves:
        with pytest.raises(asyncpg.RestrictViolationError):
            await execute(dsn, f"DELETE FROM {leaf}")
    await execute(dsn, f"ALTER TABLE meter.ledger DETACH PARTITION {leaves[0]}")
    await migrate.down(dsn, to_version=guard - 1, migrations=known)
    for leaf in leaves:
        await execute(dsn, f"DELETE FROM {leaf}")


async def test_schema_sql_is_the_sum_of_the_migrations(dsn: str) -> None:
    await migrate.up(dsn)
    by_migrations = await catalog(dsn)
    await migrate.down(dsn, to_version=0, drop_data=True)
    await execute(dsn, "SET ROLE meterstream_owner; " + migrate.sql_folder().joinpath("schema.sql").read_text("utf-8"))
    assert await catalog(dsn) == by_migrations


async def test_down_refuses_to_drop_data_unless_told(dsn: str) -> None:
    await migrate.up(dsn)
    with pytest.raises(UsageError, match="drops data"):
        await migrate.down(dsn, to_version=0)
    await migrate.verify(dsn)


async def test_down_undoes_everything_or_nothing(dsn: str) -> None:
    known = migrate.load()
    await migrate.up(dsn)
    stuck = known[-3].version
    refusing = [Migration(m.version, m.name, m.up, "SELECT 1 / 0" if m.version == stuck else m.down) for m in known]
    with pytest.raises(MigrationError, match="division by zero"):
        await migrate.down(dsn, to_version=stuck - 1, drop_data=True, migrations=refusing)
    await migrate.verify(dsn)


async def test_dry_run_really_runs_and_leaves_nothing(dsn: str) -> None:
    assert await migrate.dry_run(dsn) == migrate.load()
    assert {entry.state for entry in await migrate.status(dsn)} == {"pending"}
    broken = [*migrate.load(), Migration(len(migrate.load()) + 1, "broken", "SELECT 1 / 0", "SELECT")]
    with pytest.raises(MigrationError, match="broken: division by zero"):
        await migrate.dry_run(dsn, broken)


async def test_an_edited_or_unknown_migration_is_found(dsn: str) -> None:
    known = migrate.load()
    await migrate.up(dsn)
    edited = [Migration(m.version, m.name, m.up + "\n-- edited" if m.version == 2 else m.up, m.down) for m in known]
    with pytest.raises(MigrationError, match="0002_partitions is edited"):
        await migrate.verify(dsn, edited)
    with pytest.raises(MigrationError, match="nothing was applied"):
        await migrate.up(dsn, edited)
    with pytest.raises(MigrationError, match="newer release"):
        await migrate.up(dsn, known[:-1])


async def test_a_failing_migration_leaves_nothing(dsn: str) -> None:
    broken = [Migration(1, "broken", "CREATE TABLE meter.half (); SELECT 1 / 0", "SELECT")]
    with pytest.raises(MigrationError, match="division by zero"):
        await migrate.up(dsn, broken)
    assert await catalog(dsn) == []
    assert (await migrate.status(dsn, broken))[0].state == "pending"


async def test_a_step_without_transaction_that_fails_is_dirty_until_settled(dsn: str) -> None:
    table = Migration(1, "table", "CREATE TABLE meter.t (a integer); INSERT INTO meter.t VALUES (1), (1)", "SELECT")
    index = Migration(2, "index", "-- no transaction\nCREATE UNIQUE INDEX CONCURRENTLY t_a ON meter.t (a)", "SELECT")
    with pytest.raises(MigrationError, match="0002_index"):
        await migrate.up(dsn, [table, index])
    with pytest.raises(MigrationError, match="0002_index is dirty"):
        await migrate.up(dsn, [table, index])
    await execute(dsn, "DROP INDEX meter.t_a; DELETE FROM meter.t")
    await migrate.repair(dsn, version=2, is_applied=False)
    with pytest.raises(UsageError, match="not dirty"):
        await migrate.repair(dsn, version=2, is_applied=True)
    assert [m.version for m in await migrate.up(dsn, [table, index])] == [2]
    await migrate.verify(dsn, [table, index])


async def test_runners_at_the_same_time_apply_once(dsn: str) -> None:
    results = await asyncio.gather(*(migrate.up(dsn) for _ in range(4)))
    assert sorted(len(applied) for applied in results) == [0, 0, 0, len(migrate.load())]


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "0002_x.up.sql").write_text("SELECT")
    with pytest.raises(MigrationError, match="beside it"):
        migrate.load(tmp_path)
    (tmp_path / "0002_x.down.sql").write_text("SELECT")
    with pytest.raises(MigrationError, match="without holes"):
        migrate.load(tmp_path)
