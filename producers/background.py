"""The thread in which a client's sender runs, with an event loop of its own: a service's loops come and go.

It starts with the first record, in a forked child again, and ends with `close` or the interpreter.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Final, TypeVar

from meterstream.producers.outbox import Outbox
from meterstream.producers.sender import Sender

CLOSE_S: Final = 10.0
LET_GO_S: Final = 5.0
"""For the sender to end once its time is over; then nobody waits for it any more."""
FIRST: Final = 100
"""Priority among what a worker of multiprocessing does at its end: before the rest of its kind."""

_log = logging.getLogger("meterstream.producers")
_Result = TypeVar("_Result")


class Background:
    """`make_sender` is told the loop. The outbox wakes this until there is a sender to wake."""

    def __init__(self, outbox: Outbox, make_sender: Callable[[asyncio.AbstractEventLoop], Sender]) -> None:
        self._outbox = outbox
        self._make_sender = make_sender
        self._begin()

    def _begin(self) -> None:
        # A handler of the log may record what it is told of a thread that does not start: so it can be taken again.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._sender: Sender | None = None
        self._loop: _Loop | None = None
        self._task: asyncio.Task[None] | None = None
        self._outbox.wake = self.start

    @property
    def is_here(self) -> bool:
        """Whether the caller is the sender: it cannot wait for itself."""
        return threading.current_thread() is self._thread

    def start(self) -> None:
        """Starts the sender where it does not run. Raises nothing: what cannot start now, the next call tries again."""
        with self._lock:
            if self._thread is None and not self._outbox.is_closed:
                self._start()

    def finish(self, timeout_s: float) -> None:
        """The sender sends what waits, for at most so long, and ends: `outbox.has_ended`. Does not wait."""
        with self._lock:
            if self._outbox.is_closed:
                return
            self._outbox.is_closed = True
            self._outbox.buffer.end_streams(float("inf"))
            if self._thread is None and self._outbox.buffer.waiting:
                self._start()
            loop = self._loop
        if loop is None:
            self._let_go()
            return
        with suppress(RuntimeError):  # it has just ended by itself
            loop.call_soon_threadsafe(self._finish, loop, timeout_s)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """As `finish`, and waits for the end."""
        self.finish(timeout_s)
        if not self.is_here:
            self._outbox.progress.wait(self.has_ended, timeout_s + LET_GO_S)

    def has_ended(self) -> bool:
        """Whether everything was let go."""
        return self._outbox.has_ended

    def after_fork_in_child(self) -> None:
        """The thread, and what waits, are the parent's."""
        if self._sender is not None:
            self._sender.forget()
        self._begin()

    def _start(self) -> None:
        loop = _Loop()
        sender = self._make_sender(loop)
        task = loop.create_task(sender.run(), name="meterstream-sender")
        thread = threading.Thread(target=self._run, args=(loop, task), name="meterstream", daemon=True)
        self._thread, self._sender, self._loop, self._task = thread, sender, loop, task
        try:
            thread.start()
        except RuntimeError as error:
            task.cancel()
            _end(loop)
            self._thread = self._sender = self._loop = self._task = None
            self._outbox.complaints.log("there is no thread for the sender, what is recorded waits", error)
            return
        self._outbox.wake = sender.wake
        atexit.unregister(self._at_exit)  # a forked child has its parent's
        atexit.register(self._at_exit)
        _finalize(self._at_exit)

    def _run(self, loop: _Loop, task: asyncio.Task[None]) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass  # its time is over
        except BaseException as error:
            self._outbox.complaints.log("the sender has ended, the next record starts another", repr(error))
        finally:
            _end(loop)
            with self._lock:
                self._thread = self._sender = self._loop = self._task = None
                self._outbox.wake = self.start
            if self._outbox.is_closed:
                self._let_go()

    def _finish(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        assert self._sender is not None and self._task is not None
        self._sender.finish()
        loop.call_later(timeout_s, self._task.cancel)

    def _let_go(self) -> None:
        buffer = self._outbox.buffer
        is_on_disk = buffer.outlives_process
        try:
            buffer.close()
        except OSError as error:
            self._outbox.complaints.log("the spool's folder stays", error)
        if buffer.waiting:
            where = (
                "they are in the spool, the next process sends them"
                if is_on_disk
                else "what was not in a spool is lost"
            )
            _log.warning("closed with %d records that the broker has not confirmed: %s", buffer.waiting, where)
        self._outbox.has_ended = True
        self._outbox.progress.happened()
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        if self._thread is not None:  # a forked child that has recorded nothing has nothing to end
            self.close()


class _Loop(asyncio.SelectorEventLoop):
    """What blocks runs in a daemon thread each: asyncio's own threads refuse work when the interpreter ends, and then
    there may still be something to send."""

    def run_in_executor(  # type: ignore[override]  # typeshed has a variadic here
        self, executor: Executor | None, func: Callable[..., _Result], *args: Any
    ) -> asyncio.Future[_Result]:
        future: asyncio.Future[_Result] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except BaseException as error:
                tell(_set_exception, error)
            else:
                tell(_set_result, result)

        def tell(set_outcome: Callable[[asyncio.Future[_Result], Any], None], outcome: object) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self.call_soon_threadsafe(set_outcome, future, outcome)

        try:
            threading.Thread(target=work, name="meterstream-blocking", daemon=True).start()
        except RuntimeError:  # there are no threads any more: later Pythons start none while they end
            work()
        return future


def _set_result(future: asyncio.Future[_Result], result: _Result) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[_Result], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Closes it, with what a connection that was cut has left in it."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left, timeout=1.0))
    loop.close()


def _finalize(end: Callable[[], None]) -> None:
    """In a worker of multiprocessing, which ends without `atexit`."""
    multiprocessing = sys.modules.get("multiprocessing")
    util = sys.modules.get("multiprocessing.util")
    if multiprocessing is not None and util is not None and multiprocessing.parent_process() is not None:
        util.Finalize(None, end, exitpriority=FIRST)
