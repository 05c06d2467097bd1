"""What the image is made of, without an engine: its two installations as the Dockerfile makes them, at work.

And, where an engine answers, `docker compose up` itself.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from testcontainers.compose import DockerCompose

from meterstream.deploy import database
from meterstream.deploy.stack import Addresses
from tests.fault.roles import clean_environment
from tests.integration.test_access import free_port

# The installation downloads everything that the image holds, as the Dockerfile does: minutes on a busy machine.
pytestmark = [pytest.mark.stack, pytest.mark.campaign, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
PASSWORD = "p%40ss"  # written as in an address


def engine_answers() -> bool:
    """A `docker` on the path says nothing: it may be there without a daemon."""
    return bool(shutil.which("docker")) and subprocess.run(["docker", "version"], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's virtual environment: the Dockerfile's own commands, in folders of the test."""
    folder = tmp_path_factory.mktemp("image")
    build = folder / "build"
    build.mkdir()
    for path in subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split():
        (build / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, build / path)
    text = DOCKERFILE.read_text().rpartition("\nFROM ")[0].replace("\\\n", "")
    steps = re.findall(r"^RUN (.+)$", text, re.MULTILINE)
    assert len(steps) == 3
    for step in steps:
        step = step.replace("python -m", f"{sys.executable} -m").replace("/opt/", f"{folder}/opt/")
        subprocess.run(["sh", "-ec", step], cwd=build, check=True, stdout=subprocess.DEVNULL)
    return folder / "opt" / "meterstream" / "bin"


def test_what_is_installed_prepares_servers_and_runs_a_role(installed: Path, stack: Addresses, tmp_path: Path) -> None:
    def dsn(login: str) -> str:
        return re.sub(r"//[^@]*@", f"//{login}:{PASSWORD}@", stack.dsn())

    environment = clean_environment() | {
        "METERSTREAM_HOME": str(tmp_path / "home"),
        "METERSTREAM_KAFKA_BOOTSTRAP": stack.kafka_bootstrap,
        "METERSTREAM_POSTGRES_ADMIN_DSN": stack.dsn(),
        "METERSTREAM_POSTGRES_INGEST_DSN": dsn(database.INGEST_ROLE),
        "METERSTREAM_POSTGRES_READER_DSN": dsn(database.READER_ROLE),
    }

    def run(*arguments: str) -> str:
        command = [str(installed / "meterstream"), *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("prepare", "--set-passwords")
    assert "everything is as it should be" in run("prepare", "--set-passwords")
    assert json.loads(run("verify", "--json"))
    sink = subprocess.Popen(
        [installed / "meterstream", "run", "sink-postgres"], env=environment, cwd=tmp_path, stderr=subprocess.PIPE
    )
    try:
        while "sink-postgres" not in (shown := status(installed, environment)) or shown["sink-postgres"] == "starting":
            assert sink.poll() is None, sink.communicate()
        assert shown["sink-postgres"] == "running"
    finally:
        sink.terminate()
        sink.communicate()


def status(installed: Path, environment: dict[str, str]) -> dict[str, str]:
    command = [str(installed / "meterstream"), "status", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return {role["name"]: role["state"] for role in json.loads(done.stdout)["roles"]}


def environment_of(service: dict[str, Any], stack: Addresses, home: Path, port: int) -> dict[str, str]:
    """What the service has by the file and the image, with this stack's servers in their places."""
    image = dict(re.findall(r"(METERSTREAM_\w+)=(\S+)", DOCKERFILE.read_text()))
    kafka = stack.kafka_bootstrap
    postgres = re.sub(r".*@(.*)/.*", r"\1", stack.dsn())
    own = clean_environment() | image | {name: str(value) for name, value in service["environment"].items()}
    for name, value in own.items():
        if name == "METERSTREAM_POSTGRES_ADMIN_DSN":
            own[name] = stack.dsn()
        elif name.startswith("METERSTREAM_"):
            value = re.sub(r"\$\{[^}]*\}", PASSWORD, value).replace("kafka:29092", kafka)
            own[name] = value.replace("postgres:5432/meterstream", f"{postgres}/{stack.dsn().rpartition('/')[2]}")
    return own | {"METERSTREAM_HOME": str(home), "METERSTREAM_METRICS_PORT": str(port)}


def test_every_service_of_ours_runs_as_the_file_says(installed: Path, stack: Addresses, tmp_path: Path) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

    def once(name: str, *words: str) -> str:
        environment = environment_of(services[name], stack, tmp_path / name, 0)
        command = [str(installed / "meterstream"), *words]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    once("prepare", *services["prepare"]["command"])
    started = {}
    try:
        for name in ("rater", "aggregator", "sink"):
            port = free_port()
            started[name] = subprocess.Popen(
                [installed / "meterstream", *services[name]["command"]],
                env=environment_of(services[name], stack, tmp_path / name, port),
                cwd=tmp_path,
                stderr=subprocess.DEVNULL,
            )
            kind, program, *words = services[name]["healthcheck"]["test"]
            assert (kind, program) == ("CMD", "python")
            check = [str(installed / "python"), *(word.replace("9464", str(port)) for word in words)]
            while subprocess.run(check, capture_output=True).returncode:
                assert started[name].poll() is None, name
        call = "record --tenant a --provider openai --model gpt-4o --operation chat --usage input_tokens=1 --id one"
        once("cli", *call.split())
        once("cli", "top", "--once")
        once("cli", "doctor")
    finally:
        for process in started.values():
            process.terminate()
        assert [process.wait() for process in started.values()] == [0] * len(started), "each drains on SIGTERM"


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerCompose]:
    """Everything of docker-compose.yml, on ports of its own."""
    if not engine_answers():
        pytest.skip("no container engine answers here")
    env = tmp_path_factory.mktemp("compose") / ".env"
    subprocess.run([ROOT / "deploy" / "docker" / "make-env.sh"], cwd=env.parent, check=True)
    env.write_text(env.read_text() + "KAFKA_PORT=0\nPOSTGRES_PORT=0\nVALKEY_PORT=0\n")
    with DockerCompose(ROOT, build=True, wait=True, env_file=str(env)) as compose:
        yield compose


def test_the_containers_come_up_well(composed: DockerCompose) -> None:
    for service in ("rater", "aggregator", "sink"):
        container = composed.get_container(service)
        assert container.Health == "healthy"
        out, _, code = composed.exec_in_container(["id", "--user"], service)
        assert (out.strip(), code) == ("10001", 0)
