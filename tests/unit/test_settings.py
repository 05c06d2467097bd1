"""Settings: all mistakes at once, no secret shown."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from meterstream.schema.errors import SettingsError
from meterstream.schema.metrics import Metric
from meterstream.schema.settings import CONFIG_VARIABLE, PREFIX, RUNTIME_VARIABLES, SECRETS_VARIABLE, Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("METERSTREAM_"):
            monkeypatch.delenv(name)


def test_defaults_are_valid() -> None:
    assert Settings.load().kafka_security == "PLAINTEXT"


def test_a_secret_can_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "METERSTREAM_POSTGRES_INGEST_DSN").write_text("postgresql://u:from-file@h/d\n")
    (tmp_path / "METERSTREAM_KAFKA_SASL_PASSWORD").write_text("from-file")
    (tmp_path / "of-somebody-else").write_text("x")
    monkeypatch.setenv(SECRETS_VARIABLE, str(tmp_path))
    settings = Settings.load()
    assert settings.postgres_ingest_dsn.get_secret_value() == "postgresql://u:from-file@h/d"
    assert settings.kafka_sasl_password.get_secret_value() == "from-file"
    monkeypatch.setenv("METERSTREAM_KAFKA_SASL_PASSWORD", "from-variable")
    assert Settings.load().kafka_sasl_password.get_secret_value() == "from-variable", "variables win"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("METERSTREAM_KAFKA_PASWORD", "METERSTREAM_KAFKA_PASWORD: there is no such setting"),
        (None, "there is no folder"),
    ],
)
def test_a_folder_of_secrets_that_cannot_be_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, said: str
) -> None:
    if name is not None:
        (tmp_path / name).write_text("secret")
    monkeypatch.setenv(SECRETS_VARIABLE, str(tmp_path if name else tmp_path / "missing"))
    with pytest.raises(SettingsError) as error:
        Settings.load()
    assert said in str(error.value) and "secret\n" not in str(error.value)


def test_a_form_of_logs_that_there_is_not_is_named_with_all_other_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERSTREAM_LOG_FORMAT", "xml")
    monkeypatch.setenv("METERSTREAM_PARTITIONS_AHEAD", "99")
    with pytest.raises(SettingsError) as error:
        Settings.load()
    assert "METERSTREAM_LOG_FORMAT is 'xml': give text or json" in str(error.value)
    assert "METERSTREAM_PARTITIONS_AHEAD" in str(error.value)


def test_every_setting_and_figure_is_documented_and_no_other() -> None:
    text = DOCUMENT.read_text("utf-8")
    settings = {PREFIX + name.upper() for name in Settings.model_fields} | RUNTIME_VARIABLES - {"METERSTREAM_FAILPOINT"}
    assert set(re.findall(r"`(METERSTREAM_[A-Z_]+)`", text)) == settings | {CONFIG_VARIABLE, SECRETS_VARIABLE}
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


def mistakes() -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    return caught.value.problems


def test_what_a_broker_needs_is_told_with_all_other_mistakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    for name, value in {
        "KAFKA_BOOTSTRAP": "here:there",
        "KAFKA_SECURITY": "SASL_SSL",
        "KAFKA_CA_FILE": str(file),
        "SINK_BATCH_ROWS_MAX": "0",
    }.items():
        monkeypatch.setenv(PREFIX + name, value)
    address, username, password, authority, rows = mistakes()
    assert address == "METERSTREAM_KAFKA_BOOTSTRAP: give host:port[,host:port], not 'here:there'"
    needed = "is needed where METERSTREAM_KAFKA_SECURITY is SASL_SSL"
    assert username == f"METERSTREAM_KAFKA_SASL_USERNAME: {needed}"
    assert password == f"METERSTREAM_KAFKA_SASL_PASSWORD: {needed}"
    assert authority.startswith(f"METERSTREAM_KAFKA_CA_FILE: {file} holds no certificates that can be read: ")
    assert rows.startswith("METERSTREAM_SINK_BATCH_ROWS_MAX: ")


@pytest.mark.parametrize(
    "text",
    [
        "here:there", ":9092", "a:0", "a:65536", "a:1,", ",a:1", "a:1;b:2", "a\tb:1", "kafka://a:1", "a:1/", "::1",
        "[::1:1", "a:٩",
    ],
)  # fmt: skip
def test_an_address_that_no_client_could_read_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("METERSTREAM_KAFKA_BOOTSTRAP", text)
    assert mistakes() == [f"METERSTREAM_KAFKA_BOOTSTRAP: give host:port[,host:port], not {text!r}"]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", ""),
        ("a", "a"),
        ("a:1, b-2.c:65535", "a:1,b-2.c:65535"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("[::1]:2", "[::1]:2"),
    ],
)
def test_addresses_that_clients_read_pass(monkeypatch: pytest.MonkeyPatch, text: str, read: str) -> None:
    monkeypatch.setenv("METERSTREAM_KAFKA_BOOTSTRAP", text)
    assert Settings.load().kafka_bootstrap == read


def test_a_mistake_in_the_file_is_told_by_file_and_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "meterstream.toml"
    file.write_text(
        'No_such = 1\nMETERSTREAM_HOME = "x"\nrater_linger_ms = "soon"\nmetrics_port = -1\npartitions_ahead = 99\n'
        "[kafka]\nbootstrap = 1\n"
    )
    monkeypatch.setenv("METERSTREAM_CONFIG", str(file))
    monkeypatch.setenv("METERSTREAM_METRICS_PORT", "-2")
    monkeypatch.setenv("METERSTREAM_PARTITIONS_AHEAD", "3")
    found = mistakes()
    assert set(found) >= {
        f"{file}: No_such: there is no such setting",
        f"{file}: METERSTREAM_HOME: there is no such setting: write home",
        f"{file}: kafka: there is no such setting",
    }
    rest = sorted(problem.partition(": Input should be")[0] for problem in found if "no such" not in problem)
    assert rest == sorted([f"{file}: rater_linger_ms", "METERSTREAM_METRICS_PORT"]), "a variable wins, right or wrong"


def test_a_broken_file_is_told_with_the_line_and_all_other_mistakes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "meterstream.toml"
    monkeypatch.setenv("METERSTREAM_CONFIG", str(file))
    monkeypatch.setenv("METERSTREAM_PARTITIONS_AHEAD", "99")
    for content, said in (
        (b"home = 'a'\nrater_linger_ms = \n", "(at line 2, "),
        (b"home = '\xff'", "can't decode byte"),
    ):
        file.write_bytes(content)
        broken, other = mistakes()
        assert broken.startswith(f"{file}: cannot be read as TOML: ") and said in broken
        assert other.startswith("METERSTREAM_PARTITIONS_AHEAD: ")


DSNS = [f"METERSTREAM_POSTGRES_{role}_DSN" for role in ("ADMIN", "INGEST", "READER")]


@pytest.mark.parametrize("name", DSNS)
@pytest.mark.parametrize(
    "dsn",
    [
        "host=127.0.0.1 password=s3cret", "mysql://u:s3cret@h/d", "127.0.0.1:5432", "u:s3cret@h/d",
        "postgresql://u:s3cret@h:port/d", "postgresql://u:s3cret@h:0/d", "postgresql://u:s3cret@h:65536/d",
        "postgresql://u:s3cret@h:٥٤٣٢/d", "postgresql://u:s3cret@h:/d", "postgresql://u:s3cret@[::1/d",
        # special characters that were not escaped: the third would go to the host `u`
        "postgresql://u:s3#cret@h/d", "postgresql://u:s3cret/x@h/d", "postgresql://u:12/s3cret@h/d",
        "postgresql://u:s3cret?@h/d", "postgresql://u:12?s3cret@h/d", "postgresql://u:12#s3cret@h/d",
        "postgresql://u:s3@cret@h/d", "postgresql://u:s3[cret@h/d",
    ],
)  # fmt: skip
def test_a_dsn_that_no_client_could_read_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, dsn: str
) -> None:
    monkeypatch.setenv(name, dsn)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    [problem] = caught.value.problems
    assert problem == f"{name}: this is no postgresql://USER:PASSWORD@HOST:PORT/DATABASE; %-escape what is special"
    with pytest.raises(ValidationError) as plain:
        Settings()
    for error in (caught.value, plain.value):
        shown = "".join(traceback.format_exception(error))
        assert dsn not in shown and "cret" not in shown


@pytest.mark.parametrize(
    "dsn",
    [
        "", "postgresql://u:p@h:5432/d", "postgres://u@h/d", "postgresql://h", "postgresql:///d", "postgresql://u:p@[::1]:1/d",
        "postgresql://u:p@h1:1,h2:2/d?target_session_attrs=primary", "postgresql://u:p%23%2F%40%3F@h/d?sslmode=require",
        "postgresql:///d?host=/var/run/postgresql&user=u",
    ],
)  # fmt: skip
def test_a_dsn_that_a_client_reads_passes(monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    monkeypatch.setenv(DSNS[0], dsn)
    assert Settings.load().postgres_admin_dsn.get_secret_value() == dsn


@pytest.mark.parametrize("text", ["true", "3", "3:", ":5", "3:1200,", "3:1200;4:1", "3: 1200", "٣:1"])
def test_a_loss_is_accepted_by_name_only(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("METERSTREAM_AGGREGATOR_BOOTSTRAP", text)
    with pytest.raises(
        SettingsError, match="METERSTREAM_AGGREGATOR_BOOTSTRAP: give what the aggregator that stopped says"
    ):
        Settings.load()


@pytest.mark.parametrize("text", ["true", "usage.raw/3", "usage.raw:5", "3:5", "usage.raw/3:5,", "usage.raw/3: 5"])
def test_a_loss_of_a_source_is_accepted_by_name_only(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("METERSTREAM_RATER_ACCEPT_LOSS", text)
    with pytest.raises(SettingsError, match="METERSTREAM_RATER_ACCEPT_LOSS: give what the rater that stopped says"):
        Settings.load()


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "correct-horse"
    monkeypatch.setenv("METERSTREAM_POSTGRES_INGEST_DSN", f"postgresql://u:{secret}@h/d")
    monkeypatch.setenv("METERSTREAM_KAFKA_SASL_PASSWORD", secret)
    settings = Settings.load()
    assert secret not in repr(settings) + str(settings) + settings.model_dump_json()
