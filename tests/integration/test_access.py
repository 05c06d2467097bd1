"""Each part with a login of its own, on a broker that refuses whatever is not granted: usage comes through all of them.

The broker is the local one with an authorizer and a second listener (SASL/PLAIN, on loopback).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.protocol.admin import CreateAclsRequest
from click.testing import CliRunner

from meterstream.deploy import access
from meterstream.deploy import stack as local_stack
from meterstream.deploy.cli.topics import topics as topics_command
from meterstream.deploy.connections import resolve
from meterstream.deploy.kafka import client_options
from meterstream.deploy.live import budgets
from meterstream.deploy.prepare import prepare
from meterstream.deploy.roles import ROLES
from meterstream.deploy.stack import kafka
from meterstream.deploy.verify import run as whole
from meterstream.producers import AsyncMeterClient
from meterstream.schema.settings import Settings
from meterstream.schema.topics import ALERTS, manifest
from tests import topic_log
from tests.fault.roles import Role, clean_environment

pytestmark = pytest.mark.stack

DEADLINE_S = 120.0
PASSWORD = secrets.token_hex(8)
RESOURCES = {"topic": 2, "group": 3}
OPERATIONS = {"read": 3, "write": 4, "create": 5, "describe": 8, "describe_configs": 10, "alter_configs": 11}
LITERAL, PREFIXED, ALLOW = 3, 4, 3


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """(home of a stack, address of the listener with logins). Its other listener belongs to the administrator."""
    port = free_port()
    users = " ".join(f'user_{part}="{PASSWORD}"' for part in access.parts())
    more = f"""
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=PLAIN
listener.name.guarded.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};
"""
    own = kafka.properties

    def properties(ports: dict[str, int], log_dir: str) -> str:
        lines = own(ports, log_dir).splitlines()
        added = {
            "listeners=": f",GUARDED://127.0.0.1:{port}",
            "advertised.listeners=": f",GUARDED://127.0.0.1:{port}",
            "listener.security.protocol.map=": ",GUARDED:SASL_PLAINTEXT",
        }
        return "\n".join(line + added.get(line.partition("=")[0] + "=", "") for line in lines) + more

    home = tmp_path_factory.mktemp("guarded") / ".meterstream"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka, "properties", properties)
        local_stack.up(home, durable=False, bind_to_parent=True)
    yield home, f"127.0.0.1:{port}"
    local_stack.down(home)


def login(home: Path, bootstrap: str, part: str) -> dict[str, str]:
    return {
        "home": str(home),
        "kafka_bootstrap": bootstrap,
        "kafka_security": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_sasl_username": part,
        "kafka_sasl_password": PASSWORD,
    }


@pytest.fixture(scope="module")
async def options(guarded: tuple[Path, str]) -> dict[str, dict[str, Any]]:
    """part -> connection options; every part has the rights of the file."""
    home, bootstrap = guarded
    admin = AIOKafkaAdminClient(**client_options(resolve(Settings(home=home))))
    await admin.start()
    for part in access.parts():
        for grant in access.grants(part):
            pattern = PREFIXED if grant.is_prefix else LITERAL
            request = CreateAclsRequest(
                RESOURCES[grant.resource], grant.name, pattern, f"User:{part}", "*", OPERATIONS[grant.operation], ALLOW
            )
            response = await admin._send_request(request)
            assert all(result[0] == 0 for result in response.creation_responses), (grant, response)
    await admin.close()
    return {part: client_options(Settings(**login(home, bootstrap, part))) for part in access.parts()}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
async def running(
    guarded: tuple[Path, str], options: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Settings]:
    """Prepared by the operator's login, and every role under its own."""
    home, bootstrap = guarded
    unresolved = Settings(**login(home, bootstrap, "operator"))  # type: ignore[arg-type]
    await prepare(unresolved)
    operator = resolve(unresolved)
    await budgets.add(operator, {"tenant": "acme", "name": "monthly", "amount": "0.000001", "currency": "USD"})
    logs = tmp_path_factory.mktemp("logs")
    roles = []
    for part in ROLES:
        environment = {f"METERSTREAM_{key.upper()}": value for key, value in login(home, bootstrap, part).items()}
        environment["METERSTREAM_INSTANCE"] = f"test-{part}"
        roles.append(Role(part, env=clean_environment() | environment, log=logs / f"{part}.log"))
    await asyncio.gather(*(role.start() for role in roles))
    yield operator
    print(*(f"--- {role.name} {role.exits}\n{role.said()[-3000:]}" for role in roles))
    await asyncio.gather(*(role.stop() for role in roles))
    assert [role.exits for role in roles] == [[0]] * len(roles), "none was refused anything"


