"""Rows of a CSV file -> events, by a map. The same file gives the same ids, whenever it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from hashlib import sha256
from typing import Any, Final

import msgspec

from meterstream.producers.csv_map import MEASURES, NUMBER_LENGTH_MAX, Column, CsvMap, Number, Text
from meterstream.producers.csv_rows import RowSplitter
from meterstream.producers.line_check import KEY_CHARACTERS_MAX, CheckedLine
from meterstream.producers.lines import Line
from meterstream.producers.made_event import make_event
from meterstream.schema.errors import EventRejected, UsageError
from meterstream.schema.numbers import plain_decimal
from meterstream.schema.units import QUANTITY_PLACES_MAX

SHOWN_MAX: Final = 60

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EXACT: Final = Context(prec=4 * NUMBER_LENGTH_MAX)
"""Holds every sum and product of what cells and maps may say."""
_STEP: Final = Decimal(1).scaleb(-QUANTITY_PLACES_MAX)

Judge = Callable[[bytes], None]
"""Raises EventRejected where an event would be rejected when it arrives now."""


class CsvRows:
    """A `Form`: the header, if there is one, then a row an event. Empty rows are passed over."""

    def __init__(self, csv_map: CsvMap, name: str, judge: Judge) -> None:
        """`name`: of the file, for messages."""
        self._map = csv_map
        self._name = name
        self._judge = judge
        self._columns: dict[Column, int] | None = None
        """Where each column of the map is; None: before the first row."""
        self._width = 0
        self._zone = csv_map.time.tzinfo
        self._seen: dict[int, int] = {}
        """Row -> how often it has come. 64 bits of a hash: where two share them, their ids differ all the same."""

    @property
    def needs_all(self) -> bool:
        """The header, and which of several equal rows one is."""
        return True

    def splitter(self, *, lines_before: int, bytes_before: int) -> RowSplitter:
        """Of the whole file: see `needs_all`."""
        assert lines_before == bytes_before == 0
        return RowSplitter(self._map.format.dialect)

    def passed(self, line: Line) -> None:
        """Counts a row that an earlier run has sent. Raises UsageError where the header is not that of the map."""
        if self._columns is None or self._map.id is None:
            try:
                self._take(line)
            except ValueError:  # an earlier run has said so
                return

    def check(self, line: Line) -> CheckedLine | None:
        """The event of a row. Raises UsageError where the header is not that of the map."""
        try:
            taken = self._take(line)
            return None if taken is None else self._event(*taken)
        except EventRejected as rejected:
            return CheckedLine(b"", b"", str(rejected))
        except ValueError as error:
            return CheckedLine(b"", b"", str(error))

    def _take(self, line: Line) -> tuple[list[str], int] | None:
        """(its cells, which of the equal rows it is, from 1); None: the header, or an empty row."""
        try:
            cells = self._map.format.dialect.cells(line)
        except ValueError as error:
            if self._columns is None:
                raise UsageError(f"{self._name}: row {line.number} cannot be read: {error}") from None
            raise
        if not any(cell.strip() for cell in cells):
            return None
        if self._columns is None:
            self._columns, self._width = self._header(cells), len(cells)
            if self._map.format.header:
                return None
        if len(cells) != self._width:
            what = "the header" if self._map.format.header else "the first row"
            raise ValueError(
                f"it has {len(cells)} cells, {what} has {self._width}: is a cell with a delimiter in it not quoted?"
            )
        if self._map.id is not None:
            return cells, 1
        digest = int.from_bytes(_digest(cells)[:8], "big")
        self._seen[digest] = occurrence = self._seen.get(digest, 0) + 1
        return cells, occurrence

    def _header(self, cells: Sequence[str]) -> dict[Column, int]:
        if not self._map.format.header:
            columns: dict[Column, int] = {number: number - 1 for number in range(1, len(cells) + 1)}
            there = f"it has {len(cells)}"
        else:
            names = [cell.strip() for cell in cells]
            columns = {name: index for index, name in enumerate(names)}
            twice = sorted(name for name in columns if name in self._map.places and names.count(str(name)) > 1)
            if twice:
                raise UsageError(f"{self._name}: the header has {twice[0]!r} twice: give one of them another name")
            there = f"there are {', '.join(names)}"[:400]
        missing = [(place, column) for column, place in self._map.places.items() if column not in columns]
        if missing:
            lines = "".join(f"\n  - {place}: {self._name} has no column {column!r}" for place, column in missing)
            raise UsageError(f"the map does not fit the file; {there}; the delimiter is {self._delimiter()}:{lines}")
        return columns

    def _delimiter(self) -> str:
        return repr(self._map.format.delimiter)

    def _event(self, cells: Sequence[str], occurrence: int) -> CheckedLine:
        row = _Row(self._map, self._columns or {}, cells)
        tenant, provider = row.text("tenant", self._map.tenant), row.text("provider", self._map.provider)
        if not tenant:
            raise ValueError("`tenant` is empty: it says whose usage it is; a `default` holds for empty cells")
        if not provider:
            raise ValueError("`provider` is empty: it says who is paid; a `default` holds for empty cells")
        fields: dict[str, Any] = {name: row.field(name, spec) for name, spec in self._map.texts.items()}
        fields |= {name: row.measure(name, spec) for name, spec in self._map.numbers.items()}
        usage = {unit: row.number(unit, spec) for unit, spec in self._map.usage.items()}
        fields["usage"] = {unit: quantity for unit, quantity in usage.items() if quantity is not None}
        if not fields["usage"] and not fields.get("vendor_usage"):
            raise ValueError(f"no usage: {', '.join(usage)} are all empty; a `default` holds for empty cells")
        tags = {name: row.text(name, spec) for name, spec in self._map.tags.items()}
        fields["tags"] = {name: text for name, text in tags.items() if text} or None
        time = row.time(self._zone)
        event_id = self._id(row, cells, occurrence)
        made = make_event(self._map.source, tenant, provider, fields, event_id=event_id, time=time)
        self._judge(made.value)
        return CheckedLine(tenant[:KEY_CHARACTERS_MAX].encode(), made.value, "", time)

    def _id(self, row: _Row, cells: Sequence[str], occurrence: int) -> str:
        identity = self._map.id
        if identity is None:
            return f"row-{_digest([self._map.source, str(occurrence), *cells]).hex()[:32]}"
        if identity.key is not None:
            key = [row.cell(column) for column in identity.key]
            if not any(key):
                raise ValueError(f"all columns of the key are empty: {', '.join(map(str, identity.key))}")
            return f"key-{_digest([self._map.source, *key]).hex()[:32]}"
        assert identity.column is not None
        event_id = row.cell(identity.column)
        if not event_id:
            raise ValueError(f"the id is empty: column {identity.column!r}")
        return event_id


class _Row:
    """The cells of one row, as the map reads them. Raises ValueError, naming field and column."""

    def __init__(self, csv_map: CsvMap, columns: Mapping[Column, int], cells: Sequence[str]) -> None:
        self._map = csv_map
        self._columns = columns
        self._cells = cells

    def cell(self, column: Column) -> str:
        return self._cells[self._columns[column]].strip()

    def text(self, name: str, spec: Text) -> str:
        if spec.column is None:
            return spec.constant or ""
        found = self.cell(spec.column) or spec.default or ""
        if spec.map is None or (not found and spec.default is None):
            return found
        if found not in spec.map and found != spec.default:
            raise ValueError(f"{name}: {_shown(found)} of column {spec.column!r} is not in its `map`: add it there")
        return spec.map.get(found, found)

    def field(self, name: str, spec: Text) -> object:
        """None: there is nothing."""
        text = self.text(name, spec)
        if name == "vendor_usage" and text:
            try:
                msgspec.json.decode(text, type=dict[str, msgspec.Raw])
            except msgspec.DecodeError as error:
                raise ValueError(f"{name}: column {spec.column!r} holds no object in JSON: {error}") from None
            return msgspec.Raw(text.encode())
        if name == "estimated" and text:
            if text.lower() not in ("true", "false"):
                raise ValueError(f"{name}: {_shown(text)} is neither true nor false: give it a `map`")
            return text.lower() == "true"
        return text or None

    def number(self, name: str, spec: Number) -> int | Decimal | None:
        """Exact; None: all its cells are empty. Raises ValueError where it has too many decimal places."""
        number = self._sum(name, spec)
        if number is None or spec.round or name == "reported_amount":
            return number
        if number != (whole := int(number)):
            if _EXACT.remainder(number, _STEP):
                raise ValueError(
                    f"{name}: {number:f} has more than {QUANTITY_PLACES_MAX} decimal places; `round: true` rounds it"
                )
            return number
        return whole

    def measure(self, name: str, spec: Number) -> object:
        """A number of an event beside its usage."""
        if name == "reported_amount":
            number = self._sum(name, spec)
            return None if number is None else f"{number:f}"
        found = self.number(name, spec)
        return float(found) if isinstance(found, Decimal) and name in MEASURES else found

    def time(self, zone: Any) -> datetime:
        """Aware UTC."""
        spec = self._map.time
        text = " ".join(filter(None, (self.cell(column) for column in spec.all_columns)))
        try:
            if spec.format in ("unix_s", "unix_ms"):
                moment = _of_unix(text, 1_000_000 if spec.format == "unix_s" else 1_000)
            else:
                moment = datetime.fromisoformat(text) if spec.format == "iso" else _parsed(text, spec.format)
        except (ValueError, OverflowError):
            raise ValueError(f"time: {_shown(text)} is not of the format {spec.format}: mend it or `format`") from None
        if moment.tzinfo is None:
            if zone is None:
                raise ValueError(
                    f"time: {_shown(text)} names no zone: give `time` a `zone`, such as UTC or Europe/Berlin"
                )
            moment = moment.replace(tzinfo=zone)
            if moment.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment.replace(tzinfo=None):
                raise ValueError(f"time: {_shown(text)} does not exist in {spec.zone}: clocks were put forward")
        try:
            return moment.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"time: {_shown(text)} is no time that UTC can express") from None

    def _sum(self, name: str, spec: Number) -> Decimal | None:
        found = self._numbers(name, spec) or [text for text in (spec.constant, spec.default) if text is not None]
        if not found:
            return None
        total = Decimal(0)
        for text in found:
            total = _EXACT.add(total, Decimal(text))
        return total if spec.times is None else _EXACT.multiply(total, Decimal(spec.times))

    def _numbers(self, name: str, spec: Number) -> list[str]:
        """Of the cells that are not empty, as plain decimal text."""
        numbers = []
        for column in spec.all_columns:
            text = self.cell(column)
            try:
                if text:
                    numbers.append(self._plain(text))
            except ValueError:
                said = f"{name}: {_shown(text)} of column {column!r} is no number; {self._expected()}"
                raise ValueError(said) from None
        return numbers

    def _plain(self, text: str) -> str:
        """With a point and without thousands separators. Raises ValueError where these stand elsewhere."""
        form = self._map.format
        if len(text) > NUMBER_LENGTH_MAX:
            raise ValueError
        whole, point, fraction = text.partition(form.decimal)
        if form.thousands and form.thousands in whole:
            first, *groups = whole.removeprefix("-").split(form.thousands)
            if not 1 <= len(first) <= 3 or any(len(group) != 3 for group in groups):
                raise ValueError
            whole = whole.replace(form.thousands, "")
        if form.decimal != "." and "." in whole + fraction:
            raise ValueError
        plain = f"{whole}.{fraction}" if point else whole
        plain_decimal(plain)
        return plain

    def _expected(self) -> str:
        form = self._map.format
        separators = f"and {form.thousands!r} between thousands" if form.thousands else "no thousands separators"
        return f"the map's format has decimal {form.decimal!r} {separators}"


def _of_unix(text: str, step_us: int) -> datetime:
    microseconds = plain_decimal(text) * step_us
    return _EPOCH + timedelta(microseconds=int(microseconds))


def _parsed(text: str, pattern: str) -> datetime:
    return datetime.strptime(text, pattern)  # noqa: DTZ007 - whoever calls it looks for the zone


def _digest(parts: Sequence[str]) -> bytes:
    """Of texts, so that no two lists of them are the same."""
    return sha256(msgspec.json.encode(parts)).digest()


def _shown(text: str) -> str:
    return repr(text[:SHOWN_MAX]) if text else "an empty cell"
