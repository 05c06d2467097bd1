"""What every Kafka client of ours is given to connect with."""

from __future__ import annotations

import ssl
from typing import Any

from meterstream.schema.settings import Settings


def client_options(settings: Settings) -> dict[str, Any]:
    """The connection arguments of aiokafka's producer, consumer and admin client, TLS and SASL included.

    `settings` must have an address (`meterstream.deploy.connections.resolve`). Reads the CA file. Host
    names are checked; without a file of our own the system's authorities are trusted.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap,
        "security_protocol": settings.kafka_security,
    }
    if settings.kafka_security.endswith("SSL"):
        options["ssl_context"] = ssl.create_default_context(cafile=settings.kafka_ca_file)
    if settings.kafka_security.startswith("SASL"):
        options |= _sasl(settings)
    return options


def _sasl(settings: Settings) -> dict[str, str]:
    return {
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": settings.kafka_sasl_password.get_secret_value(),
    }
