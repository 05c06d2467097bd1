"""docker-compose.yml and the Dockerfile, as far as they can be judged where no engine runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from meterstream.deploy.roles import ROLES
from meterstream.deploy.stack import jars, kafka, postgres
from meterstream.schema.settings import PREFIX, RUNTIME_VARIABLES, Settings

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
BIN = Path(sys.executable).parent
OURS = {"prepare", "rater", "aggregator", "sink", "cli"}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    return found


def test_compose_file_fits_the_specification() -> None:
    checked = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


def test_dockerfile_has_no_known_fault() -> None:
    checked = subprocess.run([BIN / "hadolint", "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_dockerfile_copies_what_is_there_and_ends_without_rights() -> None:
    text = DOCKERFILE.read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            ignored = (ROOT / ".dockerignore").read_text().splitlines()
            assert f"!{source}" in ignored or f"!{Path(source).parent}/*{Path(source).suffix}" in ignored, source
    last = text.rpartition("FROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert text.startswith("#") and len(re.findall(r"^FROM \S+:\S+", text, re.MULTILINE)) == 2


def test_every_role_runs_and_gets_no_more_addresses_than_it_needs(services: dict[str, dict[str, Any]]) -> None:
    names = {name.lower() for name in Settings.model_fields}
    running = {}
    for service in OURS - {"prepare", "cli"}:
        word, role = services[service]["command"]
        assert word == "run"
        running[role] = {key.removeprefix(PREFIX).lower() for key in services[service]["environment"]}
    assert running == {name: set(role.needs) for name, role in ROLES.items()}
    for service in OURS:
        for key in services[service]["environment"]:
            assert key.removeprefix(PREFIX).lower() in names or key in RUNTIME_VARIABLES, key


def test_images_environment_is_a_setting_each() -> None:
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(r"METERSTREAM_\w+", DOCKERFILE.read_text())) <= names


def test_no_password_is_written_and_ports_are_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), (name, port)
        for key, value in service.get("environment", {}).items():
            if "PASSWORD" in key or "DSN" in key:
                assert re.search(r"\$\{\w+_PASSWORD(:\?[^}]+)?\}", value), (name, key)


def test_our_containers_have_no_rights_and_all_that_stay_are_watched(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert re.fullmatch(r"[\w/]+:[\d.]+", service["image"]), (name, "a version, so that it does not move")
        if name in OURS:
            assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["init"], name
            assert "no-new-privileges:true" in service["security_opt"], name
        if name not in {"prepare", "cli"}:
            assert service["healthcheck"]["test"], name
        if name in OURS - {"prepare", "cli"}:
            assert service["mem_limit"], f"{name}: a bomb must end it alone"
            assert service["depends_on"]["prepare"]["condition"] == "service_completed_successfully"


def test_servers_are_set_as_the_local_ones(services: dict[str, dict[str, Any]]) -> None:
    environment = services["kafka"]["environment"]
    given = {key.removeprefix("KAFKA_").lower().replace("_", "."): str(value) for key, value in environment.items()}
    for name in given.keys() & kafka.SETTINGS.keys() - {"listener.security.protocol.map", "inter.broker.listener.name"}:
        assert given[name] == kafka.SETTINGS[name], name
    assert {"message.max.bytes", "auto.create.topics.enable", "group.min.session.timeout.ms"} <= given.keys()
    assert services["kafka"]["image"] == f"apache/kafka:{jars.KAFKA_VERSION}"
    command = services["postgres"]["command"]
    assert dict(word.split("=") for word in command[1::2]).items() <= postgres.SETTINGS.items()


def test_make_env_makes_passwords_once(tmp_path: Path) -> None:
    script = ROOT / "deploy" / "docker" / "make-env.sh"
    made = subprocess.run([script], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    env = tmp_path / ".env"
    assert env.stat().st_mode & 0o777 == 0o600
    passwords = dict(line.split("=") for line in env.read_text().splitlines())
    asked = set(re.findall(r"\$\{(\w+_PASSWORD)", COMPOSE_FILE.read_text()))
    assert passwords.keys() == asked
    assert len(set(passwords.values())) == len(asked) and all(len(each) == 48 for each in passwords.values())
    assert not any(password in made.stdout + made.stderr for password in passwords.values())
    again = subprocess.run([script], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 1 and "there is a .env already" in again.stderr
    assert env.read_text().splitlines() == [f"{name}={password}" for name, password in passwords.items()]
