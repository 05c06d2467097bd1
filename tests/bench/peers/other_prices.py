"""The same events priced by another library, each call with its tokens: CPU seconds and the amounts.

In, one line: the library and the calls. Out, one line. What a library cannot price has no amount.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec


class Arguments(msgspec.Struct, frozen=True):
    library: str
    calls: list[tuple[str, str, datetime, dict[str, int]]]


def genai_prices() -> Callable[[str, str, datetime, dict[str, int]], Any]:
    """As its documentation has it; prices of the call's own day."""
    library: Any = importlib.import_module("genai_prices")
    names = {"input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"}

    def price(provider: str, model: str, at: datetime, usage: dict[str, int]) -> Any:
        tokens = library.Usage(**{name: quantity for name, quantity in usage.items() if name in names})
        return library.calc_price(tokens, model, provider_id=provider, genai_request_timestamp=at).total_price

    return price


def litellm() -> Callable[[str, str, datetime, dict[str, int]], Any]:
    """As its documentation has it; it knows the prices of today only, and they are floats."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched
    library: Any = importlib.import_module("litellm")

    def price(provider: str, model: str, at: datetime, usage: dict[str, int]) -> Any:
        given, made = library.cost_per_token(
            model=model,
            custom_llm_provider={"google": "gemini"}.get(provider, provider),
            prompt_tokens=usage["input_tokens"],
            completion_tokens=usage.get("output_tokens", 0),
            cache_read_input_tokens=usage.get("cache_read_tokens", 0),
            cache_creation_input_tokens=usage.get("cache_write_tokens", 0),
        )
        return given + made

    return price


def main() -> None:
    arguments = msgspec.json.decode(sys.stdin.buffer.readline(), type=Arguments)
    price = {"genai-prices": genai_prices, "litellm": litellm}[arguments.library]()

    def run() -> list[str | None]:
        amounts: list[str | None] = []
        for call in arguments.calls:
            try:
                amounts.append(str(price(*call)))
            except Exception:  # each library has its own for a model that it does not know
                amounts.append(None)
        return amounts

    run()  # what it looks up once is not counted
    began = time.process_time()
    amounts = run()
    answer = {"cpu_s": time.process_time() - began, "amounts": amounts}
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")


if __name__ == "__main__":
    main()
