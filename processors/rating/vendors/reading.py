"""What a vendor's body says, and the careful look at one value of it. Pure.

A body is whatever its publisher has sent: each of these functions takes any JSON value, and raises
`Unreadable` where a count is no count. None and a missing member are the same: not said.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Final, NamedTuple

from meterstream.schema.event import NAME_LENGTH_MAX
from meterstream.schema.money import PICO_PLACES
from meterstream.schema.names import is_name
from meterstream.schema.units import COLUMN_UNITS, QUANTITY_MAX, QUANTITY_PLACES_MAX, WHOLE_UNITS, misfit

Json = dict[str, Any]
"""A JSON object; fractions are Decimals."""
Quantity = int | Decimal

KINDS: Final = ("audio", "image", "video")
"""Kinds of tokens with units of their own; what is left of a total is text."""

_DECIMAL_TEXT: Final = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?")
_NO_COUNT: Final = re.compile(r"(?:cost|price|discount|savings|rate|ratio|ttl|time|ms|seconds)$", re.IGNORECASE)
"""How names end of what is said of a cache beside its tokens."""
_REPORTED_MAX: Final = 10**7
_SHOWN_MAX: Final = 40
_EXACT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
_TOTALS: Final = COLUMN_UNITS[:2]
_LEAVES_THINKING_OUT: Final = "gemini"
_TIERS: Final = {"auto": "", "default": "standard", "on_demand": "standard"}


class Unreadable(Exception):
    """Why the usage of a body is not known: the event is kept `unmetered` with this text."""


class Reading(NamedTuple):
    """What a body says, in our words. An empty text: it does not say."""

    usage: dict[str, Quantity]
    """Canonical: totals are inclusive, parts are above zero and do not overlap."""
    model: str = ""
    """The model that answered."""
    service_tier: str = ""
    reported_amount: str | None = None
    """What the vendor says it charged, plain decimal text with at most 12 places."""
    reported_currency: str = ""
    """Given if and only if `reported_amount` is."""
    tells_batches: bool = False
    """Whether this vendor's bodies say `batch` of a batch; those of the others say `standard` there too."""


def member(holder: Json, *names: str) -> Json:
    """The first of these members that is given, an object; empty when none is."""
    for name in names:
        value = holder.get(name)
        if isinstance(value, dict):
            return value
        if value is not None:
            raise Unreadable(f"{name} is {_shown(value)}, not an object")
    return {}


def answer_of(body: Json) -> tuple[Json, Json]:
    """(the answer, its usage) of an answer, of the event that ends a stream, or of a usage object alone."""
    answer = member(body, "response") or body
    if "usage" not in answer and "usage_metadata" in answer:  # LangChain's messages
        return answer, member(answer, "usage_metadata")
    return answer, member(answer, "usage") if "usage" in answer else answer


def items(holder: Json, *names: str) -> Sequence[Json]:
    """The objects of the first of these arrays that is given."""
    for name in names:
        value = holder.get(name)
        if isinstance(value, list):
            if not all(isinstance(item, dict) for item in value):
                raise Unreadable(f"{name} holds something else than objects")
            return value
        if value is not None:
            raise Unreadable(f"{name} is {_shown(value)}, not an array")
    return ()


def name_of(holder: Json, name: str) -> str:
    """A short text such as a model or a tier; empty when it is not given."""
    value = holder.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unreadable(f"{name} is {_shown(value)}, not text")
    if len(value) > NAME_LENGTH_MAX or any(ord(character) < 0x20 for character in value):
        raise Unreadable(f"{name} is {_shown(value)}: too long, or with a control character")
    return value


def sdk_model(body: Json) -> str:
    """The model as SDKs name it beside a usage of their own words; empty where they do not."""
    response = body.get("response")
    return (
        name_of(body, "model")
        or name_of(body, "modelId")
        or (name_of(response, "modelId") if isinstance(response, dict) else "")
    )


