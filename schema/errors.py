"""Every error that meterstream raises on purpose.

MeterstreamError                  catch this to catch all of ours
├── UsageError                    what was asked cannot be done as asked; the text says the fix (exit 2)
│   ├── SettingsError             one or more settings are wrong; the text lists all of them
│   ├── BudgetInvalid             a budget has mistakes; the text names each
│   └── Unreachable               a server does not answer, or refuses us: that may pass (exit 1)
├── DeliveryFailed                a broker did not confirm a record; says how many it had confirmed
├── BufferFull                    a client had no room for an event, which is dropped and counted
├── ContractError                 data breaks the contract
│   ├── EventRejected             this one event cannot be metered: reason + detail; its neighbours can
│   ├── RecordUnreadable          a record that one of our own roles wrote cannot be read by this version
│   └── PriceFileInvalid          a price file has mistakes; the text names place and fix
├── StopConsuming                 going on could lose or double usage: stop, say so, let a person look
│   ├── CoverageGap               positions are missing between two packs
│   ├── TopicMadeAnew             a source topic holds other records than before under the same offsets
│   ├── UnknownSource             a pack names a source topic or generation that this version does not know
│   ├── BatchDamaged              a source topic's batch is not what its publisher sent, or of an old format
│   ├── OffsetOutOfRange          a stored offset is no longer, or not yet, in the topic
│   ├── StoreRefused              the database refuses the same records again and again
│   └── InstanceTaken             a newer process runs under the same instance name
├── Fenced                        another process owns this partition now: claim again or leave
├── MigrationError                the database's schema is not what the migrations say
└── StackError                    the local stack could not do what was asked
    └── StackBusy                 another command is working on the same folder
"""

from __future__ import annotations


class MeterstreamError(Exception):
    """Base of all of ours."""


class UsageError(MeterstreamError):
    """What was asked cannot be done as asked; the text says what to do instead."""


class SettingsError(UsageError):
    """One or more settings are wrong."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"{len(problems)} setting(s) are wrong:{lines}")


class BudgetInvalid(UsageError):
    """A budget has mistakes; the text names each, one a line."""


class Unreachable(UsageError):
    """A server does not answer, or refuses us. Asked again later it may go well: a role tries again."""


class DeliveryFailed(MeterstreamError):
    """A broker did not confirm a record.

    `confirmed`: so many records of the same transport were confirmed before and stay. Those that were under way
    may have arrived or not: send them again under the same ids, they count once.
    """

    def __init__(self, reason: str, confirmed: int) -> None:
        super().__init__(f"the broker did not confirm a record: {reason}. Confirmed before that: {confirmed:,}")
        self.confirmed = confirmed


class BufferFull(MeterstreamError):
    """A client had no room for an event. It is dropped and counted; those before it are kept."""


class ContractError(MeterstreamError):
    """Data breaks the contract."""


class EventRejected(ContractError):
    """One event cannot be metered.

    `reason` is one of `meterstream.schema.rejection.REASONS`; `detail` says what was found, without
    repeating more than a bounded piece of the input. `private_detail` repeats nothing of it but names and quantities:
    give it wherever `detail` does.
    """

    def __init__(self, reason: str, detail: str, private_detail: str | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.private_detail = detail if private_detail is None else private_detail


class RecordUnreadable(ContractError):
    """A record of one of our own topics cannot be read by this version."""


class PriceFileInvalid(ContractError):
    """A price file has mistakes; the text names the place and the fix of each."""


class StopConsuming(MeterstreamError):
    """Going on could lose or double usage."""


class CoverageGap(StopConsuming):
    """Positions are missing between two packs of one partition."""


class TopicMadeAnew(StopConsuming):
    """A covered position came again with a later append time: other records stand there now."""


class UnknownSource(StopConsuming):
    """A pack names a source topic or generation that this version does not know."""


class BatchDamaged(StopConsuming):
    """A batch of a source topic does not match its checksum, or is of a message format that is not read."""


class OffsetOutOfRange(StopConsuming):
    """A stored offset is no longer, or not yet, in the topic; it is never reset silently."""


class StoreRefused(StopConsuming):
    """The database refuses records for a reason that does not pass by itself."""


class InstanceTaken(StopConsuming):
    """A newer process runs under the same METERSTREAM_INSTANCE."""


class Fenced(MeterstreamError):
    """Another process owns this partition now."""


class MigrationError(MeterstreamError):
    """The database's schema is not what the migrations say."""


class StackError(MeterstreamError):
    """The local stack could not do what was asked."""


class StackBusy(StackError):
    """Another command is working on the same folder."""
