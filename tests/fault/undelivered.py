"""An aggregator to which Faust never delivers, as in the seconds after a start. Run it as a script."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from meterstream.deploy import roles
from meterstream.processors.aggregation.app import Host


async def _wait_for_ever(_host: Host, _stream: Any) -> None:
    await asyncio.Event().wait()


Host.is_settled = property(lambda _host: False)  # type: ignore[assignment,method-assign]
Host._run = _wait_for_ever  # type: ignore[method-assign,assignment]

if __name__ == "__main__":
    sys.exit(roles.main(sys.argv[1:]))
