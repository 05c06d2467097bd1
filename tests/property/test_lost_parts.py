"""No count of a vendor's body is lost: one more of it changes what is read, or makes the event unmetered.

What may change without a trace is named, one by one, with the reason.
"""

from __future__ import annotations

import random
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from meterstream.processors.rating.vendors import Reading, Unreadable, read
from tests.property.test_vendors import BODIES

Path = tuple[str | int, ...]


class Allowed(NamedTuple):
    """Members (dotted, `[]` an element, from their end) that are no part of what is paid, `where` they stand so."""

    members: str
    reason: str
    where: Callable[[Any, Path], bool] = lambda body, path: True


def beside(name: str) -> Callable[[Any, Path], bool]:
    """Its holder has that member too."""
    return lambda body, path: name in _holder(body, path)


def _is_own_key(body: Any, path: Path) -> bool:
    return _holder(body, path).get("is_byok") is True


def _model(body: Any, path: Path) -> str:
    return str(body.get("model") or (body.get("response") or {}).get("model") or "")


def _is_reasoning_on_top(body: Any, path: Path) -> bool:
    usage = _holder(body, path)
    details = usage.get("output_tokens_details") or usage.get("completion_tokens_details") or {}
    parts = sum(
        usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
    )
    return bool((usage.get("total_tokens") or 0) - parts == details.get("reasoning_tokens"))


ALLOWED: Final = (
    Allowed("completion_tokens_details.accepted_prediction_tokens", "in the output already"),
    Allowed("completion_tokens_details.rejected_prediction_tokens", "in the output already"),
    Allowed("(completion|prompt|queue|total)_time", "Groq's seconds are latency"),
    Allowed("server_tool_use.web_fetch_requests", "fetching costs its tokens alone"),
    Allowed("server_side_tool_usage_details.mcp_calls", "a server of one's own costs its tokens alone"),
    Allowed(
        "num_server_side_tools_used",
        "the sum of what is said by kind",
        lambda body, path: bool(_holder(body, path).get("server_side_tool_usage_details")),
    ),
    Allowed(
        "cost_details.upstream_inference_(completions_|prompt_|input_|output_)?cost",
        "a part of the cost, but with a key of one's own",
        lambda body, path: _holder(body, path[:-1]).get("is_byok") is not True or path[-1] != "upstream_inference_cost",
    ),
    Allowed("upstream_inference_cost", "nobody says the fee", lambda body, path: _lacks(body, path[:-1], "cost")),
    Allowed("cost", "a key of one's own, and nobody says what the vendor behind takes", _is_own_key),
    Allowed(
        "cost.(input_tokens|output_tokens|reasoning_tokens|citation_tokens|search_queries|request)_cost",
        "a part of total_cost, or of what is not said",
    ),
    Allowed("pydantic_ai_gateway.cost_estimate", "a gateway's guess"),
    Allowed("tokens.(input|output)_tokens", "Cohere's real tokens, which nobody bills"),
    Allowed("cached_tokens", "Cohere's real tokens", beside("billed_units")),
    Allowed("api_version.version", "no quantity"),
    Allowed("cache_(discount|ttl)", "said of a cache beside its tokens, no quantity"),
    Allowed("results.\\[\\].id", "no quantity"),
    Allowed("usage_info.doc_size_bytes", "pages are paid"),
    Allowed("num_segments", "a message with media has one price", lambda body, path: str(body.get("num_media")) != "0"),
    Allowed(
        "num_(segments|media)",
        "a failed message costs one fee",
        lambda body, path: _holder(body, path).get("status") == "failed",
    ),
    Allowed("error_code", "which failure it was, no quantity"),
    Allowed("num_media", "one price, however many", lambda body, path: str(body.get("num_media")) != "0"),
    Allowed(
        "(prompt|candidates|response|cache|toolUsePrompt)Tokens?Details\\.\\[\\]\\.tokenCount",
        "text is what is left of the total",
        lambda body, path: _holder(body, path).get("modality") == "TEXT",
    ),
    Allowed("(text_tokens|textTokens)", "text is what is left of the total"),
    Allowed("(input|output)_token_details.(flex|priority)", "LangChain: what is left of the total, in that tier"),
    Allowed("cache(Read|Write)InputToken(s|Count)", "the same count again, of which one was zero"),
    Allowed("(completion|output)_tokens", "what the total has on top is said to be reasoning", _is_reasoning_on_top),
    Allowed("total_tokens", "seconds are paid; their tokens are in the total alone", beside("prompt_audio_seconds")),
    Allowed(
        "completion_tokens",
        "Gemini behind OpenAI's API: the total tells the truth",
        lambda body, path: "gemini" in _model(body, path) and not _lacks(body, path, "total_tokens"),
    ),
    Allowed(
        "usage.(input_tokens|output_tokens|cache_read_input_tokens|cache_creation_input_tokens)",
        "each round is paid",
        beside("iterations"),
    ),
    Allowed(
        "usage.cache_creation.ephemeral_(5m|1h)_input_tokens",
        "each round is paid",
        lambda body, path: not _lacks(body, path[:-1], "iterations"),
    ),
)


