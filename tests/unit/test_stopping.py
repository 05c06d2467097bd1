"""A consumer is stopped, whatever its client makes of being asked."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from meterstream.schema import stopping
from meterstream.schema.stopping import stopped


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "DEAF_AFTER_S", 0.01)


class Deaf:
    """As aiokafka's: its fetcher swallows the first cancellation, since it is letting go of a fetch itself."""

    def __init__(self) -> None:
        self.has_closed = False
        self._fetcher = asyncio.ensure_future(self._fetch())

    async def _fetch(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self._fetcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._fetcher
        self.has_closed = True


async def test_a_fetcher_that_goes_on_is_cancelled_again() -> None:
    consumer = Deaf()
    async with asyncio.timeout(10):
        await stopped(consumer)
    assert consumer.has_closed


async def test_a_cancelled_fetch_that_comes_through_is_no_error() -> None:
    class Leaky:
        async def stop(self) -> None:
            raise asyncio.CancelledError

    await stopped(Leaky())


async def test_an_error_comes_out() -> None:
    class Broken:
        async def stop(self) -> None:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await stopped(Broken())


async def test_who_is_cancelled_meanwhile_is_cancelled() -> None:
    class Slow:
        async def stop(self) -> None:
            await asyncio.sleep(3600)

    task = asyncio.ensure_future(stopped(Slow()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
