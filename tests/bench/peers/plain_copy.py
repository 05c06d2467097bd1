"""The sink's floor: COPY of the same rows into a table of the same columns without any index, and nothing else.

It uses the sink's own session, so amounts and JSON go to the server as cheaply as they do there.
In: one line of arguments, then "go", then "end". Out: one line when the rows are in memory, one when they are stored.
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec

from meterstream.schema.money import to_pico
from meterstream.sinks.postgres.connection import connect

AMOUNTS = ("amount", "reported_amount")


class Arguments(msgspec.Struct, frozen=True):
    dsn: str
    source: str
    rows: int


def say(answer: dict[str, object]) -> None:
    """One line of JSON."""
    print(msgspec.json.encode(answer).decode(), flush=True)


async def main(arguments: Arguments) -> None:
    """Reads the ledger's rows of one source, then copies them when it is told to."""
    connection = await connect(arguments.dsn)
    await connection.execute("CREATE SCHEMA IF NOT EXISTS bench; DROP TABLE IF EXISTS bench.ledger")
    await connection.execute("CREATE TABLE bench.ledger (LIKE meter.ledger)")
    found = await connection.fetch("SELECT * FROM meter.ledger WHERE source = $1", arguments.source)
    columns = list(found[0].keys())
    amounts = [columns.index(name) for name in AMOUNTS]
    rows = []
    for record in found:
        row = list(record)
        for place in amounts:
            row[place] = None if row[place] is None else to_pico(row[place])
        rows.append(tuple(row))
    del found
    say({"backend": connection.get_server_pid(), "rows": len(rows)})
    sys.stdin.readline()
    begun = time.process_time()
    for first in range(0, len(rows), arguments.rows):
        async with connection.transaction():
            await connection.copy_records_to_table(
                "ledger", schema_name="bench", columns=columns, records=rows[first : first + arguments.rows]
            )
    cpu_s = time.process_time() - begun
    stored = await connection.fetchrow("SELECT count(*) AS rows, sum(amount) AS amount FROM bench.ledger")
    assert stored is not None
    say({"rows": stored["rows"], "amount_pico": to_pico(stored["amount"]), "cpu_s": cpu_s})
    sys.stdin.readline()
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.stdin.readline(), type=Arguments)))
