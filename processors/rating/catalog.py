"""The entries of `meter.catalog` that the rater uses: prices, and tenants in privacy mode."""

from __future__ import annotations

from meterstream.processors.rating.book import Book
from meterstream.schema.catalog import BudgetEntry, Entry, Head, Price, Tenant


class PriceCatalog:
    """The entries read so far. Rows are immutable, so reading one again changes nothing."""

    def __init__(self) -> None:
        self._prices: dict[int, Price] = {}
        self._private: set[str] = set()
        self._revision = 0

    def apply(self, entry: Entry) -> bool:
        """Takes one entry; True when the book or the private tenants may have changed."""
        match entry:
            case Price():
                self._prices[entry.price_id] = entry
                return False  # not before its head says that the revision is complete
            case Tenant():
                before = entry.tenant in self._private
                (self._private.add if entry.privacy else self._private.discard)(entry.tenant)
                return before != entry.privacy
            case Head():
                changed = entry.revision > self._revision
                self._revision = max(self._revision, entry.revision)
                return changed
            case BudgetEntry():
                return False  # the aggregator's

    def book(self) -> Book:
        """The compiled prices of the newest complete revision."""
        return Book(self._prices.values(), self._revision)

    def private_tenants(self) -> frozenset[str]:
        """Tenants whose ip and user agent are dropped."""
        return frozenset(self._private)
