"""Exa: one request of a kind, and what comes on top of it; `costDollars` is what was charged."""

from __future__ import annotations

from typing import Final

from meterstream.processors.rating.vendors.reading import (
    Json,
    Quantity,
    Reading,
    canonical,
    items,
    member,
    name_of,
    reported,
)

_RESULTS_INCLUDED: Final = 10
"""Results of a search that the request's price includes."""


def read(body: Json) -> Reading | None:
    """None: no answer of Exa. The model is the kind of search, `answer` or `contents`."""
    if "costDollars" not in body:
        return None
    results = items(body, "results")
    kind = name_of(body, "resolvedSearchType") or name_of(body, "searchType")
    quantities: dict[str, Quantity | None]
    if "answer" in body:
        kind, quantities = "answer", {"requests": 1}
    elif "statuses" in body:
        fetched = [page for page in items(body, "statuses") if page.get("status") == "success"]
        kind, quantities = "contents", {"pages": len(fetched)} if fetched else {"requests": 1}
    else:
        quantities = {"requests": 1, "extra_results": max(0, len(results) - _RESULTS_INCLUDED)}
    quantities["summaries"] = sum(bool(result.get("summary")) for result in results)
    amount = reported(member(body, "costDollars"), "total")
    return Reading(
        canonical(quantities), kind, reported_amount=amount, reported_currency="" if amount is None else "USD"
    )
