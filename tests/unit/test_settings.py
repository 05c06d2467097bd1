"""Settings: all mistakes at once, no secret shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meterstream.schema.errors import SettingsError
from meterstream.schema.metrics import Metric
from meterstream.schema.settings import CONFIG_VARIABLE, PREFIX, RUNTIME_VARIABLES, Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("METERSTREAM_"):
            monkeypatch.delenv(name)


def test_defaults_are_valid() -> None:
    assert Settings.load().kafka_security == "PLAINTEXT"


def test_every_setting_and_figure_is_documented_and_no_other() -> None:
    text = DOCUMENT.read_text("utf-8")
    settings = {PREFIX + name.upper() for name in Settings.model_fields} | RUNTIME_VARIABLES - {"METERSTREAM_FAILPOINT"}
    assert set(re.findall(r"`(METERSTREAM_[A-Z_]+)`", text)) == settings | {CONFIG_VARIABLE}
    assert set(re.findall(r"^\| `(meterstream_[a-z_]+)`", text, re.MULTILINE)) == set(Metric)


def test_documented_defaults_of_numbers_and_switches_hold() -> None:
    documented = dict(re.findall(r"^\| `METERSTREAM_(\w+)` \| ([\w.]+) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE))
    defaults = {
        name.upper(): f"{field.default:g}" if isinstance(field.default, float) else str(field.default).lower()
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, int | float)
    }
    assert documented == defaults


def test_all_mistakes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERSTREAM_RATER_LINGER_MS", "soon")
    monkeypatch.setenv("METERSTREAM_SINK_BATCH_ROWS_MAX", "0")
    monkeypatch.setenv("METERSTREAM_KAFKA_SECURITY", "TLS")
    monkeypatch.setenv("METERSTREAM_KAFKA_BOOTSRAP", "x")
    monkeypatch.setenv("METERSTREAM_CONFIG", "no-such.toml")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    names = [problem.split(":")[0] for problem in caught.value.problems]
    assert sorted(names) == [
        "METERSTREAM_CONFIG",
        "METERSTREAM_KAFKA_BOOTSRAP",
        "METERSTREAM_KAFKA_SECURITY",
        "METERSTREAM_RATER_LINGER_MS",
        "METERSTREAM_SINK_BATCH_ROWS_MAX",
    ]
    assert all(problem in str(caught.value) for problem in caught.value.problems)


def test_variables_win_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "meterstream.toml"
    file.write_text('rater_linger_ms = 7\nkafka_bootstrap = "file:9092"\n')
    monkeypatch.setenv("METERSTREAM_CONFIG", str(file))
    monkeypatch.setenv("METERSTREAM_KAFKA_BOOTSTRAP", "variable:9092")
    settings = Settings.load()
    assert (settings.rater_linger_ms, settings.kafka_bootstrap) == (7, "variable:9092")


@pytest.mark.parametrize("text", ["rater_linger_ms = ", 'no_such = 1\nkafka_bootstrap = "a:1"'])
def test_a_broken_file_is_a_problem_with_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    file = tmp_path / "meterstream.toml"
    file.write_text(text)
    monkeypatch.setenv("METERSTREAM_CONFIG", str(file))
    with pytest.raises(SettingsError):
        Settings.load()


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "correct-horse"
    monkeypatch.setenv("METERSTREAM_POSTGRES_INGEST_DSN", f"postgresql://u:{secret}@h/d")
    monkeypatch.setenv("METERSTREAM_KAFKA_SASL_PASSWORD", secret)
    settings = Settings.load()
    assert secret not in repr(settings) + str(settings) + settings.model_dump_json()
