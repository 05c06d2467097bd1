"""An example to copy: a service that calls a model and records what it used, and how its own tests look at that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from meterstream.producers import MemoryTransport, MeterClient

# ---------------------------------------------------------------- the service


class Summariser:
    """Asks a model; `ask` is the vendor's SDK."""

    def __init__(self, ask: Any, meter: MeterClient) -> None:
        self._ask = ask
        self._meter = meter

    def summarise(self, customer: str, text: str) -> str:
        answer = self._ask(f"Summarise: {text}")
        self._meter.record_response("openai", answer, tenant=customer, operation="chat", project_id="summaries")
        summary: str = answer["choices"][0]["message"]["content"]
        return summary


# ---------------------------------------------------------------- its tests


def answer_of_the_model(prompt: str) -> dict[str, Any]:
    return {
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"message": {"role": "assistant", "content": "It is about cats."}}],
        "usage": {
            "prompt_tokens": len(prompt.split()),
            "completion_tokens": 4,
            "total_tokens": len(prompt.split()) + 4,
        },
    }


@pytest.fixture
def transport() -> MemoryTransport:
    return MemoryTransport()


@pytest.fixture
def meter(transport: MemoryTransport) -> Iterator[MeterClient]:
    with MeterClient("summariser", transport=transport, on_error="raise") as client:
        yield client


def test_the_customer_is_charged_for_the_call(meter: MeterClient, transport: MemoryTransport) -> None:
    assert Summariser(answer_of_the_model, meter).summarise("acme", "cats and cats") == "It is about cats."
    meter.flush()
    (event,) = transport.events
    assert (event["tenant"], event["data"]["project_id"]) == ("acme", "summaries")
    assert event["data"]["vendor_usage"]["usage"]["completion_tokens"] == 4


def test_nothing_of_the_text_is_recorded(meter: MeterClient, transport: MemoryTransport) -> None:
    Summariser(answer_of_the_model, meter).summarise("acme", "cats and cats")
    meter.flush()
    assert b"cats" not in b"".join(record.value for record in transport.records)
