"""What stands in the way of adding prices, each in words with the places and the fix. Pure.

Two prices that hold for the same calls, rates of one call in more than one currency, and names that would end
prices of a wider one unsaid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from meterstream.processors.rating.scopes import Ambiguity, Mixture, ambiguities, mixtures, overlaps, shadows
from meterstream.schema.catalog import ALL_UNITS, Price
from meterstream.schema.price_line import condition_text

MIXTURE_FIX: Final = (
    ". Give all its units in one currency, in one file (`meterstream price add --file`), and `withdrawn` for those "
    "that have no rate in it"
)


def new_mixtures(before: Sequence[Price], added: Sequence[Price]) -> list[Mixture]:
    """What the added prices would leave unpriced; not a mixture that was there and that they make no larger."""
    providers = {price.provider for price in added}
    rows = [price for price in before if price.provider in providers]
    known = [(mixture.tenant, set(mixture.prices)) for mixture in mixtures(rows)]
    return [
        mixture
        for mixture in mixtures([*rows, *added])
        if not any(tenant == mixture.tenant and set(mixture.prices) <= prices for tenant, prices in known)
    ]


def models_in(mixture: Mixture, added: Sequence[Price]) -> set[tuple[str, str, str]]:
    """The names of added prices that took part in it."""
    return {
        (price.provider, price.match, price.model)
        for price in added
        if price in mixture.prices or (price.provider, price.model) == (mixture.provider, mixture.model)
    }


def unusable(prices: Sequence[Price], places: Mapping[int, str]) -> str:
    """Why a book of these rows could price some calls never, with the fix; empty where there is nothing of the kind.

    `places`: by price id the file and line that says it.
    """
    mixed = new_mixtures([], prices)
    return contradiction([], prices, places) or (explained(mixed[0], places) + MIXTURE_FIX if mixed else "")


def contradiction(before: Sequence[Price], added: Sequence[Price], places: Mapping[int, str]) -> str:
    """What to say where an added price and another one would both hold for some calls; else empty."""
    return _ambiguity(before, added, places) or _overlap(before, added, places)


def _overlap(before: Sequence[Price], added: Sequence[Price], places: Mapping[int, str]) -> str:
    for found in overlaps([*before, *added]) if any(price.time_window for price in added) else ():
        if set(found.prices) & set(added):
            one, other = (f"{price.time_window!r} ({_place(price, places)})" for price in found.prices)
            price = found.prices[0]
            model = f"{price.provider} {price.model}".rstrip()
            return (
                f"the hours {one} and {other} of {model} {price.unit} have some in common from "
                f"{found.start:%Y-%m-%dT%H:%M:%SZ} on, and both have a rate for them: make one narrower, or withdraw it"
            )
    return ""


LOST_SHOWN_MAX: Final = 12


def shadowed(before: Sequence[Price], added: Sequence[Price]) -> str:
    """What to say where an added name would end prices that are not said anew for it; else empty."""
    providers = {price.provider for price in added}
    for found in shadows([price for price in before if price.provider in providers], added):
        match, name = found.key
        wider = found.lost[0]
        whose = f" for tenant {found.tenant}" if found.tenant is not None else ""
        nearer = f"a {match}" if match != "exact" else "a price of just this name"
        lost = [_rate_text(price) for price in found.lost]
        if len(lost) > LOST_SHOWN_MAX:
            lost[LOST_SHOWN_MAX:] = [f"and {len(lost) - LOST_SHOWN_MAX} more"]
        return (
            f"{found.provider} {name}{whose} is priced by the {_kind(wider)} {wider.model!r}, and {nearer} takes the "
            f"place of all that from {found.start:%Y-%m-%dT%H:%M:%SZ} on, also of what it does not say: "
            f"{', '.join(lost)}. Give these too, in one file (`meterstream price add --file`), or `withdrawn` for "
            "those that are to end"
        )
    return ""


def _kind(price: Price) -> str:
    return "name" if price.match == "exact" else price.match


def _rate_text(price: Price) -> str:
    condition = condition_text(price, with_match=False)
    unit = "all units" if price.unit == ALL_UNITS else price.unit
    rate = f"{price.percent} %" if price.percent is not None else f"{price.rate} {price.currency} / {price.per:,}"
    return f"{unit} {rate}" + (f" ({condition})" if condition else "")


def _ambiguity(before: Sequence[Price], added: Sequence[Price], places: Mapping[int, str]) -> str:
    """What to say where an added pattern shares models with another one; else empty."""
    patterns = {(price.tenant, price.provider, price.model) for price in added if price.match == "pattern"}
    for found in ambiguities([*before, *added]) if patterns else ():
        if any((found.tenant, found.provider, pattern) in patterns for pattern in found.patterns):
            one, other = (f"{name!r} ({_first_place(found, name, places)})" for name in found.patterns)
            return (
                f"the patterns {one} and {other} of {found.provider} stand for the same models "
                f"from {found.start:%Y-%m-%dT%H:%M:%SZ} on, and neither is the more specific: make one narrower, or "
                "write it as a prefix or as names, which come before patterns"
            )
    return ""


def _first_place(found: Ambiguity, pattern: str, places: Mapping[int, str]) -> str:
    return next(_place(price, places) for price in found.prices if price.model == pattern)


def _place(price: Price, places: Mapping[int, str]) -> str:
    return places.get(price.price_id, f"revision {price.revision}")


def explained(mixture: Mixture, places: Mapping[int, str]) -> str:
    """One sentence: the model, from when on, and each rate with its currency and place."""
    model = f"{mixture.provider} {mixture.model}".rstrip()
    whose = f" for tenant {mixture.tenant}" if mixture.tenant is not None else ""
    rates = ", ".join(
        f"{price.unit} in {price.currency} ({_place(price, places)}"
        + (", for all tenants)" if mixture.tenant is not None and price.tenant is None else ")")
        for price in mixture.prices
    )
    return (
        f"{model} would have rates in more than one currency{whose} from {mixture.start:%Y-%m-%dT%H:%M:%SZ} on, "
        f"and no call could be priced: {rates}"
    )
