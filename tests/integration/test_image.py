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

import pytest
from testcontainers.compose import DockerCompose

from meterstream.deploy import database
from meterstream.deploy.stack import Addresses
from tests.fault.roles import clean_environment

pytestmark = [pytest.mark.stack, pytest.mark.campaign]

ROOT = Path(__file__).parents[2]
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
    text = (ROOT / "deploy" / "docker" / "Dockerfile").read_text().rpartition("\nFROM ")[0].replace("\\\n", "")
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