ODD: Final = {
    "upstream_inference_cost",
    "(text_tokens|textTokens)",
    "cache(Read|Write)InputToken(s|Count)",
    "(completion|output)_tokens",
    "usage.cache_creation.ephemeral_(5m|1h)_input_tokens",
}
"""Of these, what only a body that nobody has recorded needs."""


def _holder(body: Any, path: Path) -> Any:
    for name in path[:-1]:
        body = body[name]
    return body


def _lacks(body: Any, path: Path, name: str) -> bool:
    return _holder(body, path).get(name) is None


def dotted(path: Path) -> str:
    return ".".join("[]" if isinstance(name, int) else name for name in path)


def reason_for(body: Any, path: Path) -> Allowed | None:
    """Why one more at this place need not change anything; None: it must."""
    for allowed in ALLOWED:
        if re.search(rf"(^|\.){allowed.members}$", dotted(path)) and allowed.where(body, path):
            return allowed
    return None


def numbers(value: Any, path: Path = ()) -> Iterator[Path]:
    """Where numbers of at least zero stand, those in a text too."""
    if isinstance(value, dict | list):
        for name, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(member, (*path, name))
    elif (type(value) in (int, float) and value >= 0) or (
        isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value)
    ):
        yield path


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,12}", text) is not None


def raised(body: Any, path: Path, by: int) -> Any:
    """A copy in which this number is greater."""
    copy = deepcopy(body)
    holder = _holder(copy, path)
    value = holder[path[-1]]
    holder[path[-1]] = str(int(value) + by) if isinstance(value, str) else value + by
    return copy


def reading(body: Any) -> Reading | None:
    """None: unmetered."""
    try:
        return read(msgspec.json.encode(body))
    except Unreadable:
        return None


def lost(body: Any, path: Path, by: int, used: Counter[Allowed]) -> bool:
    """Whether so much more at this place leaves no trace, and nobody has said why it need not."""
    before = reading(body)
    if before is None or reading(raised(body, path, by)) != before:
        return False
    allowed = reason_for(body, path)
    if allowed is not None:
        used[allowed] += 1
    return allowed is None


def test_one_more_of_anything_in_a_known_body_is_seen() -> None:
    used: Counter[Allowed] = Counter()
    wrong = [
        (dotted(path), by, body)
        for body in BODIES
        for path in numbers(body)
        for by in (1, 1000)
        if lost(body, path, by, used)
    ]
    assert not wrong, wrong[:3]
    needless = {allowed.members for allowed in ALLOWED} - {allowed.members for allowed in used}
    assert needless <= ODD, f"nothing needs these: {needless}"


def thinned(pick: random.Random, body: Any) -> Any:
    """A copy without up to three of its members, and with up to two other numbers: bodies that nobody has recorded."""
    copy = deepcopy(body)
    for _ in range(pick.randint(0, 3)):
        holders = [copy]
        while any(isinstance(member, dict) for member in holders[-1].values()) and pick.random() < 0.7:
            holders.append(pick.choice([member for member in holders[-1].values() if isinstance(member, dict)]))
        if holders[-1]:
            del holders[-1][pick.choice(list(holders[-1]))]
    for _ in range(pick.randint(0, 2)):
        places = list(numbers(copy))
        if places:
            copy = raised(copy, pick.choice(places), pick.choice((1, 7, 1000)))
    return copy


def fuzz(seed: int, rounds: int) -> Counter[str]:
    """Raises AssertionError with seed, turn and place for a count that was lost."""
    pick = random.Random(seed)
    told: Counter[str] = Counter()
    used: Counter[Allowed] = Counter()
    for turn in range(rounds):
        body = thinned(pick, pick.choice(BODIES))
        places = list(numbers(body))
        if not places or reading(body) is None:
            told["nothing to raise"] += 1
            continue
        path, by = pick.choice(places), pick.choice((1, 3, 10**4))
        assert not lost(body, path, by, used), f"seed {seed}, turn {turn}: {dotted(path)} + {by} of {body}"
        told["seen"] += 1
    told["allowed"] = used.total()
    return told


def test_one_more_of_anything_in_an_odd_body_is_seen() -> None:
    told = fuzz(20261121, 4000)
    assert told["seen"] > 1000 > told["allowed"], told


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(4))
def test_a_hundred_thousand_times_four(part: int) -> None:
    """Which ones chance decides, and a failure names its seed."""
    told = fuzz(secrets.randbits(32), 100_000)
    assert told["seen"] > 25_000, told
