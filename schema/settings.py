"""All settings of all roles: `METERSTREAM_*` variables, or a TOML file named by `METERSTREAM_CONFIG`.

`Settings.load()` reports every mistake at once. Addresses that are left empty are filled by the
composition root from the local stack of the folder, where one runs.
"""

from __future__ import annotations

import os
import re
import ssl
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from meterstream.schema.errors import SettingsError

PREFIX = "METERSTREAM_"
CONFIG_VARIABLE = "METERSTREAM_CONFIG"
SECRETS_VARIABLE = "METERSTREAM_SECRETS"

UNREADABLE_DSN: Final = "this is no postgresql://USER:PASSWORD@HOST:PORT/DATABASE; %-escape what is special"
_PORT_MAX: Final = 65535


def _dsn(secret: SecretStr) -> SecretStr:
    """Refuses what no client could read, without a piece of it in the text: it holds a password."""
    dsn = secret.get_secret_value()
    if dsn and not _is_dsn(dsn):
        raise ValueError(UNREADABLE_DSN)
    return secret


def _is_dsn(dsn: str) -> bool:
    try:
        parts = urlsplit(dsn)
        if parts.query:
            parse_qs(parts.query, strict_parsing=True)
    except ValueError:
        return False
    # A password's "#" would cut off the rest, its "/" or "@" end where the host begins: then another host is named.
    is_escaped = "#" not in dsn and "@" not in parts.path and parts.netloc.count("@") <= 1
    hosts = parts.netloc.rpartition("@")[2].split(",")
    return parts.scheme in ("postgresql", "postgres") and is_escaped and all(map(_is_host, hosts))


def _is_host(text: str) -> bool:
    """`host`, `host:port`, `[IPv6]:port`, or nothing: then the client takes its default."""
    _, colon, port = text.rpartition("]")[2].partition(":")
    return not colon or (port.isascii() and port.isdigit() and 0 < int(port) <= _PORT_MAX)


def _brokers(text: str) -> str:
    """Without spaces: some clients take them as part of a name."""
    addresses = [address.strip() for address in text.split(",")] if text else []
    if not all(_BROKER.fullmatch(address) and _is_host(address) for address in addresses):
        raise ValueError(f"give host:port[,host:port], not {text!r}")
    return ",".join(addresses)


_BROKER: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/@]+)(:[0-9]+)?")


def _lost_states(text: str) -> str:
    if text and not re.fullmatch(r"[0-9]{1,9}:[0-9]{1,19}(,[0-9]{1,9}:[0-9]{1,19})*", text):
        raise ValueError("give what the aggregator that stopped says in its log, such as 3:1200,7:0 (docs/operate.md)")
    return text


def _lost_records(text: str) -> str:
    if text and not re.fullmatch(r"[a-z.]+/[0-9]{1,9}:[0-9]{1,19}(,[a-z.]+/[0-9]{1,9}:[0-9]{1,19})*", text):
        raise ValueError("give what the rater that stopped says in its log, such as usage.raw/3:1200 (docs/operate.md)")
    return text


Dsn = Annotated[SecretStr, AfterValidator(_dsn)]


