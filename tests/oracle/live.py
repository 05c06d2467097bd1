"""What must be live after a part of the priced log: windows, budgets and alerts, the long way round.

It walks over the log once, keeps every row that counts as one entry, and adds entries up whenever it is asked.
Nothing of the product is imported; periods come from `tests.oracle.calendar`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid5

from tests.oracle import calendar

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
AHEAD = 5 * MINUTE
NAMESPACE = UUID("6d657465-7273-5472-8561-6d616c657274")

Model = tuple[str, str, str]
"""(provider, model, currency)"""
Counts = tuple[int, ...]
"""events, errors, unpriced, input tokens, output tokens, amount, adjustments"""


@dataclass(frozen=True)
class LogRow:
    """A priced event."""

    position: int
    claim: bytes
    tenant: str
    event_id: str
    occurred_ms: int
    appended_ms: int
    provider: str
    model: str
    project_id: str
    currency: str
    amount: int | None
    input_tokens: int
    output_tokens: int
    status: str

    @property
    def counts(self) -> Counts:
        """What the row adds to its windows."""
        errors, unpriced = int(self.status != "ok"), int(self.amount is None)
        return (1, errors, unpriced, self.input_tokens, self.output_tokens, self.amount or 0, 0)


@dataclass(frozen=True)
class LogRecord:
    """A pack, where it has one part and rows; else a coverage record. Corrections follow behind."""

    is_pack: bool
    parts: tuple[tuple[tuple[int, int], int, int, int], ...]
    """((source_id, partition), lo, hi, watermark in ms)"""
    rows: tuple[LogRow, ...] = ()
    corrections: tuple[tuple[LogRow, int], ...] = ()

    @property
    def watermark(self) -> int:
        """Of all parts; where an older writer says none, that of the rows."""
        said = max(part[3] for part in self.parts)
        return said or max((row.appended_ms for row in self.rows), default=0)


@dataclass(frozen=True)
class Plan:
    """A version of a budget."""

    tenant: str
    name: str
    version: int
    currency: str
    amount: int
    period: str
    time_zone: str
    week_start: int
    anchor_day: int
    percents: tuple[int, ...]
    project_id: str | None = None
    provider: str | None = None
    model: str | None = None

    def period_of(self, moment: int) -> tuple[int, int]:
        """[start, end) of the period that holds the moment."""
        return calendar.period(self.period, self.time_zone, self.week_start, self.anchor_day, moment)

    def takes(self, row: LogRow) -> bool:
        """True when the row is the budget's concern."""
        return (
            row.tenant == self.tenant
            and row.currency == self.currency
            and self.project_id in (None, row.project_id)
            and self.provider in (None, row.provider)
            and self.model in (None, row.model)
        )

    def percents_at(self, spent: int) -> list[int]:
        """Those that are reached."""
        return [percent for percent in self.percents if spent * 100 >= self.amount * percent]

    def alert_id(self, start: int, percent: int) -> str:
        """The id of the alert of a level."""
        at = calendar.text(start)
        return str(uuid5(NAMESPACE, f"budget\n{self.tenant}\n{self.name}\n{self.version}\n{at}\n{percent}"))


@dataclass(frozen=True)
class Entry:
    """A row or a correction that moves something; `offset`: of its record."""

    offset: int
    row: LogRow
    key: Model
    in_hour: bool
    in_day: bool
    counts: Counts
    is_silent: bool
    watermark: int
    source: tuple[int, int]

    @property
    def amount(self) -> int | None:
        """What it moves in budgets."""
        return self.counts[6] if self.counts[0] == 0 else self.row.amount


