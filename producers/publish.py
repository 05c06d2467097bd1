"""Publishes a file of events, one CloudEvent in JSON a line; can be stopped at any moment and run again."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from meterstream.producers.chunks import read_chunks
from meterstream.producers.form import EventLines, Form
from meterstream.producers.lines import Line
from meterstream.producers.publish_progress import Progress, ProgressFile
from meterstream.producers.transport import Transport
from meterstream.producers.usage_file import UsageFile
from meterstream.schema.cloudevents import STRUCTURED_HEADERS

CHECKPOINT_S: Final = 1.0
"""So much is sent again, as duplicates, after a kill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishPolicy:
    """What to do with the lines."""

    topic: str
    send_invalid: bool = False
    """Send a bad line all the same, to see it rejected."""
    derive_ids: bool = False
    oldest: datetime | None = None
    """The topic rejects what happened before; such events are counted, for a warning."""


@dataclass(slots=True)
class Counts:
    """What one run has done so far."""

    lines: int = 0
    """Lines of the file up to where it has been read."""
    sent: int = 0
    refused: int = 0
    """Bad lines that no run has sent yet."""
    invalid: int = 0
    """Bad lines that were sent, by this run or an earlier one."""
    too_old: int = 0
    """Events that were sent although the topic rejects them for their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told what; called between records, must not block."""

    refused: Callable[[int, str], None] = lambda number, problem: None
    """(line number, problem), for every bad line."""
    progressed: Callable[[Counts], None] = lambda counts: None
    """After each piece of input."""


async def publish(
    file: UsageFile,
    transport: Transport,
    policy: PublishPolicy,
    *,
    progress: Progress,
    checkpoint: Callable[[Progress], None],
    watch: Watch,
    form: Form | None = None,
) -> Counts:
    """Sends every good line that `progress` does not have yet, and brings it up to date.

    `checkpoint` is called only with what is confirmed; `form`: what the file is made of, None: events. Raises
    UsageError when the file cannot be read, DeliveryFailed when the broker refuses; what the last checkpoint says
    stays true.
    """
    form = form or EventLines(derive_ids=policy.derive_ids)
    sending = _Sending(transport, policy, progress, watch, form)
    is_read_anew = form.needs_all or progress.has_open_lines()
    offset, lines = (0, 0) if is_read_anew else (progress.offset, progress.lines)
    left_out = file.skip(offset)
    splitter = form.splitter(lines_before=lines, bytes_before=offset)
    clock = asyncio.get_running_loop().time
    checkpoint_due = clock() + CHECKPOINT_S
    async with aclosing(read_chunks(file.stream, file.name)) as chunks:
        async for chunk in chunks:
            for line in splitter.feed(chunk[left_out:]):
                await sending.take(line)
            left_out = max(0, left_out - len(chunk))
            watch.progressed(sending.counts)
            if clock() >= checkpoint_due:
                await transport.flush()
                checkpoint(progress)
                checkpoint_due = clock() + CHECKPOINT_S
    for line in splitter.finish():
        await sending.take(line)
    await transport.flush()
    progress.is_complete = not sending.has_overflown
    checkpoint(progress)
    watch.progressed(sending.counts)
    return sending.counts


class _Sending:
    """One run over the lines of a file."""

    def __init__(
        self, transport: Transport, policy: PublishPolicy, progress: Progress, watch: Watch, form: Form
    ) -> None:
        self._transport = transport
        self._policy = policy
        self._progress = progress
        self._watch = watch
        self._form = form
        self.counts = Counts(lines=progress.lines)
        self.has_overflown = False
        """More lines are open than `progress` can hold: it stays where it is, so that none of them is forgotten."""

    async def take(self, line: Line) -> None:
        """Does with one line what is still to be done."""
        self.counts.lines = line.number
        if line.number == 1:
            line = line._replace(content=line.content.removeprefix(codecs.BOM_UTF8))
        if self._progress.is_done(line.number):
            self._form.passed(line)
            return
        if line.is_too_long or line.content.strip():
            await self._take_event(line)
        if line.number > self._progress.lines and not self.has_overflown:
            self._progress.lines, self._progress.offset = line.number, line.end

    async def _take_event(self, line: Line) -> None:
        checked = self._form.check(line)
        if checked is None:
            return
        is_bad = bool(checked.problem)
        was_sent = line.number in self._progress.sent_invalid
        may_be_sent = not is_bad or (self._policy.send_invalid and not line.is_too_long)
        is_sent = may_be_sent and not (is_bad and was_sent)
        if is_bad:
            self._watch.refused(line.number, checked.problem)
            self.counts.refused += not (is_sent or was_sent)
            self.counts.invalid += is_sent or was_sent
        if is_sent:
            await self._transport.send(self._policy.topic, checked.key, checked.value, STRUCTURED_HEADERS)
            self.counts.sent += 1
            if checked.time is not None and self._policy.oldest is not None:
                self.counts.too_old += checked.time < self._policy.oldest
        is_new = line.number > self._progress.lines
        self.has_overflown |= is_new and is_bad and not self._progress.has_room()
        if not (is_new and self.has_overflown):
            self._progress.note(line.number, is_bad=is_bad, is_sent=is_sent)


@dataclass(frozen=True, slots=True)
class Published:
    """How a run ended. `was_complete`: an earlier run had dealt with every line of this very file."""

    progress: Progress
    counts: Counts
    was_complete: bool


async def publish_file(
    path: str,
    policy: PublishPolicy,
    *,
    connect: Callable[[], AbstractAsyncContextManager[Transport]],
    progress_folder: Path,
    destination: str,
    again: bool,
    watch: Callable[[UsageFile], Watch],
    form: Form | None = None,
) -> Published:
    """Publishes a file from where an earlier run stopped; a pipe or standard input always from its start.

    `connect()` gives an async context manager of a Transport; `destination` names the cluster, and whatever else
    makes a run another one; `form`: what the file is made of, None: events. Raises as
    `publish` does, and UsageError where another process publishes the same file, or its progress cannot be kept.
    """
    with ExitStack() as cleanup:
        file = cleanup.enter_context(closing(UsageFile(path)))
        progress = Progress(file.name)
        checkpoint: Callable[[Progress], None] = lambda progress: None  # noqa: E731 - a pipe cannot be gone on with
        if file.path is not None:
            store = cleanup.enter_context(ProgressFile(progress_folder, file, f"{destination}\n{policy.topic}"))
            progress = progress if again else store.read()
            checkpoint = store.write
        was_complete = progress.is_complete
        if was_complete and not progress.has_open_lines():
            return Published(progress, Counts(lines=progress.lines), was_complete)
        async with connect() as transport:
            checkpoint(progress)  # before anything is sent: no room for it is better known now
            counts = await publish(
                file, transport, policy, progress=progress, checkpoint=checkpoint, watch=watch(file), form=form
            )
        return Published(progress, counts, was_complete)
