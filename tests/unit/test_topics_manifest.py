"""The manifest says what it must, and a broker is compared with it setting by setting."""

from __future__ import annotations

import ssl
from zlib import crc32

import pytest
from pydantic import SecretStr, ValidationError

from meterstream.deploy.kafka import client_options
from meterstream.deploy.topics import Actual, Difference, compare
from meterstream.schema.errors import Unreachable, UsageError
from meterstream.schema.settings import Settings
from meterstream.schema.topics import (
    AGGREGATES,
    AGGREGATOR_STATE,
    ALERTS,
    BACKFILL,
    CATALOG,
    PRICED,
    RAW,
    REJECTED,
    Topic,
    check_partitions,
    manifest,
    partition_of,
    partitions_of,
    source_ids,
)

DAY_MS = 24 * 3600 * 1000


def as_wanted() -> dict[str, Actual]:
    """A broker on which everything is right; brokers know more settings than we name."""
    return {
        name: Actual(
            partitions=topic.partitions,
            copies=1,
            config={"segment.ms": "1", **{key: str(value) for key, value in topic.config.items()}},
            own={},
        )
        for name, topic in manifest().items()
    }


def test_names_that_the_code_uses_are_in_the_manifest() -> None:
    assert set(manifest()) == {RAW, BACKFILL, PRICED, REJECTED, CATALOG, AGGREGATES, ALERTS, AGGREGATOR_STATE}


def test_a_tenant_has_one_partition_number() -> None:
    assert partitions_of(PRICED) == partitions_of(AGGREGATES) == partitions_of(AGGREGATOR_STATE)
    assert partition_of("acme") == crc32(b"acme") % partitions_of(PRICED)


def test_every_source_and_generation_has_a_number_of_its_own() -> None:
    numbers = list(source_ids().values())
    assert len(set(numbers)) == len(numbers) == 2


def test_only_a_source_topic_is_numbered() -> None:
    topic = manifest()[PRICED].model_dump()
    with pytest.raises(ValidationError, match="source_id"):
        Topic(**{**topic, "source_id": 3})


def test_what_the_guarantees_rest_on() -> None:
    """Append time is the broker's; raw outlives the age limit of 35 days; the catalog keeps every key."""
    for name in source_ids():
        assert manifest()[name].config["message.timestamp.type"] == "LogAppendTime"
        assert int(manifest()[name].config["retention.ms"]) >= 35 * DAY_MS
    assert manifest()[CATALOG].config["cleanup.policy"] == "compact"
    assert manifest()[CATALOG].partitions == 1  # a head must stand behind the prices it speaks of


def test_a_broker_as_wanted_has_no_difference() -> None:
    assert compare(manifest(), as_wanted()) == []


def test_topics_of_others_are_none_of_ours() -> None:
    others = {**as_wanted(), "orders": Actual(partitions=1, copies=1, config={}, own={})}
    assert compare(manifest(), others) == []


def test_each_difference_is_named_with_its_fix() -> None:
    actual = as_wanted()
    del actual[CATALOG]
    actual[PRICED] = Actual(partitions=8, copies=1, config=actual[PRICED].config, own={})
    config = {key: value for key, value in actual[RAW].config.items() if key != "retention.ms"}
    actual[RAW] = Actual(partitions=4, copies=1, config={**config, "max.message.bytes": "1"}, own={})

    found = compare(manifest(), actual)
    assert [(d.topic, d.setting, d.actual) for d in found] == [
        (RAW, "max.message.bytes", "1"),
        (RAW, "retention.ms", "not set"),
        (PRICED, "partitions", "8"),
        (CATALOG, "", ""),
    ]
    told = [str(difference) for difference in found]
    assert all("topics apply" in told[index] for index in (0, 1, 3))
    assert "topics apply" not in told[2] and "next generation" in told[2]
    assert str(Difference(CATALOG, "", "", "")).startswith("meter.catalog: is missing")


# What clients are given to connect with.


def test_plain_options_hold_nothing_that_is_not_needed() -> None:
    assert client_options(Settings(kafka_bootstrap="k:9092")) == {
        "bootstrap_servers": "k:9092",
        "security_protocol": "PLAINTEXT",
    }


def test_sasl_over_tls_checks_host_names() -> None:
    options = client_options(
        Settings(
            kafka_bootstrap="k:9093",
            kafka_security="SASL_SSL",
            kafka_sasl_username="meter",
            kafka_sasl_password=SecretStr("secret"),
        )
    )
    context = options.pop("ssl_context")
    assert context.check_hostname and context.verify_mode is ssl.CERT_REQUIRED
    assert options == {
        "bootstrap_servers": "k:9093",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "meter",
        "sasl_plain_password": "secret",
    }


def test_only_source_topics_may_have_other_counts_and_only_more() -> None:
    check_partitions({RAW: 9, PRICED: 16, CATALOG: 1})
    with pytest.raises(UsageError) as told:
        check_partitions({RAW: 3, PRICED: 17, REJECTED: None})
    for line in (
        "usage.raw has 3 partitions, the manifest says 4",
        "usage.priced has 17 partitions, the manifest says 16",
        "usage.rejected is missing",
    ):
        assert line in str(told.value)
    assert not isinstance(told.value, Unreachable)
    with pytest.raises(Unreachable, match="is missing"):  # a role asks again: it may only just have been made
        check_partitions({RAW: 4, REJECTED: None})


def test_a_retired_number_is_none_in_use() -> None:
    entry = manifest()[RAW].model_dump()
    with pytest.raises(ValueError, match="its source_id is none of them"):
        Topic(**{**entry, "retired_source_ids": (1,)})
    assert Topic(**{**entry, "source_id": 3, "retired_source_ids": (1,)}).retired_source_ids == (1,)