@dataclass
class Live:
    """The walk. `kept`, `chunk`: the horizon of ids and its grain, in (rows, records); `models`: those kept apart of a
    tenant.
    """

    log: Sequence[LogRecord]
    kept: tuple[int, int] = (65_536, 4_096)
    chunk: tuple[int, int] = (4_096, 256)
    models: int = 500
    silent: int = 2
    forgets: int = 0
    """No id from before this offset is known there and later."""
    entries: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    """By tenant, in the log's order."""
    watermarks: list[int] = field(default_factory=lambda: [0])
    """Before each offset."""
    _newest_days: dict[str, dict[Model, int]] = field(default_factory=lambda: defaultdict(dict))
    """tenant -> model that is kept apart -> the newest day that it has an event of."""

    def __post_init__(self) -> None:
        covered: dict[tuple[int, int], int] = {}
        seen: dict[bytes, int] = {}
        chunks: list[tuple[tuple[int, int], tuple[int, int]]] = []  # (rows, records) before and with it
        rows = 0
        for offset, record in enumerate(self.log):
            if offset == self.forgets:
                seen.clear()
                chunks.clear()
            watermark = max(self.watermarks[-1], record.watermark)
            self.watermarks.append(watermark)
            source = record.parts[0][0]
            before = covered.get(source, -1)
            place = (rows, offset)
            rows += len(record.rows)
            if record.rows and (not chunks or _reaches(place, chunks[-1][0], self.chunk)):
                chunks.append((place, place))
            known = {
                row.claim
                for row in record.rows
                if row.claim in seen and not _reaches(place, chunks[seen[row.claim]][1], self.kept)
            }
            if record.rows:
                chunks[-1] = (chunks[-1][0], (rows, offset + 1))
            for row in record.rows:
                if row.position > before and row.claim not in known:
                    self._take(offset, row, row.counts, source, watermark)
                known.add(row.claim)
                seen[row.claim] = len(chunks) - 1
            for part, _, hi, _ in record.parts:
                covered[part] = max(covered.get(part, -1), hi)
            for row, amount in record.corrections:
                self._take(offset, row, (0, 0, 0, 0, 0, 0, amount), source, watermark)

    def _take(self, offset: int, row: LogRow, counts: Counts, source: tuple[int, int], watermark: int) -> None:
        if row.occurred_ms > watermark + AHEAD:
            return
        in_hour = row.occurred_ms // HOUR >= watermark // HOUR - 1
        in_day = row.occurred_ms // DAY >= watermark // DAY - 1
        key = (row.provider, row.model, row.currency)
        if in_day:
            newest = self._newest_days[row.tenant]
            kept = {model for model, day in newest.items() if day >= watermark // DAY - 2}
            if key not in kept and len(kept) >= self.models:
                key = ("__other__", "__other__", row.currency)
            newest[key] = max(newest.get(key, 0), row.occurred_ms // DAY)
        is_silent = source[0] == self.silent or counts[0] == 0
        self.entries[row.tenant].append(Entry(offset, row, key, in_hour, in_day, counts, is_silent, watermark, source))

    def windows(self, offset: int) -> dict[tuple[str, str, int], dict[Model, Counts]]:
        """(tenant, hour or day, number) -> model -> counts, as the fold of everything before the offset."""
        watermark = self.watermarks[offset]
        found: dict[tuple[str, str, int], dict[Model, Counts]] = defaultdict(dict)
        for entry in (entry for entries in self.entries.values() for entry in entries if entry.offset < offset):
            for kind, length, is_in in (("hour", HOUR, entry.in_hour), ("day", DAY, entry.in_day)):
                number = entry.row.occurred_ms // length
                if is_in and number >= watermark // length - 2:
                    window = found[entry.row.tenant, kind, number]
                    sums = window.get(entry.key, (0,) * 7)
                    window[entry.key] = tuple(a + b for a, b in zip(sums, entry.counts, strict=True))
        return dict(found)

    def spent(self, plan: Plan, start: int, offset: int) -> int:
        """Of the period that begins at `start`, before the offset, whenever the budget was made."""
        return sum(
            entry.amount or 0
            for entry in self.entries.get(plan.tenant, ())
            if entry.offset < offset and plan.takes(entry.row) and plan.period_of(entry.row.occurred_ms)[0] == start
        )

    def alerts(self, plan: Plan) -> dict[str, tuple[int, Entry]]:
        """Id -> (spent, event), for a budget that is there from the beginning on."""
        reached: dict[tuple[int, int], tuple[int, Entry]] = {}
        for entry, start, spent in self._walk(plan):
            if not entry.is_silent:
                for percent in plan.percents_at(spent):
                    reached.setdefault((start, percent), (spent, entry))
        return {plan.alert_id(start, percent): at for (start, percent), at in reached.items()}

    def alerts_of_version(
        self, plan: Plan, begin: int, changed: int, until: int | None = None, taken: int = 0
    ) -> dict[str, tuple[int, Entry | None]]:
        """Id -> (spent, event), for a version that was made at `changed` and begins before the record at `begin`.

        Its sums are those of the log, as far as that was appended before `until` or stands before the offset `taken`.
        What was reached by then, or by events from before the change, has no event; of periods that were over at the
        change nothing is said.
        """
        sums: dict[int, int] = {}
        found: dict[tuple[int, int], tuple[int, Entry | None]] = {}
        entries = list(self._walk(plan, until, taken))
        for _, start, spent in (each for each in entries if each[0].offset < begin):
            sums[start] = spent
        old = {(start, percent) for start, spent in sums.items() for percent in plan.percents_at(spent)}
        for start, percent in old:
            if plan.period_of(start)[1] > changed:
                found[start, percent] = sums[start], None
        for entry, start, spent in entries:
            if entry.offset >= begin and not entry.is_silent:
                for level in {(start, percent) for percent in plan.percents_at(spent)} - old - found.keys():
                    if entry.row.appended_ms >= changed:
                        found[level] = spent, entry
                    elif plan.period_of(start)[1] > changed:
                        found[level] = spent, None
                    else:
                        old.add(level)
        return {plan.alert_id(start, percent): at for (start, percent), at in found.items()}

    def alerts_in_time(
        self, plan: Plan, changed: int, until: int | None, taken: int = 0
    ) -> dict[str, tuple[int, Entry | None]]:
        """Id -> (start of the period, event), for a version that was made at `changed` and over at `until`.

        Append times alone say which events are its own. Those before it have reached a level without being named, and
        of periods that were over by then nothing is said. What stands before the offset `taken` counts, whenever it
        was appended: where the version after this one was learned of late. Nothing is silent, or taken back.
        """
        found: dict[tuple[int, int], Entry | None] = {}
        unsaid: set[tuple[int, int]] = set()
        for entry, start, spent in self._walk(plan, until, taken):
            assert not entry.is_silent
            for level in {(start, percent) for percent in plan.percents_at(spent)} - found.keys() - unsaid:
                if entry.row.appended_ms >= changed:
                    found[level] = entry
                elif plan.period_of(start)[1] > changed:
                    found[level] = None
                else:
                    unsaid.add(level)
        return {plan.alert_id(start, percent): (start, entry) for (start, percent), entry in found.items()}

    def offsets_at(self, plan: Plan, start: int, spent: int) -> list[int]:
        """Offsets of records before which so much was spent in the period that begins at `start`."""
        found = [0] if spent == 0 else []
        entries = [each for each in self._walk(plan) if each[1] == start]
        for place, (entry, _, total) in enumerate(entries):
            after = entries[place + 1][0].offset if place + 1 < len(entries) else len(self.log)
            if total == spent and after > entry.offset:
                found += [entry.offset + 1, after]
        return found

    def _walk(self, plan: Plan, until: int | None = None, taken: int = 0) -> Iterator[tuple[Entry, int, int]]:
        sums: dict[int, int] = defaultdict(int)
        for entry in self.entries.get(plan.tenant, ()):
            is_over = until is not None and entry.row.appended_ms >= until and entry.offset >= taken
            if plan.takes(entry.row) and entry.amount is not None and not is_over:
                start = plan.period_of(entry.row.occurred_ms)[0]
                current = plan.period_of(entry.watermark)[0]
                if start >= plan.period_of(current - 1)[0]:
                    sums[start] += entry.amount
                    yield entry, start, sums[start]


def _reaches(place: tuple[int, int], begin: tuple[int, int], lengths: tuple[int, int]) -> bool:
    """Whether so many rows, or so many records, lie between."""
    return any(at - start >= length for at, start, length in zip(place, begin, lengths, strict=True))
