"""The same work done otherwise, in the same run: floors of rater and sink, and the stock Faust idiom.

A peer is a script under `tests/bench/peers`, run as a process of its own. It reads its arguments as one line of
JSON and answers with one line of JSON; what it wrote is checked here as ours is.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from meterstream.deploy.bench import checks
from meterstream.deploy.bench.broker import Offsets
from meterstream.deploy.bench.budgets import AMOUNT_PICO, THRESHOLDS
from meterstream.deploy.bench.checks import Found
from meterstream.deploy.bench.cpu import cpu_seconds
from meterstream.deploy.bench.machine import is_installed
from meterstream.deploy.bench.process import Child, Usage
from meterstream.deploy.bench.results import PeerFigures
from meterstream.deploy.bench.stages import Bench, Preloaded, preload, slope, until
from meterstream.deploy.bench.workload import FlatRates, make_lot
from meterstream.producers.simulated import Profile
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.topics import PRICED, RAW, partitions_of

FLOOR: Final = "rater's floor"
COPY: Final = "plain COPY"
FAUST: Final = "Faust idiom"
FAUST_BOTH: Final = "Faust idiom, rater + aggregator"
FAUST_LIVE: Final = "Faust idiom, aggregator"
COPY_ROWS: Final = 8_000
"""In a transaction, as the sink's batches."""

Reader = Callable[..., Awaitable[Found]]


def folder() -> Path | None:
    """Where the scripts are; None outside a checkout, since they are not part of the package."""
    found = Path(__file__).resolve().parents[2] / "tests" / "bench" / "peers"
    return found if found.is_dir() else None


def has_faust() -> bool:
    """Whether the package of the stock idiom is installed."""
    return is_installed("faust-streaming")


async def rater_floor(
    bench: Bench, scripts: Path, profile: Profile, lots: tuple[Preloaded, Preloaded], flat: dict[str, FlatRates]
) -> PeerFigures:
    """A plain aiokafka loop over the lots that the rater has read. Raises MeterstreamError."""
    topic = f"bench.floor.{profile}"
    await bench.broker.create(topic, partitions_of(PRICED))

    async def run(raw: Preloaded) -> Usage:
        arguments = {
            "bootstrap": bench.testbed.settings.kafka_bootstrap,
            "topic": RAW,
            "start": raw.start,
            "end": raw.end,
            "output": topic,
            "partitions": partitions_of(PRICED),
            "rates": flat,
        }
        return await _checked(bench, scripts / "rater_floor.py", arguments, raw, topic, checks.plain_packs)

    small, large = lots
    return _sloped(FLOOR, small, await run(small), large, await run(large))