def count(holder: Json, *names: str) -> Quantity | None:
    """The first of these members that is given, a quantity of at least zero; None when none is.

    Numbers as text ("3") are numbers. A fraction is rounded to the nine places of a quantity, never to zero.
    """
    for name in names:
        value = holder.get(name)
        if type(value) is int and 0 <= value <= QUANTITY_MAX:
            return value  # by far the commonest
        if value is not None:
            return _quantity(name, value)
    return None


def need(holder: Json, name: str) -> Quantity:
    """A quantity that a body of this shape always has."""
    quantity = count(holder, name)
    if quantity is None:
        raise Unreadable(f"{name} is missing")
    return quantity


def canonical(usage: Mapping[str, Quantity | None]) -> dict[str, Quantity]:
    """Leaves out what is not given and what is zero, but for input_tokens and output_tokens.

    Raises Unreadable where nothing is left, a part is above its total, a quantity is out of bounds or a
    count is no whole number.
    """
    found = {unit: quantity for unit, quantity in usage.items() if quantity or (unit in _TOTALS and quantity == 0)}
    if not found:
        raise Unreadable("the body counts nothing")
    for unit, quantity in found.items():
        if not 0 <= quantity <= QUANTITY_MAX:
            raise Unreadable(f"{unit} is {quantity}; it is 0 to {QUANTITY_MAX}")
        if unit in WHOLE_UNITS and type(quantity) is not int:
            raise Unreadable(f"{unit} is {quantity}; it is counted in whole numbers")
    reason = misfit(found)
    if reason is not None:
        raise Unreadable(reason)
    return found


def agreed(what: str, *said: Quantity | None) -> Quantity | None:
    """What several members say of one thing: those above zero are equal. Raises Unreadable where they are not."""
    given = [quantity for quantity in said if quantity is not None]
    above_zero = list(dict.fromkeys(quantity for quantity in given if quantity))
    if len(above_zero) > 1:
        raise Unreadable(f"{what} are said to be {' and '.join(str(quantity) for quantity in above_zero)}")
    return above_zero[0] if above_zero else (given[0] if given else None)


def output_of(
    given: Quantity, made: Quantity | None, total: Quantity | None, reasoning: Quantity | None = None, model: str = ""
) -> Quantity:
    """Output tokens where input and total include all of theirs.

    Some leave thinking out of the output and put it into the total: xAI says how much it was, Gemini (behind OpenAI's
    API) does not. Raises Unreadable where the total is another and neither explains it: those tokens may be anything.
    """
    if made is None:
        if total is None:
            raise Unreadable("neither the output nor the total is given")
        made = max(total - given, 0)
    if total is None:
        return made
    rest = total - given - made
    if rest < 0:
        raise Unreadable(f"the total is {total}, but its parts are {given} and {made}")
    if rest and rest != reasoning and _LEAVES_THINKING_OUT not in model.lower():
        raise Unreadable(
            f"the total is {total}, but its parts are {given} and {made}: nothing says what the other {rest} are"
        )
    return made + rest


def refuse_unread_cache(known: Collection[str], *holders: Json) -> None:
    """Raises Unreadable for a count of a cache in a spelling that nobody reads: else it costs the full price."""
    for holder in holders:
        for name, value in holder.items():
            if (
                "ach" in name
                and name not in known
                and _NO_COUNT.search(name) is None
                and _is_count_of_cache(name, value)
            ):
                quantity = count(holder, name)
                if quantity:
                    told = name[:_SHOWN_MAX] if is_name(name) else "a count of a cache"
                    raise Unreadable(f"{told} is {quantity}, and nothing is known of it")


def _is_count_of_cache(name: str, value: Any) -> bool:
    if "cache" not in name.lower() or isinstance(value, bool):
        return False
    is_number_text = isinstance(value, str) and _DECIMAL_TEXT.fullmatch(value) is not None
    return is_number_text or isinstance(value, int | Decimal)