class Settings(BaseSettings):
    """Frozen; secrets never show in a repr."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=False,
        hide_input_in_errors=True,
    )

    home: Path = Field(default=Path(".meterstream"), description="folder of the local stack, logs and health files")

    kafka_bootstrap: Annotated[str, AfterValidator(_brokers)] = Field(
        default="", description="host:port[,host:port]; empty: the local stack's broker"
    )
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str = ""
    kafka_sasl_password: SecretStr = SecretStr("")
    kafka_ca_file: Path | None = Field(default=None, description="PEM file of the authority that signed the broker")

    postgres_admin_dsn: Dsn = Field(default=SecretStr(""), description="migrations and roles; may create roles")
    postgres_ingest_dsn: Dsn = Field(default=SecretStr(""), description="the sink: role meterstream_ingest")
    postgres_reader_dsn: Dsn = Field(default=SecretStr(""), description="operators: role meterstream_reader")

    rater_linger_ms: int = Field(
        default=20,
        ge=0,
        le=1000,
        description="how long rows wait for company in a pack; five times as long under load, and while the rater is "
        "behind until their pack is full, at most a commit interval",
    )
    rater_poll_records_max: int = Field(default=2000, ge=1, le=20_000)
    rater_commit_interval_ms: int = Field(
        default=250, ge=10, le=10_000, description="coverage, then commit, this often"
    )
    rater_pause_on_bad_share: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="share of bad records at which the rater pauses; 0: never, only alarm and degraded health",
    )
    rater_accept_loss: Annotated[str, AfterValidator(_lost_records)] = Field(
        default="",
        description="go on where source records before these offsets were deleted unread, "
        "TOPIC/PARTITION:OFFSET[,...], as the rater that stopped has named them; no later loss (docs/operate.md)",
    )
    bad_share_alarm: float = Field(
        default=0.05, gt=0.0, le=1.0, description="share of bad records that raises the alarm"
    )

    sink_batch_rows_max: int = Field(default=16_000, ge=1, le=100_000)
    sink_batch_age_ms: int = Field(default=150, ge=0, le=10_000)
    instance: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,200}$",
        description="name of this sink or aggregator in its consumer group, the same after every restart and nobody "
        "else's: a killed one then gets its partitions back at once. Empty: it has none, and leaves the group when it "
        "ends; a supervisor names its sink and its aggregator itself. A rater has no name, whatever this says",
    )
    partition_policy: Literal["month", "day"] = Field(default="month", description="size of a ledger leaf")
    partitions_ahead: int = Field(default=3, ge=1, le=24, description="leaves that must exist ahead of today")

    aggregator_flush_ms: int = Field(
        default=300, ge=50, le=10_000, description="state is stored this often; alerts do not wait for it"
    )
    aggregates_interval_ms: int = Field(
        default=1_000, ge=50, le=60_000, description="windows and budgets that changed are published this often"
    )
    aggregator_bootstrap: Annotated[str, AfterValidator(_lost_states)] = Field(
        default="",
        description="begin in mid-log where the topic does not hold what these states need, PARTITION:OFFSET[,...], as "
        "the aggregator that stopped has named them; no other state, and no later one",
    )

    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, max_length=253, description="where a role answers /metrics and /health"
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="0: any that is free; `status` shows it. One port serves one role"
    )
    drain_timeout_s: float = Field(default=30.0, gt=0, le=300)

    # A field's validator sees those before it, where they are right: so every mistake is found, whatever else is wrong.
    @field_validator("kafka_sasl_username", "kafka_sasl_password")
    @classmethod
    def _needed_by_sasl(cls, value: str | SecretStr, info: ValidationInfo) -> str | SecretStr:
        security: str = info.data.get("kafka_security", "")
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if security.startswith("SASL") and not text:
            raise ValueError(f"is needed where {PREFIX}KAFKA_SECURITY is {security}")
        return value

    @field_validator("kafka_ca_file")
    @classmethod
    def _holds_certificates(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None and info.data.get("kafka_security", "").endswith("SSL"):
            try:
                ssl.create_default_context(cafile=file)
            except OSError as error:  # ssl.SSLError is one too
                raise ValueError(f"{file} holds no certificates that can be read: {error}") from error
        return file

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over variables, variables over the folder of secrets, that over the file."""
        folder = os.environ.get(SECRETS_VARIABLE)
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        if folder and Path(folder).is_dir():
            sources = (*sources, SecretsSettingsSource(settings_cls, folder))
        return (*sources, InitSettingsSource(settings_cls, _in_file()[0]))

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Reads variables and file. Raises SettingsError with all mistakes; never prints a value of a secret."""
        in_file, unreadable = _in_file()
        problems = [*_unknown_names(cls), *_missing_file(), *unreadable, *_log_format()]
        try:
            settings = cls(**overrides)
        except ValidationError as error:
            found = error.errors(include_input=False, include_url=False)
            problems += [_problem(item, cls.model_fields, in_file.keys() - overrides.keys()) for item in found]
        except (OSError, ValueError) as error:  # the file of a secret cannot be read
            problems.append(f"{SECRETS_VARIABLE}: {error}")
        if problems:
            raise SettingsError(problems)
        return settings


def _in_file() -> tuple[dict[str, Any], list[str]]:
    """-> (what the TOML file says, why it cannot be read)."""
    file = os.environ.get(CONFIG_VARIABLE)
    if not file or not Path(file).is_file():
        return {}, []
    try:
        return tomllib.loads(Path(file).read_text("utf-8")), []
    except (OSError, ValueError) as error:  # both TOMLDecodeError and UnicodeDecodeError are ValueErrors
        return {}, [f"{file}: cannot be read as TOML: {error}"]


def _unknown_names(cls: type[Settings]) -> list[str]:
    """Variables, and files in the folder of secrets."""
    settings = {PREFIX + name.upper() for name in cls.model_fields}
    known = settings | {CONFIG_VARIABLE, SECRETS_VARIABLE, *RUNTIME_VARIABLES}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    folder = os.environ.get(SECRETS_VARIABLE)
    if folder and Path(folder).is_dir():
        names = sorted(path.name for path in Path(folder).iterdir())
        unknown += [name for name in names if name.startswith(PREFIX) and name not in settings]
    return [f"{name}: there is no such setting" for name in unknown]


def _missing_file() -> list[str]:
    file, folder = os.environ.get(CONFIG_VARIABLE), os.environ.get(SECRETS_VARIABLE)
    problems = []
    if file and not Path(file).is_file():
        problems.append(f"{CONFIG_VARIABLE}: there is no file {file}")
    if folder and not Path(folder).is_dir():
        problems.append(f"{SECRETS_VARIABLE}: there is no folder {folder}")
    return problems


def _log_format() -> list[str]:
    wanted = os.environ.get(LOG_FORMAT_VARIABLE, LOG_FORMATS[0])
    return [] if wanted in LOG_FORMATS else [f"{LOG_FORMAT_VARIABLE} is {wanted!r}: give {' or '.join(LOG_FORMATS)}"]


def _problem(item: Any, known: Collection[str], in_file: Collection[str]) -> str:
    """With the name by which a person can find it: that of a variable or, where none is set, the key in the file."""
    name = ".".join(str(part) for part in item["loc"])
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        meant = name.lower().removeprefix(PREFIX.lower())
        text = "there is no such setting" + (f": write {meant}" if meant in known else "")
    variable = PREFIX + name.upper()
    if name in in_file and variable not in os.environ and not _is_secret_file(variable):
        return f"{os.environ[CONFIG_VARIABLE]}: {name}: {text}"
    return f"{variable}: {text}"


def _is_secret_file(variable: str) -> bool:
    folder = os.environ.get(SECRETS_VARIABLE)
    return bool(folder) and Path(str(folder), variable).is_file()


LOG_FORMAT_VARIABLE: Final = "METERSTREAM_LOG_FORMAT"
LOG_FORMATS: Final = ("text", "json")

RUNTIME_VARIABLES = frozenset(
    {
        "METERSTREAM_PG_BIN",  # folder of a Postgres' binaries, for `up --postgres system`
        LOG_FORMAT_VARIABLE,  # how roles write their logs
        "METERSTREAM_CACHE",  # where jars and the JVM's cache are kept
        "METERSTREAM_FAILPOINT",  # tests only: where a role ends or pauses itself
    }
)
"""Variables that are read elsewhere, each by one module."""
