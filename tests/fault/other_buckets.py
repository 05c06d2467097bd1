"""An aggregator that splits tenants into another number of buckets, as another version may. Run it as a script."""

from __future__ import annotations

import sys

from meterstream.deploy import roles
from meterstream.processors.aggregation import cut, fold, loss

BUCKETS = 48

if __name__ == "__main__":
    for module in (cut, fold, loss):
        module.BUCKETS = BUCKETS  # type: ignore[attr-defined]
    sys.exit(roles.main(sys.argv[1:]))