def check_split(name: str, total: Quantity | None, by_kind: Mapping[str, Quantity]) -> None:
    """By kind, text included, there is no more than in all; there may be less. Raises Unreadable."""
    split = sum(by_kind.values())
    if split > (total or 0):
        raise Unreadable(f"by kind there are {split} {name}, of {total or 0} in all")


def cached_by_kind(total: Quantity, by_kind: Mapping[str, Quantity], cached: Quantity | None) -> dict[str, Quantity]:
    """Of which kinds cached tokens are, where a body does not say: text first, the rest of the only other kind.

    What a cache holds is the beginning of a prompt, which is text as a rule; so the dearer tokens are not taken for
    cached ones without need. Raises Unreadable where several kinds could be meant.
    """
    others = {kind: quantity for kind, quantity in by_kind.items() if kind != "text" and quantity}
    over = (cached or 0) - (total - sum(others.values()))
    if over <= 0:
        return {}
    if over == sum(others.values()):
        return others
    if len(others) > 1:
        raise Unreadable(f"{cached} tokens were cached, and the body does not say of which kind")
    return dict.fromkeys(others, over)


def uncached(given: Quantity, cached: Quantity, kind: str) -> Quantity:
    """Tokens of one kind that were not read from a cache, out of all of that kind."""
    if cached > given:
        raise Unreadable(f"{cached} {kind} tokens came from a cache, of {given} in all")
    return given - cached


def tier(name: str) -> str:
    """A vendor's service tier in our words: standard, batch, flex, priority; any other as it is."""
    name = name.lower()
    return _TIERS.get(name, name)


def reported(holder: Json, name: str) -> str | None:
    """What the vendor says it charged. More than 12 places are rounded half to even."""
    amount = money(holder, name)
    return None if amount is None else plain(amount)


def money(holder: Json, name: str, parts: int = 1) -> Decimal | None:
    """An amount of at least zero, of which the member counts `parts`; None when it is not given."""
    value = holder.get(name)
    if value is None:
        return None
    number = _number(name, value)
    if number < 0:
        raise Unreadable(f"{name} is {_shown(number)}; nobody charges less than nothing")
    return _EXACT.divide(number.copy_abs(), Decimal(parts))  # of -0 too


def debit(holder: Json, name: str) -> str | None:
    """What was charged where the vendor writes a charge as a negative number; without its sign."""
    value = holder.get(name)
    return None if value is None else plain(_number(name, value).copy_abs())


def plain(amount: Decimal) -> str:
    """As decimal text with at most 12 places, rounded half to even. Raises Unreadable where it cannot be a cost."""
    if amount >= _REPORTED_MAX:
        raise Unreadable(f"the cost is {_shown(amount)}, more than anybody charges for one call")
    text = f"{_rounded(amount, PICO_PLACES):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _quantity(name: str, value: Any) -> Quantity:
    number = _number(name, value)
    if number < 0:
        raise Unreadable(f"{name} is {_shown(value)}; a quantity is never negative")
    if number > QUANTITY_MAX:
        raise Unreadable(f"{name} is {_shown(value)}; the bound is {QUANTITY_MAX}")
    rounded = _rounded(number, QUANTITY_PLACES_MAX)
    if number and not rounded:
        raise Unreadable(f"{name} is {_shown(value)}; at most {QUANTITY_PLACES_MAX} decimal places")
    whole = int(rounded)
    return whole if whole == rounded else rounded.normalize()


def _number(name: str, value: Any) -> Decimal:
    if isinstance(value, str) and _DECIMAL_TEXT.fullmatch(value):
        return Decimal(value)
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        number = Decimal(value)
        if number.is_finite() and number.adjusted() < _EXACT.prec // 2:
            return number
    raise Unreadable(f"{name} is {_shown(value)}, not a number")


def _rounded(number: Decimal, places: int) -> Decimal:
    return number.quantize(Decimal(1).scaleb(-places), context=_EXACT)


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return "a number of more than 38 digits"
    if isinstance(value, int | Decimal):
        text = str(value)
        return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
    # Not the words themselves: they may be of a prompt.
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    return "an array" if isinstance(value, list) else "an object"
