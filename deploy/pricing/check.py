"""`meterstream price check`: what events would cost, decided by the rater itself; no server is needed.

The rater's own decoder, admission and pricing judge each event, so an answer here is the row that the pipeline would
store. Two things need a broker and are not judged: the age of an event when it arrives, and whether its id came before.
"""

from __future__ import annotations

import codecs
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from meterstream.deploy.connections import resolve
from meterstream.deploy.pricing import clashes, listing, prices
from meterstream.deploy.pricing.dry_rating import DryRater
from meterstream.processors.rating import vendors
from meterstream.processors.rating.admit import AgeLimits
from meterstream.processors.rating.decode import Decoded, decode_record
from meterstream.processors.rating.explain import Call, Explanation, PriceList, explain
from meterstream.processors.rating.said import said
from meterstream.producers.chunks import CHUNK_BYTES
from meterstream.producers.lines import Line, LineSplitter
from meterstream.producers.usage_file import UsageFile
from meterstream.schema import pack, price_file
from meterstream.schema.cloudevents import STRUCTURED_HEADERS
from meterstream.schema.errors import EventRejected, PriceFileInvalid, UsageError
from meterstream.schema.event import EVENT_TYPE, Event
from meterstream.schema.pack import Row
from meterstream.schema.settings import Settings
from meterstream.schema.topics import EVENT_BYTES_MAX

REJECTED: Final = "rejected"
STATUSES: Final = (pack.PRICED, pack.UNPRICED, pack.UNMETERED, REJECTED)
SOURCE: Final = "price-check"
"""The source of an event that names none, its tenant and its operation."""

_ANY_AGE: Final = AgeLimits(
    appended_at=datetime(1970, 1, 1, tzinfo=UTC),
    appended_ms=0,
    oldest=datetime.min.replace(tzinfo=UTC),
    newest=datetime.max.replace(tzinfo=UTC),
    id_oldest_ms=0,
    id_newest_ms=1 << 48,
)

_ENVELOPE: Final = ("id", "source", "tenant", "time")
"""What a line that is `data` alone may say beside it: no field of `data` has such a name."""

VENDOR_HINT: Final = "a vendor's own answer goes into `vendor_usage`, beside `provider`"
_MISPLACED: Final = frozenset({"unknown_field", "unknown_unit", "invalid_field"})

_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True)
class Options:
    """`at`: the moment (aware) at which every event is priced; None: each at its own time, and one that says
    none at `now`. `tenant`: whose prices count for an event that names no tenant.
    """

    now: datetime
    at: datetime | None = None
    tenant: str = SOURCE


@dataclass(frozen=True)
class Checked:
    """One event of the file. `index`: its place in a line that is an array, else 0.

    `reason` and `detail` say why it was rejected, `detail` alone why it is unmetered or unpriced. `explanation` is
    there unless it was rejected or is unmetered.
    """

    line: int
    index: int
    event_id: str | None
    status: str
    reason: str = ""
    detail: str = ""
    event: Event | None = None
    explanation: Explanation | None = None


