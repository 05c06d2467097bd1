"""What every Kafka client of ours is given to connect with."""

from __future__ import annotations

import ssl
from typing import Any, Final

from aiokafka.conn import collect_hosts

from meterstream.schema.errors import UsageError
from meterstream.schema.settings import Settings

PORT_MAX: Final = 65535


def client_options(settings: Settings) -> dict[str, Any]:
    """The connection arguments of aiokafka's producer, consumer and admin client, TLS and SASL included.

    `settings` must have an address (`meterstream.deploy.connections.resolve`). Reads the CA file. Raises
    UsageError where an address cannot be read or the security settings do not fit together.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap,
        "security_protocol": settings.kafka_security,
    }
    if settings.kafka_security.endswith("SSL"):
        options["ssl_context"] = _tls(settings)
    if settings.kafka_security.startswith("SASL"):
        options |= _sasl(settings)
    _check_addresses(settings.kafka_bootstrap)
    return options


def _check_addresses(bootstrap: str) -> None:
    try:
        is_good = all(host and 0 < port <= PORT_MAX for host, port, _ in collect_hosts(bootstrap))
    except ValueError:
        is_good = False
    if not is_good:
        raise UsageError(f"METERSTREAM_KAFKA_BOOTSTRAP is {bootstrap!r}: give host:port[,host:port]")


def _tls(settings: Settings) -> ssl.SSLContext:
    """Host names are checked; without a file of our own the system's authorities are trusted."""
    try:
        return ssl.create_default_context(cafile=settings.kafka_ca_file)
    except OSError as error:  # ssl.SSLError is one too
        raise UsageError(
            f"METERSTREAM_KAFKA_CA_FILE: {settings.kafka_ca_file} holds no certificates that can be read: {error}"
        ) from error


def _sasl(settings: Settings) -> dict[str, str]:
    password = settings.kafka_sasl_password.get_secret_value()
    if not settings.kafka_sasl_username or not password:
        raise UsageError(
            f"METERSTREAM_KAFKA_SECURITY is {settings.kafka_security}: "
            "set METERSTREAM_KAFKA_SASL_USERNAME and METERSTREAM_KAFKA_SASL_PASSWORD too"
        )
    return {
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": password,
    }
