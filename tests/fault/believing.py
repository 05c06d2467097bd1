"""An aggregator that takes state of any age for the newest: a control, wrong on purpose. Run it as a script."""

from __future__ import annotations

import sys
from typing import Any

from meterstream.deploy import roles
from meterstream.processors.aggregation import checkpoint

_true_restore = checkpoint.restore


def _believe(number: int, records: list[Any], *arguments: Any, **options: Any) -> Any:
    newest = max((record for record in records if record is not None), key=lambda record: record.folded, default=None)
    for record in records:
        if record is not None and newest is not None:
            record.folded, record.prefixes, record.horizon = newest.folded, newest.prefixes, newest.horizon
    return _true_restore(number, records, *arguments, **options)


checkpoint.restore = _believe

if __name__ == "__main__":
    sys.exit(roles.main(sys.argv[1:]))
