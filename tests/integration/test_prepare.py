"""`meterstream prepare` on servers that are not as they should be: one line, what to do, exit 1."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from meterstream.deploy import prepare
from meterstream.deploy.stack import Addresses
from meterstream.schema.errors import UsageError
from meterstream.schema.topics import RAW

pytestmark = pytest.mark.stack

COMMAND = [sys.executable, "-c", "from meterstream.deploy.cli import main; main()"]


@pytest.fixture
def database(stack: Addresses) -> Iterator[str]:
    """The DSN of an empty database, as superuser."""
    name = f"prepare_{secrets.token_hex(4)}"
    execute(stack.dsn(), f"CREATE DATABASE {name}")
    yield stack.dsn(database=name)
    execute(stack.dsn(), f"DROP DATABASE {name} WITH (FORCE)")


def execute(dsn: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def call(folder: Path, kafka: str, dsn: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("METERSTREAM_")} | {
        "METERSTREAM_HOME": str(folder),
        "METERSTREAM_KAFKA_BOOTSTRAP": kafka,
        "METERSTREAM_POSTGRES_ADMIN_DSN": dsn,
        "METERSTREAM_POSTGRES_INGEST_DSN": "postgresql://unused",
        "METERSTREAM_POSTGRES_READER_DSN": "postgresql://unused",
    }
    return subprocess.run(
        [*COMMAND, *(command or ["prepare"])], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """What it said, in one line of ours."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    [said] = [line for line in done.stderr.splitlines() if line.startswith("meterstream: ")]
    assert done.stderr.rstrip().endswith(said)
    return said


def test_what_cannot_be_reached_or_entered_is_named_with_the_setting(stack: Addresses, tmp_path: Path) -> None:
    kafka, host = stack.kafka_bootstrap, f"{stack.postgres_host}:{stack.postgres_port}"
    for bootstrap, dsn, said in [
        ("127.0.0.1:9", stack.dsn(), "no Kafka broker answers at 127.0.0.1:9"),
        (kafka, "postgresql://postgres:x@127.0.0.1:9/m", "cannot log in to Postgres: "),
        (kafka, f"postgresql://postgres:s3cret@{host}/meterstream", "mend user and password in METERSTREAM_POSTGRES"),
        (kafka, stack.dsn(database="none"), 'database "none" does not exist: create it, or mend METERSTREAM_POSTGRES'),
    ]:
        done = call(tmp_path, bootstrap, dsn)
        assert said in refusal(done)
        assert "s3cret" not in done.stderr
    for unreadable in (f"postgresql://postgres:s3cret#1@{host}/m", "host=here password=s3cret"):
        done = call(tmp_path, kafka, unreadable)
        assert done.returncode == 2 and "METERSTREAM_POSTGRES_ADMIN_DSN: this is no postgresql://" in done.stderr
        assert "s3cret" not in done.stderr
    migrate = call(tmp_path, kafka, f"postgresql://postgres:s3cret@{host}/meterstream", "migrate", "up")
    assert "mend user and password" in migrate.stderr and "Traceback" not in migrate.stderr


def test_a_role_without_rights_is_told_which(stack: Addresses, database: str, tmp_path: Path) -> None:
    name = f"weak_{secrets.token_hex(4)}"
    execute(stack.dsn(), f"CREATE ROLE {name} LOGIN PASSWORD 'w'")
    weak = stack.dsn(name, "w", database.rpartition("/")[2])
    said = refusal(call(tmp_path, stack.kafka_bootstrap, weak))
    assert "Postgres refuses: permission denied" in said
    assert "must own the database and have CREATEROLE" in said


def test_an_edited_migration_gives_the_way_out(stack: Addresses, database: str, tmp_path: Path) -> None:
    assert call(tmp_path, stack.kafka_bootstrap, database).returncode == 0
    execute(database, "UPDATE meter.schema_migrations SET checksum = 'x' WHERE version = 2")
    said = refusal(call(tmp_path, stack.kafka_bootstrap, database))
    assert "0002_partitions is edited" in said
    assert "use the release that this database was made with" in said


def test_up_of_a_folder_with_an_edited_migration_says_how_to_begin_anew(
    home: Path, stack: Addresses, tmp_path: Path
) -> None:
    up = [*COMMAND, "up"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("METERSTREAM_")}
    environment["METERSTREAM_HOME"] = str(home)

    def run_up() -> subprocess.CompletedProcess[str]:
        return subprocess.run(up, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert run_up().returncode == 0
    for version, checksum in ((2, "'x'"), (1, "checksum")):
        execute(stack.dsn(), f"UPDATE meter.schema_migrations SET checksum = {checksum} WHERE version = {version}")
    said = refusal(run_up())
    assert "begin anew" in said and f"move {home} away" in said and "METERSTREAM_HOME" in said


def test_a_topic_with_other_partitions_is_refused_before_anything_is_made(
    stack: Addresses, database: str, tmp_path: Path
) -> None:
    async def make_anew() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka_bootstrap)
        await admin.start()
        if RAW in await admin.list_topics():
            await admin.delete_topics([RAW])
        while RAW in await admin.list_topics():
            await asyncio.sleep(0.05)
        await admin.create_topics([NewTopic(RAW, 3, 1)])
        while len((await admin.describe_topics([RAW]))[0]["partitions"]) != 3:
            await asyncio.sleep(0.05)
        await admin.close()

    asyncio.run(make_anew())
    done = call(tmp_path, stack.kafka_bootstrap, database)
    assert done.returncode == 1
    assert "nothing was changed:" in done.stderr
    assert f"{RAW}: has 3 partitions" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("major", [9, 13, 14])
def test_an_old_postgres_is_refused(major: int) -> None:
    with pytest.raises(UsageError, match="needs 15 or newer"):
        prepare.refuse_old_server(major)
    prepare.refuse_old_server(15)