async def test_usage_passes_every_part(running: Settings, options: dict[str, dict[str, Any]]) -> None:
    publisher = dict(options["publisher"])
    async with AsyncMeterClient(
        "shop", bootstrap_servers=publisher.pop("bootstrap_servers"), client_options=publisher, on_error="raise"
    ) as meter:
        await meter.record(
            tenant="acme", provider="openai", model="gpt-4o-mini", operation="chat", usage={"input_tokens": 1000}
        )
        assert await meter.flush(DEADLINE_S)
    async with asyncio.timeout(DEADLINE_S):
        while await alerts_stored(running) == 0:
            await asyncio.sleep(0.1)  # a poll with a deadline
    assert len(await topic_log.read(options["subscriber"], ALERTS)) > 0
    async with asyncio.timeout(DEADLINE_S):
        while not (await whole.verify(running, is_raw=True)).is_good:
            await asyncio.sleep(0.1)


COMMANDS = (
    "status --json", "doctor", "topics verify", "verify --raw", "verify --live", "top --once",
    "tenant set acme --privacy on",
    "record --tenant acme --provider acme --model m --operation chat --usage input_tokens=5 --id by-hand",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[:2]))
async def test_the_operator_may_do_what_the_commands_do(running: Settings, command: str) -> None:
    own = login(running.home, running.kafka_bootstrap, "operator")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from meterstream.deploy.cli import main; main()", *command.split()),
        env=clean_environment() | {f"METERSTREAM_{key.upper()}": value for key, value in own.items()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0 and b"uthoriz" not in said, said


async def alerts_stored(settings: Settings) -> int:
    connection = await asyncpg.connect(settings.postgres_reader_dsn.get_secret_value())
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM meter.budget_alerts")
        return count
    finally:
        await connection.close()


@pytest.mark.parametrize("part", access.parts())
async def test_nobody_writes_elsewhere(running: Settings, options: dict[str, dict[str, Any]], part: str) -> None:
    may = {grant.name for grant in access.grants(part) if grant.operation == "write"}
    async with AIOKafkaProducer(**options[part], enable_idempotence=False) as producer:
        for topic in manifest().keys() - may:
            with pytest.raises(TopicAuthorizationFailedError):
                await producer.send_and_wait(topic, b"forged")


def test_the_list_knows_every_role_and_topic() -> None:
    assert set(ROLES) <= set(access.parts())
    for part in access.parts().values():
        assert set(part.topics) <= set(manifest())
    assert set(access.parts()["operator"].topics) == set(manifest())


def test_the_commands_grant_the_same() -> None:
    said = CliRunner().invoke(topics_command, ["acls", "rater", "sink-postgres"]).output.splitlines()
    lines = [line for line in said if not line.startswith("#")]
    assert len(lines) == sum(1 for part in ("rater", "sink-postgres") for _ in access.grants(part))
    assert lines[0] == (
        "kafka-acls.sh --add --allow-principal User:meterstream-rater --operation Read --topic usage.raw"
    )
    assert lines[-1].endswith("--operation Read --group meterstream-sink-postgres --resource-pattern-type prefixed")
    assert CliRunner().invoke(topics_command, ["acls", "nobody"]).exit_code != 0
