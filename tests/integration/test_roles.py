"""What each role must not do, tried one by one; and that a tenant sees its own rows by whatever way it looks."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import pytest
from pydantic import SecretStr

from meterstream.deploy import database, tenants
from meterstream.deploy.stack import Addresses
from meterstream.schema.errors import UsageError
from meterstream.schema.settings import Settings
from meterstream.sinks.postgres import migrate

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.stack

PASSWORDS = {database.INGEST_ROLE: "ingest'; DROP ROLE x; --", database.READER_ROLE: 'reader "%I" \\'}
TENANTS = ("acme", "globex")
VIEWS = (
    *("usage_events", "usage_hourly", "usage_daily", "spend_by_model", "reported_costs", "unmetered"),
    *("current_budgets", "budget_status", "budget_alerts"),
)
LIVE = ("budgets", "budget_states", "alerts")


@dataclass
class Server:
    """A prepared database with rows of two tenants, and how to log in."""

    settings: Settings
    addresses: Addresses
    name: str
    logins: dict[str, str]

    @asynccontextmanager
    async def session(self, user: str | None = None) -> AsyncIterator[Connection]:
        password = PASSWORDS.get(user or "") or self.logins.get(user or "")
        connection = await asyncpg.connect(self.addresses.dsn(user, password, self.name))
        try:
            yield connection
        finally:
            await connection.close()


@pytest.fixture(scope="module")
async def server(stack: Addresses) -> Server:
    name = f"roles_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(stack.dsn())
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    settings = Settings(
        postgres_admin_dsn=SecretStr(stack.dsn(database=name)),
        postgres_reader_dsn=SecretStr(stack.dsn(database.READER_ROLE, PASSWORDS[database.READER_ROLE], name)),
    )
    await database.prepare(settings, passwords=PASSWORDS)
    logins = {}
    for tenant in TENANTS:
        login = f'{tenant}-"{secrets.token_hex(3)}'
        logins[login] = secrets.token_urlsafe(12)
        await tenants.create_login(settings, tenant=tenant, login=login, password=logins[login])
    server = Server(settings, stack, name, logins)
    async with server.session() as connection:
        await _fill(connection)
    return server


async def _fill(connection: Connection) -> None:
    for tenant in TENANTS:
        await connection.execute(
            "INSERT INTO meter.ledger SELECT now(), now(), 1, 1, 1, 0, 0, 0, 0, NULL, 1, 1, NULL, $1, 'e', 's',"
            " 'openai', 'm', 'chat', '', '', '', 'ok', 'priced', 'USD', 1, NULL, NULL, NULL, NULL, 1, 'USD'",
            tenant,
        )
        await connection.execute(
            "INSERT INTO meter.ledger SELECT now(), now(), 2, 1, 1, 0, 0, 0, 0, NULL, 1, 1, NULL, $1, 'f', 's',"
            " 'openai', 'm', 'chat', '', '', '', 'ok', 'unmetered', 'XXX', NULL, NULL, NULL, NULL, '{}', NULL, NULL",
            tenant,
        )
        await connection.execute(
            "INSERT INTO meter.rollup_hourly SELECT date_trunc('hour', now()), 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, $1, 'USD',"
            " 'openai', 'm', 'chat', '', 1, 0",
            tenant,
        )
        await connection.execute(
            "INSERT INTO meter.rollup_daily SELECT (now() AT TIME ZONE 'UTC')::date, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, $1,"
            " 'USD', 'openai', 'm', 'chat', '', '', '', 1, 0",
            tenant,
        )
        await connection.execute("INSERT INTO meter.duplicates SELECT now(), 1, 0, 1, $1, 'e', 's'", tenant)
        await connection.execute(
            "INSERT INTO meter.adjustments SELECT gen_random_uuid(), 'void', $1, 'e', 's', 1, 0, 1, now(), now(),"
            " 'USD', -1, -1, 1, 'test', 'openai', 'm', 'chat', '', '', ''",
            tenant,
        )
        await connection.execute(
            "INSERT INTO meter.rejected SELECT 1, 0, $2, now(), 'malformed_json', '', 'usage.raw', $1, NULL, '', 0, '',"
            " NULL, NULL",
            tenant,
            TENANTS.index(tenant),
        )
        await connection.execute(
            "INSERT INTO meter.budgets (tenant, name, version, amount, currency, period, thresholds)"
            " VALUES ($1, 'all', 1, 100, 'USD', 'month', '{50}')",
            tenant,
        )
        await connection.execute(
            "INSERT INTO meter.budget_states SELECT $1, 'all', 1, 'USD', 100, 'month', 'UTC', now(), now(), 60, 40, 60,"
            " '{50}', '{50}', false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 1",
            tenant,
        )
        await connection.execute(
            "INSERT INTO meter.alerts SELECT gen_random_uuid(), now(), now(), 'budget', $1, 'all', 1, 'USD', 100, 50,"
            " 50, 60, 'month', 'UTC', now(), now(), false",
            tenant,
        )
    await connection.execute("INSERT INTO meter.price_revisions VALUES (1, now(), 'test')")
    await connection.execute(
        "INSERT INTO meter.prices SELECT n, 1, t, 'openai', 'm', 'input_tokens', 'USD', 1, 1, now(), now(), false, 'x',"
        " NULL FROM (VALUES (1, NULL), (2, 'acme'), (3, 'globex')) AS p (n, t)"
    )


def login_of(server: Server, tenant: str) -> str:
    return next(login for login in server.logins if login.startswith(tenant))


@pytest.mark.parametrize(
    "source",
    ["ledger", "adjustments", "duplicates", "rollup_hourly", "rollup_daily", "tenants", *LIVE, *VIEWS],
)
@pytest.mark.parametrize("tenant", TENANTS)
async def test_a_tenant_sees_its_own_rows_only(server: Server, tenant: str, source: str) -> None:
    async with server.session() as admin:
        assert {row["tenant"] for row in await admin.fetch(f"SELECT tenant FROM meter.{source}")} == set(TENANTS)
    async with server.session(login_of(server, tenant)) as connection:
        assert {row["tenant"] for row in await connection.fetch(f"SELECT tenant FROM meter.{source}")} == {tenant}
        other = next(name for name in TENANTS if name != tenant)
        await connection.execute(f"SET meter.tenant = '{other}'; SET row_security = on")
        for statement in (
            "SELECT set_config('role', $1, false)",
            "SELECT set_config('session_authorization', $1, false)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement, login_of(server, other))
        assert await connection.fetchval(f"SELECT count(*) FROM meter.{source} WHERE tenant = $1", other) == 0


async def test_a_tenant_sees_list_prices_and_its_own(server: Server) -> None:
    async with server.session(login_of(server, "acme")) as connection:
        assert [row["price_id"] for row in await connection.fetch("SELECT price_id FROM meter.prices ORDER BY 1")] == [
            1,
            2,
        ]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT FROM meter.rejected",
        "SELECT FROM meter.claims_timed",
        "SELECT FROM meter.sink_positions",
        "SELECT FROM meter.tenant_logins",
        "SELECT FROM meter.price_revisions",
        "INSERT INTO meter.tenant_logins VALUES (session_user, 'globex')",
        "INSERT INTO meter.ledger SELECT * FROM meter.ledger",
        "DELETE FROM meter.ledger",
        "UPDATE meter.rollup_daily SET amount = 0",
        "INSERT INTO meter.budgets SELECT * FROM meter.budgets",
        "DELETE FROM meter.budget_states",
        "INSERT INTO meter.alerts SELECT * FROM meter.alerts",
        "SELECT meter.ensure_partition('ledger', now())",
        "SELECT meter.drop_expired(now())",
        "CREATE TABLE meter.t ()",
        "CREATE TABLE public.t ()",
        "CREATE TEMP TABLE t ()",
        "SET ROLE meterstream_owner",
        "SET ROLE meterstream_ingest",
        "SET ROLE meterstream_reader",
        "SELECT pg_advisory_lock(hashtext('meter.ledger'))",
        "SELECT pg_advisory_lock(1, 2)",
        "SELECT pg_advisory_lock_shared(1)",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_advisory_xact_lock_shared(1, 2)",
        "SELECT pg_try_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1)",
        "SELECT pg_try_advisory_xact_lock(1, 2)",
        "SELECT pg_try_advisory_xact_lock_shared(1)",
        "SELECT lo_creat(-1)",
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT lo_put(1, 0, 'x')",
        "SELECT lo_open(1, 131072)",
        "SELECT lowrite(0, 'x')",
        "SELECT lo_import('/etc/hostname')",
    ],
)
async def test_a_tenant_is_refused(server: Server, statement: str) -> None:
    async with server.session(login_of(server, "acme")) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_leaves_are_closed_even_after_a_careless_grant(server: Server) -> None:
    async with server.session() as admin:
        leaves = [row["leaf"] for row in await admin.fetch("SELECT leaf FROM meter.leaves WHERE parent !~ 'claims'")]
        full = [leaf for leaf in leaves if await admin.fetchval(f"SELECT count(*) FROM meter.{leaf}")]
    assert len(full) == 5
    async with server.session(login_of(server, "acme")) as connection:
        for leaf in leaves:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"SELECT FROM meter.{leaf}")
    async with server.session() as admin:
        for leaf in full:
            await admin.execute(f"GRANT SELECT ON meter.{leaf} TO meterstream_tenant")
    async with server.session(login_of(server, "acme")) as connection:
        for leaf in full:
            assert await connection.fetchval(f"SELECT count(*) FROM meter.{leaf}") == 0
    async with server.session() as admin:
        for leaf in full:
            await admin.execute(f"REVOKE SELECT ON meter.{leaf} FROM meterstream_tenant")


async def test_every_table_and_leaf_is_under_row_security(server: Server) -> None:
    async with server.session() as admin:
        bare = await admin.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'meter'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relrowsecurity AND relname <> 'schema_migrations'"
        )
        assert [row["relname"] for row in bare] == []
        plain = await admin.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'meter'::regnamespace AND relkind = 'v'"
            " AND relname <> 'leaves' AND NOT coalesce(reloptions @> '{security_invoker=true}', false)"
        )
        assert [row["relname"] for row in plain] == []


@pytest.mark.parametrize(
    "table", ["ledger", "duplicates", "rejected", "claims_timed", "claims_hashed", "adjustments", "alerts", "budgets"]
)
@pytest.mark.parametrize(
    "change", ["DELETE FROM meter.{}", "TRUNCATE meter.{}", "UPDATE meter.{} SET {column} = {column}"]
)
async def test_ingest_cannot_change_history(server: Server, table: str, change: str) -> None:
    column = {"claims_timed": "body", "claims_hashed": "body"}.get(table, "tenant")
    async with server.session(database.INGEST_ROLE) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(change.format(table, column=column))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM meter.sink_positions",
        "DELETE FROM meter.rollup_hourly",
        "TRUNCATE meter.rollup_daily",
        "UPDATE meter.rollup_daily SET adjustment_amount = 0",
        "UPDATE meter.rollup_hourly SET tenant = 'x'",
        "INSERT INTO meter.prices SELECT * FROM meter.prices",
        "INSERT INTO meter.adjustments SELECT * FROM meter.adjustments",
        "INSERT INTO meter.tenant_logins VALUES ('x', 'x')",
        "INSERT INTO meter.budgets SELECT * FROM meter.budgets",
        "SELECT FROM meter.budgets",
        "SELECT FROM meter.ledger",
        "SELECT FROM meter.tenant_logins",
        "SELECT meter.attach_leaf('ledger', 'x', 'FOR VALUES FROM (MINVALUE) TO (MAXVALUE)')",
        "DROP TABLE meter.ledger",
        "ALTER TABLE meter.ledger DISABLE ROW LEVEL SECURITY",
        "SET ROLE meterstream_owner",
    ],
)
async def test_ingest_is_refused(server: Server, statement: str) -> None:
    async with server.session(database.INGEST_ROLE) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_the_reader_reads_everything_and_writes_nothing(server: Server) -> None:
    async with server.session(database.READER_ROLE) as connection:
        assert {row["tenant"] for row in await connection.fetch("SELECT tenant FROM meter.usage_events")} == set(
            TENANTS
        )
        assert await connection.fetchval("SELECT count(*) FROM meter.rejected") == 2
        for statement in (
            "DELETE FROM meter.ledger",
            "INSERT INTO meter.tenants VALUES ('x')",
            "DELETE FROM meter.budget_states",
            "INSERT INTO meter.budgets SELECT * FROM meter.budgets",
            "CREATE TABLE meter.t ()",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


@pytest.mark.parametrize("table", ["prices", "price_revisions", "ledger", "adjustments", "budgets", "alerts"])
async def test_not_even_an_administrator_changes_history_by_a_slip(server: Server, table: str) -> None:
    async with server.session() as admin:
        tables = [table]
        if table == "ledger":  # by way of a leaf, too
            tables += [
                row["leaf"] for row in await admin.fetch("SELECT leaf FROM meter.leaves WHERE parent = 'ledger'")
            ]
            assert len(tables) > 3
        column = {"prices": "source", "budgets": "name", "alerts": "rule", "ledger": "tenant"}.get(table, "reason")
        for name in tables:
            for statement in (
                f"DELETE FROM meter.{name}",
                f"TRUNCATE meter.{name} CASCADE",
                f"UPDATE meter.{name} SET {column} = ''",
            ):
                with pytest.raises(asyncpg.RestrictViolationError, match=f"of meter.{name} is refused: rows are only"):
                    await admin.execute(statement)


async def test_a_whole_leaf_of_the_ledger_may_go(server: Server) -> None:
    """As docs/operate.md says; and a leaf that is made later is guarded as the others."""
    async with server.session() as admin:
        leaf = await admin.fetchval("SELECT meter.ensure_partition('ledger', now() - interval '9 years', 'year')")
        with pytest.raises(asyncpg.RestrictViolationError):
            await admin.execute(f"DELETE FROM meter.{leaf}")
        await admin.execute(f"ALTER TABLE meter.ledger DETACH PARTITION meter.{leaf} CONCURRENTLY")
        await admin.execute(f"CREATE SCHEMA archive; ALTER TABLE meter.{leaf} SET SCHEMA archive")
        await admin.execute(f"DROP TABLE archive.{leaf}")
        again = await admin.fetchval("SELECT meter.ensure_partition('ledger', now() - interval '9 years', 'year')")
        await admin.execute(f"DROP TABLE meter.{again}")


async def test_an_insert_into_the_ledger_meets_no_trigger(server: Server) -> None:
    async with server.session() as admin:
        triggers = await admin.fetch(
            "SELECT tgrelid::regclass::text AS name, tgtype & 4 <> 0 AS of_insert, tgtype & 1 <> 0 AS of_rows"
            " FROM pg_trigger WHERE tgrelid = 'meter.ledger'::regclass OR tgrelid IN"
            " (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'meter.ledger'::regclass)"
        )
        assert len(triggers) > 3
        assert [row["name"] for row in triggers if row["of_insert"] or row["of_rows"]] == []


async def test_a_login_without_a_tenant_sees_nothing(server: Server) -> None:
    async with server.session() as admin:
        await admin.execute(
            "DROP ROLE IF EXISTS stray; CREATE ROLE stray LOGIN PASSWORD 'x' IN ROLE meterstream_tenant"
        )
    connection = await asyncpg.connect(server.addresses.dsn("stray", "x", server.name))
    assert await connection.fetchval("SELECT count(*) FROM meter.ledger") == 0
    await connection.close()


async def test_a_tenants_login_is_renewed_and_dropped_but_never_taken_over(server: Server) -> None:
    login = "acme-second"
    for password in ("first", "second"):
        await tenants.create_login(server.settings, tenant="acme", login=login, password=password)
    server.logins[login] = "first"
    with pytest.raises(asyncpg.InvalidPasswordError):
        async with server.session(login):
            pass
    server.logins[login] = "second"
    async with server.session(login) as connection:
        assert await connection.fetchval("SELECT DISTINCT tenant FROM meter.ledger") == "acme"
    for tenant, taken in (("globex", login), ("acme", database.READER_ROLE)):
        with pytest.raises(UsageError, match="exists already"):
            await tenants.create_login(server.settings, tenant=tenant, login=taken, password="x")
    await tenants.drop_login(server.settings, tenant="acme", login=login)
    with pytest.raises(asyncpg.InvalidPasswordError):
        async with server.session(login):
            pass
    with pytest.raises(UsageError, match="is not a login of tenant acme"):
        await tenants.drop_login(server.settings, tenant="acme", login=database.INGEST_ROLE)


async def test_a_tenants_login_cannot_fill_the_disk_with_temporary_files(server: Server) -> None:
    login = login_of(server, "acme")
    quoted, other = ('"' + login_of(server, tenant).replace('"', '""') + '"' for tenant in TENANTS[:2])
    async with server.session() as admin:  # as one from before, beside one with a bound of its own
        await admin.execute(f"ALTER ROLE {quoted} RESET temp_file_limit")
        await admin.execute(f"ALTER ROLE {other} SET temp_file_limit = '1MB'")
    assert await database.prepare(server.settings, passwords=PASSWORDS) == [f"{login}: temporary files up to 1GB"]
    async with server.session(login) as connection:
        for change in ("SET temp_file_limit = -1", f"ALTER ROLE {quoted} RESET temp_file_limit"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(change)
        await connection.execute(f"ALTER ROLE {quoted} RESET ALL")  # of what it may set itself
    async with server.session(login) as connection:
        assert await connection.fetchval("SHOW temp_file_limit") == "1GB"
    async with server.session(login_of(server, TENANTS[1])) as connection:
        await connection.execute("SET statement_timeout = 0")
        with pytest.raises(asyncpg.ConfigurationLimitExceededError, match="temporary file size exceeds"):
            await connection.execute("SELECT g, repeat('x', 100) FROM generate_series(1, 100000) g ORDER BY 2, 1 DESC")


@pytest.mark.parametrize("login", ["a b", 'quo"ted', "select", "dash-", "Ünïcødé", "x" * 63, "é" * 31, "a;drop role b"])
async def test_a_login_may_have_any_name_that_postgres_keeps_whole(server: Server, login: str) -> None:
    await tenants.create_login(server.settings, tenant="acme", login=login, password="x")
    server.logins[login] = "x"
    async with server.session(login) as connection:
        assert await connection.fetchval("SELECT session_user") == login
        assert await connection.fetchval("SELECT DISTINCT tenant FROM meter.ledger") == "acme"
    listed = {row.tenant: row.logins for row in await tenants.list_tenants(server.settings)}
    assert login in listed["acme"]
    with pytest.raises(UsageError, match="is not a login of tenant globex"):
        await tenants.drop_login(server.settings, tenant="globex", login=login)
    await tenants.drop_login(server.settings, tenant="acme", login=login)


@pytest.mark.parametrize(
    ("login", "said"),
    [
        ("", "1 to 63 bytes, this one has 0"),
        ("x" * 64, "1 to 63 bytes, this one has 64"),
        ("é" * 32, "1 to 63 bytes, this one has 64"),
        ("pg_reader", "keeps the name"),
        ("public", "keeps the name"),
        ("none", "keeps the name"),
        ("a\tb", "remove it"),
        ("a\x00", "remove it"),
        ("a\udcff", "remove it"),
    ],
)
async def test_a_login_that_postgres_would_cut_or_refuse_is_refused_here(server: Server, login: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        await tenants.create_login(server.settings, tenant="acme", login=login, password="x")


async def test_of_two_tenants_that_want_one_login_at_once_one_gets_it(server: Server) -> None:
    answers = await asyncio.gather(
        *(
            tenants.create_login(server.settings, tenant=tenant, login="both", password=tenant)
            for tenant in ("acme", "globex")
        ),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers if answer is not None] == [UsageError]
    winner = ("acme", "globex")[answers.index(None)]
    server.logins["both"] = winner
    async with server.session("both") as connection:
        assert await connection.fetchval("SELECT meter.current_tenant()") == winner


@pytest.mark.parametrize("tenant", ["", "t" * 129, "a\nb"])
async def test_a_tenant_that_no_event_could_name_gets_no_login(server: Server, tenant: str) -> None:
    with pytest.raises(UsageError):
        await tenants.create_login(server.settings, tenant=tenant, login="stranger", password="x")


async def test_the_sink_still_takes_its_locks_and_a_tenant_none(server: Server) -> None:
    async with server.session(database.INGEST_ROLE) as connection:
        await connection.execute("SELECT meter.ensure_partition('ledger', now() + interval '40 days')")
        assert await connection.fetchval("SELECT pg_try_advisory_lock(1)")
    async with server.session(login_of(server, "acme")) as connection:
        open_still = await connection.fetch(
            "SELECT oid::regprocedure FROM pg_proc"
            " WHERE proname ~ 'advisory|^lo_(creat|import|export|open|put|trunc|unlink)|^lowrite'"
            " AND has_function_privilege(oid, 'EXECUTE')"
        )
    assert open_still == []


async def test_an_administrator_without_the_right_is_told_what_stays_open(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"managed_{secrets.token_hex(4)}"
    async with server.session() as admin:
        await admin.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'x'")
        await admin.execute(f"GRANT meterstream_owner, meterstream_tenant TO {name} WITH ADMIN OPTION")
        await admin.execute(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0")
    dsn = server.addresses.dsn(name, "x", name)
    await migrate.up(dsn)
    assert "any login may execute lo_create, lo_put, pg_advisory_lock" in caplog.text
    await migrate.up(server.addresses.dsn(database=name))  # a superuser closes them
    caplog.clear()
    assert await migrate.up(dsn) == [], "its own administrator still gets its turn"
    assert "any login may execute" not in caplog.text
    settings = Settings(postgres_admin_dsn=SecretStr(dsn))
    await tenants.create_login(settings, tenant="acme", login=f"{name}_acme", password="x")
    assert f"only a superuser may set temp_file_limit for {name}_acme" in caplog.text
    await tenants.drop_login(settings, tenant="acme", login=f"{name}_acme")
    async with server.session() as admin:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.execute(f"DROP ROLE {name}")


async def test_prepare_again_changes_nothing(server: Server) -> None:
    assert await database.prepare(server.settings, passwords=PASSWORDS) == []