@dataclass
class Summary:
    """What came of a file so far."""

    lines: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    amounts_pico: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By currency."""

    @property
    def is_all_priced(self) -> bool:
        return self.statuses[pack.PRICED] == self.statuses.total()

    def add(self, checked: Checked) -> None:
        """Counts one more event."""
        self.statuses[checked.status] += 1
        explanation = checked.explanation
        if explanation is not None and explanation.amount_pico is not None and explanation.currency is not None:
            self.amounts_pico[explanation.currency] += explanation.amount_pico


def of_files(files: Iterable[Path] = ()) -> PriceList:
    """The prices of these files; of none: those that come with this version.

    Blocks for the read. Raises UsageError with every mistake, also where calls could never be priced.
    """
    try:
        lines = price_file.load(*files) if files else price_file.shipped()
    except PriceFileInvalid as error:
        raise UsageError(str(error)) from error
    rows = [prices.as_row(line, number, 1, line.valid_from) for number, line in enumerate(lines, start=1)]
    places = {number: line.place for number, line in enumerate(lines, start=1)}
    if files and (reason := clashes.unusable(rows, places)):
        raise UsageError(reason)
    return PriceList(rows, 1)


async def stored(settings: Settings, as_known_at: datetime | None) -> PriceList:
    """The prices of the database, as they were known then (None: now). Blocks on it. Raises UsageError."""
    rows = await listing.history(resolve(settings, ["postgres_reader_dsn"]), as_known_at)
    return PriceList(rows, max((row.revision for row in rows), default=0))


def check(path: str, price_list: PriceList, options: Options, summary: Summary) -> Iterator[Checked]:
    """Every event of a file of lines (plain or gzip; `-` is standard input), as it is read; counted in `summary`.

    Memory is bounded by one line. Empty lines are skipped. Blocks on the file. Raises UsageError where it cannot be
    read.
    """
    judge = _Judge(price_list, options)
    for line in _lines(path):
        if line.is_too_long or line.content.strip():
            summary.lines += 1
            for checked in judge.line(line):
                summary.add(checked)
                yield checked


def _lines(path: str) -> Iterator[Line]:
    file = UsageFile(path)
    splitter = LineSplitter()
    try:
        while chunk := file.stream.read(CHUNK_BYTES):
            yield from splitter.feed(chunk)
        yield from splitter.finish()
    except (OSError, EOFError) as error:
        raise UsageError(f"{file.name} cannot be read to its end: {error}") from error
    finally:
        file.close()


class _Judge:
    def __init__(self, price_list: PriceList, options: Options) -> None:
        self._prices = price_list
        self._options = options
        self._rater = DryRater(price_list.book)

    def line(self, line: Line) -> Iterator[Checked]:
        """What became of each event of a line; never empty."""
        if line.is_too_long:
            detail = f"the line is longer than {EVENT_BYTES_MAX:,} bytes"
            yield Checked(line.number, 0, None, REJECTED, "record_too_large", detail)
            return
        value = self._completed(line)
        for index, decoded in enumerate(decode_record(value, STRUCTURED_HEADERS)):
            checked = self._decided(line.number, index, decoded)
            if checked.reason in _MISPLACED and _is_vendors(line.content):
                checked = replace(checked, detail=f"{checked.detail}; {VENDOR_HINT}")
            yield checked

    def _decided(self, number: int, index: int, decoded: Decoded) -> Checked:
        event, original = decoded
        try:
            if isinstance(event, EventRejected):
                raise event
            event.time = self._options.at or event.time
            row = self._rater.row(event, original, _ANY_AGE)
        except EventRejected as rejected:
            event_id = event.id if isinstance(event, Event) else said(original, ()).event_id
            return Checked(number, index, event_id, REJECTED, rejected.reason, rejected.detail)
        if row.pricing == pack.UNMETERED:
            return Checked(number, index, event.id, row.pricing, detail=_unmetered_reason(row), event=event)
        explanation = explain(call_of(event), self._prices)
        assert explanation.amount_pico == row.amount_pico, "the lines sum to the charge"
        return Checked(
            number, index, event.id, row.pricing, detail=explanation.why, event=event, explanation=explanation
        )

    def _completed(self, line: Line) -> bytes:
        """A line that is no CloudEvent, without `specversion`, gets what it lacks of one.

        It may be `data` alone, with _ENVELOPE beside its fields, or an envelope in part. What it says is left as it
        is, for the rater to judge.
        """
        value = line.content.strip()
        if line.number == 1:
            value = value.removeprefix(codecs.BOM_UTF8)
        try:
            given = _decode_object(value)
            if "specversion" in given:
                return value
            if "data" in given:
                envelope, data = given, _decode_object(given["data"])
            else:
                envelope = {name: given.pop(name) for name in _ENVELOPE if name in given}
                data = given
        except _DECODE_ERRORS:
            return value  # the rater says what is wrong with it
        if not data.keys() & {"operation", "endpoint"}:
            data["operation"] = _raw(SOURCE)
        lacking = {
            "specversion": "1.0",
            "type": EVENT_TYPE,
            "id": f"line-{line.number}",
            "source": SOURCE,
            "tenant": self._options.tenant,
            "time": self._options.at or self._options.now,
        }
        return msgspec.json.encode({**{k: _raw(v) for k, v in lacking.items()}, **envelope, "data": data})


def call_of(event: Event) -> Call:
    """What decides on the charge of an event that the rater has rated."""
    data = event.data
    return Call(
        event.tenant,
        data.provider,
        data.model,
        event.time,
        data.usage,
        data.service_tier,
        data.region,
        data.tags,
        data.reported_amount,
        data.reported_currency,
    )


def _is_vendors(line: bytes) -> bool:
    """Whether it is what a vendor has answered, without `vendor_usage` around it."""
    try:
        vendors.read(line)
    except vendors.Unreadable:
        return False
    return True


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _unmetered_reason(row: Row) -> str:
    attributes: dict[str, Any] = msgspec.json.decode(row.attributes or "{}")
    return str(attributes.get("unmetered_reason", ""))
