"""What a client is made with: a mistake is told where it is made, with the way out, never taken silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meterstream.producers import AsyncMeterClient, Bounds, MemoryTransport, MeterClient

MEMORY: dict[str, Any] = {"transport": MemoryTransport()}


@pytest.mark.parametrize("client", [MeterClient, AsyncMeterClient])
def test_an_option_that_is_none_is_named_with_the_nearest(client: Any) -> None:
    with pytest.raises(TypeError, match=r"no option 'spol'.* did you mean 'spool'"):
        client("shop", **MEMORY, spol="/somewhere")
    with pytest.raises(TypeError, match=r"no option 'colour'.* bounds, "):
        client("shop", **MEMORY, colour=1)


def test_a_connection_argument_that_is_none_is_named_too() -> None:
    with pytest.raises(TypeError, match=r"'security_protocl'.* did you mean 'security_protocol'"):
        MeterClient("shop", bootstrap_servers="127.0.0.1:9092", client_options={"security_protocl": "SSL"})
    with pytest.raises(ValueError, match="acks"):
        MeterClient("shop", bootstrap_servers="127.0.0.1:9092", client_options={"acks": 1})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"when_full": "Block"}, "'drop' or 'block'"),
    ({"on_error": "x"}, "'log', 'raise' or a function"),
    ({"stream_max_s": "x"}, "stream_max_s is 'x'; give seconds"),
    ({"stream_max_s": 0}, "stream_max_s"),
    ({"stream_max_s": float("nan")}, "stream_max_s"),
    ({"block_s": -1}, "block_s is -1"),
    ({"block_s": True}, "block_s"),
    ({"bounds": Bounds(segment_bytes=0)}, "segment_bytes is 0"),
    ({"bounds": Bounds(segment_bytes=-5)}, "segment_bytes is -5"),
    ({"bounds": Bounds(segment_bytes="4096")}, "segment_bytes is '4096'"),  # type: ignore[arg-type]
    ({"bounds": Bounds(spool_bytes_max=4096, segment_bytes=4096)}, "room for two segments"),
    ({"bounds": 1 << 20}, "give Bounds"),
    ({"spool": ""}, "spool is empty"),
    ({"spool": b"/somewhere"}, "spool is b'/somewhere'"),
    ({"transport": "kafka"}, "transport is 'kafka'"),
]


@pytest.mark.parametrize(("options", "told"), WRONG, ids=str)
def test_a_value_that_cannot_be_is_refused_with_the_way_out(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MeterClient("shop", **{**MEMORY, **options})


@pytest.mark.parametrize("servers", [9092, ["127.0.0.1:9092", 1]])
def test_brokers_are_texts(servers: Any) -> None:
    with pytest.raises(ValueError, match="host:port"):
        MeterClient("shop", bootstrap_servers=servers)


@pytest.mark.parametrize("source", ["", "x" * 257, None, "a\nb", "\ud800", " \u3000"])
def test_a_source_that_no_event_may_have_is_refused(source: Any) -> None:
    with pytest.raises(ValueError, match="source"):
        MeterClient(source, **MEMORY)


def test_what_is_right_is_taken(tmp_path: Path) -> None:
    made = MeterClient(
        "shop",
        **MEMORY,
        spool=str(tmp_path),
        bounds=Bounds(segment_bytes=1024, memory_bytes_max=2048),
        when_full="block",
        block_s=0,
        stream_max_s=0.5,
        on_error=lambda error: None,
    )
    assert made.close()
    assert MeterClient("shop", **MEMORY, spool=None).close()  # type: ignore[arg-type]
    assert MeterClient("shop", bootstrap_servers="127.0.0.1:1", client_options={"client_id": "shop"}).close()
