"""The records of `usage.priced` as the pack's contract writes them down, read without the product."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tests.oracle.live import LogRecord, LogRow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def log_record(value: bytes, *, is_coverage: bool) -> LogRecord:
    """One record; `is_coverage`: its headers say so."""
    content = msgspec.msgpack.decode(value)
    if is_coverage:
        parts = tuple(((source_id, source), lo, hi, watermark) for source_id, source, lo, hi, watermark in content[1])
        return LogRecord(False, parts)
    _, source_id, source, lo, hi, rows, watermark = content
    return LogRecord(True, (((source_id, source), lo, hi, watermark),), tuple(map(_log_row, rows)))


def _log_row(fields: list[Any]) -> LogRow:
    return LogRow(
        position=fields[0],
        claim=fields[1],
        tenant=fields[3],
        event_id=fields[4],
        occurred_ms=_ms(fields[6]),
        appended_ms=_ms(fields[7]),
        provider=fields[8],
        model=fields[9],
        project_id=fields[11],
        status=fields[14],
        currency=fields[19],
        amount=fields[20],
        input_tokens=fields[21],
        output_tokens=fields[22],
    )


def _ms(at: datetime) -> int:
    return (at - EPOCH) // timedelta(milliseconds=1)