async def faust_idiom(bench: Bench, scripts: Path, profile: Profile, flat: dict[str, FlatRates]) -> PeerFigures:
    """An agent per event, records, a tumbling table, a send per event. Fewer events. Raises MeterstreamError."""
    sizes = (max(1, bench.options.faust_events // 3), bench.options.faust_events)
    lots: list[Preloaded] = []
    usages: list[Usage] = []
    for size in sizes:
        raw_topic, output = f"bench.faust.{profile}.{size}.raw", f"bench.faust.{profile}.{size}.priced"
        for topic in (raw_topic, output):
            await bench.broker.create(topic, partitions_of(RAW))
        lot = make_lot(raw_topic, seed=bench.options.seed + 4, events=size, profile=profile, topic=raw_topic)
        raw = await preload(bench, lot, raw_topic)
        arguments = {
            "bootstrap": bench.testbed.settings.kafka_bootstrap,
            "app": f"bench-faust-{profile}-{size}",
            "topic": raw_topic,
            "events": size,
            "output": output,
            "partitions": partitions_of(RAW),
            "folder": str(bench.testbed.home / "faust"),
            "rates": flat,
        }
        lots.append(raw)
        usages.append(await _checked(bench, scripts / "faust_idiom.py", arguments, raw, output, checks.plain_records))
    return _sloped(FAUST, lots[0], usages[0], lots[1], usages[1])


async def faust_live_idiom(
    bench: Bench, scripts: Path, profile: Profile, flat: dict[str, FlatRates]
) -> list[PeerFigures]:
    """One agent that prices and aggregates, then one that aggregates what the first has priced: hours, days, what
    each tenant has spent, alerts. Raises MeterstreamError."""
    sizes = (max(1, bench.options.faust_events // 3), bench.options.faust_events)
    script = scripts / "faust_live_idiom.py"
    levels_pico = [AMOUNT_PICO * percent // 100 for percent in THRESHOLDS]
    lots: list[Preloaded] = []
    both: list[Usage] = []
    live: list[Usage] = []
    for size in sizes:
        name = f"bench.faust-live.{profile}.{size}"
        topics = (f"{name}.raw", f"{name}.priced", f"{name}.alerts-1", f"{name}.alerts-2")
        raw_topic, priced, alerts_both, alerts_live = topics
        apps = (f"bench-faust-both-{profile}-{size}", f"bench-faust-live-{profile}-{size}")
        # Made here: an application that declares several at once trips over those that the broker has not yet made.
        changelogs = [f"{app}-{table}-changelog" for app in apps for table in ("hourly", "daily", "spent")]
        for topic in (*topics, *changelogs):
            await bench.broker.create(topic, partitions_of(RAW))
        lot = make_lot(raw_topic, seed=bench.options.seed + 5, events=size, profile=profile, topic=raw_topic)
        raw = await preload(bench, lot, raw_topic)
        arguments = {
            "bootstrap": bench.testbed.settings.kafka_bootstrap,
            "app": apps[0],
            "topic": raw_topic,
            "events": size,
            "output": priced,
            "alerts": alerts_both,
            "partitions": partitions_of(RAW),
            "folder": str(bench.testbed.home / "faust"),
            "rates": flat,
            "levels_pico": levels_pico,
        }
        lots.append(raw)
        both.append(await _checked(bench, script, arguments, raw, priced, checks.plain_records))
        await checks.plain_alerts(bench.broker, priced, alerts_both, partitions_of(RAW), levels_pico)
        arguments |= {
            "app": apps[1],
            "topic": priced,
            "output": "",
            "alerts": alerts_live,
            "rates": {},
        }
        live.append(await _run_checked(bench, script, arguments, raw))
        await checks.plain_alerts(bench.broker, priced, alerts_live, partitions_of(RAW), levels_pico)
    return [
        _sloped(FAUST_BOTH, lots[0], both[0], lots[1], both[1]),
        _sloped(FAUST_LIVE, lots[0], live[0], lots[1], live[1]),
    ]


async def plain_copy(bench: Bench, scripts: Path, raw: Preloaded) -> PeerFigures:
    """COPY of the ledger rows of a lot into a table of the same columns without any index. Raises MeterstreamError."""
    arguments = {"dsn": bench.testbed.admin_dsn, "source": raw.lot.source, "rows": COPY_ROWS}
    async with _start(bench, scripts / "plain_copy.py", arguments) as child:
        ready = await _answer(child, lines=1, events=raw.lot.sent)
        before = cpu_seconds(ready["backend"])
        child.tell("go")
        done = await _answer(child, lines=2, events=raw.lot.sent)
        server_s = cpu_seconds(ready["backend"]) - before
        child.tell("end")
        await child.ended(10)
    expected = raw.lot.amount_pico(bench.rates, with_duplicates=False)
    Found(done["rows"], done["amount_pico"]).must_be(raw.lot.accepted, expected, "the copy of the ledger")
    rows = raw.lot.accepted
    return PeerFigures(COPY, rows, client_us=done["cpu_s"] / rows * 1e6, server_us=server_s / rows * 1e6)


async def _checked(
    bench: Bench, script: Path, arguments: dict[str, Any], raw: Preloaded, output: str, read: Reader
) -> Usage:
    partitions = arguments["partitions"]
    before: Offsets = await bench.broker.ends(output, partitions)
    usage = await _run_checked(bench, script, arguments, raw)
    found = await read(bench.broker, output, before, await bench.broker.ends(output, partitions))
    expected = raw.lot.amount_pico(bench.rates, with_duplicates=True)
    found.must_be(raw.lot.sent, expected, f"the output of {script.stem}")
    bench.say(f"{script.stem} has priced {found.events:,} events of the right sum")
    return usage


async def _run_checked(bench: Bench, script: Path, arguments: dict[str, Any], raw: Preloaded) -> Usage:
    """Every sum that it holds at the end is the lot's."""
    async with _start(bench, script, arguments) as child:
        answer = await _answer(child, lines=1, events=raw.lot.sent)
        usage = await child.ended(60)
    expected = raw.lot.amount_pico(bench.rates, with_duplicates=True)
    for name in [name for name in answer if name.endswith("_pico")]:
        Found(answer["events"], answer[name]).must_be(raw.lot.sent, expected, f"{name} of {script.stem}")
    return usage


def _start(bench: Bench, script: Path, arguments: dict[str, Any]) -> Child:
    child = Child(script.stem, [sys.executable, str(script)], log=bench.testbed.log(script.stem))
    child.tell(msgspec.json.encode(arguments).decode())
    return child


async def _answer(child: Child, *, lines: int, events: int) -> Any:
    """The last of so many lines of JSON that the peer has written; other output of its libraries is skipped."""

    def said() -> list[str]:
        return [line for line in child.output() if line.startswith("{") and line.endswith("}")]

    async def has_said() -> bool:
        return len(said()) >= lines

    await until(has_said, events=events, watched=[child], what=child.name)
    try:
        return msgspec.json.decode(said()[lines - 1])
    except msgspec.DecodeError as error:
        raise MeterstreamError(f"{child.name} answered with no JSON: {said()[lines - 1]}") from error


def _sloped(name: str, small: Preloaded, used_small: Usage, large: Preloaded, used_large: Usage) -> PeerFigures:
    cpu_us = slope(used_small.cpu_s, used_large.cpu_s, small.lot.sent, large.lot.sent)
    return PeerFigures(name, large.lot.sent, client_us=cpu_us)
