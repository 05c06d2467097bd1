"""The lag is what a broker has said lately, or unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, repeat

import pytest

from meterstream.schema import lag
from meterstream.schema.lag import Lag, Partition

ENDS = {("t", 0): 10, ("t", 1): 7}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again at once; a broker that says nothing is given up at once."""
    monkeypatch.setattr(lag, "ASK_INTERVAL_S", 0.0)
    monkeypatch.setattr(lag, "ANSWER_WITHIN_S", 0.05)


def answering(answers: Iterator[Callable[[], Awaitable[Mapping[Partition, int]]]]) -> tuple[Lag, asyncio.Event]:
    """A lag whose broker answers in turn; the event is set when the answers have come to their end."""
    is_over = asyncio.Event()

    async def ask() -> Mapping[Partition, int]:
        try:
            answer = next(answers)
        except StopIteration:
            is_over.set()
            raise asyncio.CancelledError from None
        return await answer()

    return Lag(ask), is_over


async def say() -> Mapping[Partition, int]:
    return ENDS


async def refuse() -> Mapping[Partition, int]:
    raise OSError("no route")


async def be_silent() -> Mapping[Partition, int]:
    return await asyncio.Future()


async def heard(*answers: Callable[[], Awaitable[Mapping[Partition, int]]]) -> Lag:
    told, is_over = answering(iter(answers))
    with suppress(asyncio.CancelledError):
        await told.follow()
    assert is_over.is_set()
    return told


async def test_it_counts_every_partition_against_its_end() -> None:
    told = await heard(say)
    assert told.trouble is None
    assert told.records({("t", 0): 4, ("t", 1): 7}) == 6
    assert told.records({("t", 0): 11}) == 0, "more was read since the question"
    assert told.records({}) == 0


async def test_it_is_unknown_before_the_first_answer_and_where_an_offset_or_an_end_is() -> None:
    assert Lag(say).records({("t", 0): 0}) is None
    told = await heard(say)
    assert told.records({("t", 0): None, ("t", 1): 7}) is None
    assert told.records({("t", 2): 0}) is None


def test_what_a_role_asked_itself_counts_at_once() -> None:
    told = Lag(say)
    told.hear({("t", 0): 10})
    assert told.records({("t", 0): 4}) == 6
    assert told.records({("t", 0): 4, ("t", 1): 0}) is None


@pytest.mark.parametrize("fault", [refuse, be_silent])
async def test_a_broker_that_does_not_answer_is_named_and_its_old_answer_expires(
    fault: Callable[[], Awaitable[Mapping[Partition, int]]],
) -> None:
    told = await heard(say, *[fault] * 5)
    assert told.trouble is not None
    assert "lag unknown" in told.trouble
    told = await heard(say, be_silent, be_silent)  # longer than an answer is good for
    assert told.records({("t", 0): 4}) is None
    told = await heard(fault, say)
    assert told.trouble is None
    assert told.records({("t", 0): 4}) == 6


def test_seconds_are_those_since_the_oldest_unread_record_was_first_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "ANSWER_WITHIN_S", 10.0)
    times = chain([100.0, 101.0, 101.0, 103.0], repeat(104.0))
    told = Lag(say, clock=lambda: next(times))
    told.hear({("t", 0): 10, ("t", 1): 7})  # at 100
    told.hear({("t", 0): 10, ("t", 1): 9})  # at 101: the other one has not grown
    told.hear({("t", 0): 12, ("t", 1): 9})  # at 101
    told.hear({("t", 0): 15, ("t", 1): 9})  # at 103
    assert told.seconds({("t", 0): 4, ("t", 1): 7}) == 4
    assert told.seconds({("t", 0): 10, ("t", 1): 9}) == 3
    assert told.seconds({("t", 0): 12, ("t", 1): 9}) == 1
    assert told.seconds({("t", 0): 15, ("t", 1): 9}) == 0
    assert told.seconds({("t", 0): None, ("t", 1): 9}) is None
    told.hear({("t", 0): 16, ("t", 1): 9})
    assert told.seconds({("t", 0): 8, ("t", 1): 9}) == 1, "begun anew from further back: no more than is known"


def test_what_is_remembered_of_the_growth_is_bounded() -> None:
    told = Lag(say)
    for end in range(3 * lag.GROWTH_KEPT):
        told.hear({("t", 0): end})
    assert len(told._growth["t", 0]) == lag.GROWTH_KEPT
