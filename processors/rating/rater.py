"""The rater without its wires: records of a source partition in, rows and rejected records in its outbox.

Pure but for the outbox and the counters: no await, no clock, no client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple, Protocol

from meterstream.processors.batches import UnreadableRecord
from meterstream.processors.rating import reported
from meterstream.processors.rating.admit import AgeLimits, admit, age_limits, append_time
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.decode import RECORD_BYTES_MAX, Decoded, decode_event, decode_record
from meterstream.processors.rating.faults import INTERNAL_ERROR, Faults, internal_error
from meterstream.processors.rating.price import ONE_REQUEST, charge
from meterstream.processors.rating.privacy import is_told, private_tenant
from meterstream.processors.rating.route import Outbox, Router
from meterstream.processors.rating.rows import make_row
from meterstream.processors.rating.said import said
from meterstream.processors.rating.unpriced import UNPRICED_REASON, lacking_tier
from meterstream.processors.rating.vendor_usage import read_body, rename_model, rename_provider
from meterstream.schema import pack
from meterstream.schema.cloudevents import STRUCTURED_HEADERS
from meterstream.schema.errors import EventRejected
from meterstream.schema.event import Event
from meterstream.schema.money import CHARGE_PICO_MAX, NO_CURRENCY, format_amount
from meterstream.schema.position import INDEX_BITS, position_of
from meterstream.schema.providers import ALIASES
from meterstream.schema.rejection import Rejected, reject

(_STRUCTURED,) = STRUCTURED_HEADERS
_OPEN_BRACE = ord("{")


class RawRecord(Protocol):
    """What the rater reads of a Kafka record (aiokafka's ConsumerRecord has it)."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class _Owner(NamedTuple):
    tenant: str | None
    event_id: str | None
    is_private: bool


class Rater:
    """Prices records with the current book. `book` and `private_tenants` may be replaced between batches."""

    def __init__(self, router: Router, book: Book, private_tenants: frozenset[str] = frozenset()) -> None:
        self.router = router
        self.book = book
        self.private_tenants = private_tenants
        self.dispositions: Counter[str] = Counter()
        """Events so far: `priced`, `unpriced`, `unmetered`, and each reason of rejection."""
        self.faults = Faults()

    def rate(self, topic: str, outbox: Outbox, records: Iterable[RawRecord], *, is_backfill: bool) -> None:
        """Decides every event of the records, which follow each other in one source partition.

        Ends early after a record that has filled the outbox, whose `next_offset` says where to go on: one small
        array may hold thousands of events. A record with one row does not look: a poll bounds how many there are.
        """
        limits: AgeLimits | None = None
        watermark_ms = offset = 0
        for record in records:
            if limits is None or limits.appended_ms != record.timestamp:
                limits = age_limits(record.timestamp, is_backfill=is_backfill)
                watermark_ms = max(watermark_ms, record.timestamp)
            value, headers, offset = record.value, record.headers, record.offset
            decoded: Iterable[Decoded]
            if (
                len(headers) == 1
                and headers[0] == _STRUCTURED
                and value
                and value[0] == _OPEN_BRACE
                and len(value) <= RECORD_BYTES_MAX
            ):
                event = decode_event(value)  # by far the commonest record, without a detour
                if type(event) is Event:
                    try:
                        self.rate_event(event, value, offset << INDEX_BITS, limits, outbox)
                    except EventRejected as rejected:
                        outbox.rejected.append(self._reject(rejected, topic, outbox, record, 0, (event, value)))
                        if outbox.is_full:
                            break
                    continue
                decoded = ((event, value),)
            elif isinstance(record, UnreadableRecord):
                decoded = ((EventRejected("unreadable_batch", record.fault), value or b""),)
            else:
                decoded = decode_record(value, headers)
            self._rate_each(decoded, topic, outbox, record, limits)
            if outbox.is_full:
                break
        if limits is not None:
            outbox.advance(offset + 1, watermark_ms)

    def _rate_each(
        self, decoded: Iterable[Decoded], topic: str, outbox: Outbox, record: RawRecord, limits: AgeLimits
    ) -> None:
        is_first = True
        for index, (event, original) in enumerate(decoded):
            try:
                if isinstance(event, EventRejected):
                    raise event
                self.rate_event(event, original, position_of(record.offset, index), limits, outbox)
            except EventRejected as rejected:
                outbox.rejected.append(
                    self._reject(rejected, topic, outbox, record, index, (event, original), is_first=is_first)
                )
                is_first = False

    def _reject(
        self,
        rejected: EventRejected,
        topic: str,
        outbox: Outbox,
        record: RawRecord,
        index: int,
        decoded: Decoded,
        *,
        is_first: bool = True,
    ) -> Rejected:
        self.dispositions[rejected.reason] += 1
        event, original = decoded
        faults = [rejected.__cause__] if rejected.reason == INTERNAL_ERROR else []
        may_be_private = bool(self.private_tenants)
        try:
            owner = self._owner(event, original, record)
        except MemoryError:
            raise
        except Exception as fault:
            faults.append(fault)
            owner = _Owner(None, None, is_private=may_be_private)
        for each in faults:
            place = f"{topic}/{outbox.source.partition}/{record.offset}/{index}"  # as `rejected show` takes it
            self.faults.note(each, place, is_private=may_be_private)
        return reject(
            reason=rejected.reason,
            detail=rejected.private_detail if owner.is_private else rejected.detail,
            topic=topic,
            source_id=outbox.source.source_id,
            partition=outbox.source.partition,
            position=position_of(record.offset, index),
            appended_at=append_time(record.timestamp),
            value=original,
            # Ten thousand bad events of one array would otherwise hold as many copies of them.
            key=record.key if is_first else None,
            headers=tuple(record.headers) if is_first else (),
            is_withheld=owner.is_private,
            tenant=owner.tenant,
            event_id=owner.event_id,
        )

    def _owner(self, event: Event | EventRejected, original: bytes, record: RawRecord) -> _Owner:
        """What can be found out of a rejected event's tenant and id."""
        tenant = event.tenant if isinstance(event, Event) else None
        event_id = event.id if isinstance(event, Event) else None
        is_private = False
        if self.private_tenants:
            may_be_anybodys = isinstance(record, UnreadableRecord)
            if tenant is None:
                tenant = private_tenant(self.private_tenants, original, record.key, record.headers)
                may_be_anybodys = may_be_anybodys or not is_told(original, record.headers)
            is_private = tenant in self.private_tenants or may_be_anybodys
        if event_id is None and not isinstance(record, UnreadableRecord):
            named = said(original, record.headers)
            tenant, event_id = tenant or named.tenant, named.event_id
        return _Owner(tenant, event_id, is_private)

    def _lacking_tier(self, event: Event, usage: Mapping[str, int | Decimal]) -> str | None:
        data = event.data
        context = data.service_tier, data.region, data.tags
        return lacking_tier(self.book, event.tenant, data.provider, data.model, event.time, *context, usage)

    def rate_event(self, event: Event, original: bytes, position: int, limits: AgeLimits, outbox: Outbox) -> None:
        """Puts the row of one event into the outbox; a vendor's body is read into the event.

        Raises EventRejected, also for a fault of our own, which ends nothing but this event.
        """
        try:
            pricing, row = self._row(event, original, position, limits)
            partition = self.router.partition_of(event.tenant)
        except EventRejected:
            raise
        except Exception as fault:
            raise internal_error(fault) from fault
        self.dispositions[pricing] += 1
        outbox.add(partition, position, row)

    def _row(self, event: Event, original: bytes, position: int, limits: AgeLimits) -> tuple[str, bytes]:
        """(pricing, the encoded row). Raises EventRejected, and what a fault of ours raises."""
        claim = admit(event, original, limits)
        data = event.data
        usage: dict[str, int | Decimal] = data.usage
        notes = None if data.provider in ALIASES else rename_provider(data)
        if not usage and data.vendor_usage:
            notes = {**(notes or {}), **read_body(event)}
            usage = data.usage
        else:
            if "/" in data.model:
                notes = {**(notes or {}), **rename_model(data)}
            usage = usage or dict(ONE_REQUEST)
        rates = (
            self.book.lookup(
                event.tenant,
                data.provider,
                data.model,
                event.time,
                data.service_tier,
                data.region,
                data.tags,
            )
            if usage
            else None
        )
        amount_pico = None if rates is None else charge(usage, rates)
        currency = NO_CURRENCY if rates is None else rates.currency
        if data.reported_amount is not None and (bill := reported.bill(event, usage, self.book)) is not None:
            notes = {**(notes or {}), **reported.notes(amount_pico, currency)}
            amount_pico, currency = bill.amount_pico, bill.currency
        if amount_pico is None:
            pricing, currency = pack.UNPRICED if usage else pack.UNMETERED, NO_CURRENCY
            if usage and data.service_tier and (why := self._lacking_tier(event, usage)) is not None:
                notes = {**(notes or {}), UNPRICED_REASON: why}
        elif amount_pico > CHARGE_PICO_MAX:
            raise EventRejected(
                "amount_too_large",
                f"the charge would be {format_amount(amount_pico)} {currency}; "
                f"at most {format_amount(CHARGE_PICO_MAX)}",
            )
        else:
            pricing = pack.PRICED
        row = make_row(
            event,
            claim,
            position=position,
            appended_at=limits.appended_at,
            pricing=pricing,
            price_revision=self.book.revision,
            currency=currency,
            amount_pico=amount_pico,
            is_private=event.tenant in self.private_tenants,
            notes=notes,
        )
        return pricing, pack.encode_row(row)
