"""The rater's floor: getmany, typed decode, price by a dict, send packs. No checks, claims, coverage or commits.

In, one line: where to read, where to write, the rates. Out, one line: events and their amount.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from zlib import crc32

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

PACK_ROWS = 300
POLL_RECORDS = 2_000


class Rates(msgspec.Struct, frozen=True):
    input: int
    output: int
    cache_read: int
    cache_write: int


class Arguments(msgspec.Struct, frozen=True):
    bootstrap: str
    topic: str
    start: dict[int, int]
    end: dict[int, int]
    output: str
    partitions: int
    rates: dict[str, Rates]


class Tokens(msgspec.Struct, gc=False):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


class Data(msgspec.Struct, gc=False):
    model: str
    operation: str
    usage: Tokens


class Event(msgspec.Struct, gc=False):
    id: str
    tenant: str
    time: str
    data: Data


async def main(arguments: Arguments) -> dict[str, int]:
    """Reads from `start` to `end`."""
    wanted = [TopicPartition(arguments.topic, number) for number in arguments.start]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=arguments.bootstrap, enable_auto_commit=False, max_partition_fetch_bytes=4_194_304
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=arguments.bootstrap,
        acks="all",
        compression_type="zstd",
        linger_ms=2,
        max_batch_size=1_000_000,
        max_request_size=4_194_304,
    )
    async with producer, consumer:
        consumer.assign(wanted)
        for partition in wanted:
            consumer.seek(partition, arguments.start[partition.partition])
        return await rate(arguments, consumer, producer)


async def rate(arguments: Arguments, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> dict[str, int]:
    """Until everything has been read, sent and acknowledged."""
    decode = msgspec.json.Decoder(Event).decode
    encode = msgspec.msgpack.Encoder().encode
    rates = {
        model: (rate.input, rate.output, rate.cache_read, rate.cache_write) for model, rate in arguments.rates.items()
    }
    partition_of: dict[str, int] = {}
    waiting: dict[tuple[int, int], list[Any]] = {}
    sends: list[Any] = []
    left = sum(arguments.end.values()) - sum(arguments.start.values())
    events = amount_pico = 0
    while events < left:
        batches = await consumer.getmany(timeout_ms=200, max_records=POLL_RECORDS)
        for source, records in batches.items():
            for record in records:
                if record.offset >= arguments.end[source.partition]:
                    # Else it would unpack all that follows in the topic, and that would be taken off as start-up.
                    consumer.pause(source)
                    break
                event = decode(record.value)
                usage = event.data.usage
                per_input, per_output, per_read, per_write = rates[event.data.model]
                read, written = usage.cache_read_tokens, usage.cache_write_tokens
                amount = (
                    (usage.input_tokens - read - written) * per_input
                    + usage.output_tokens * per_output
                    + read * per_read
                    + written * per_write
                )
                tenant = event.tenant
                partition = partition_of.get(tenant)
                if partition is None:
                    partition = partition_of[tenant] = crc32(tenant.encode()) % arguments.partitions
                place = (source.partition, partition)
                rows = waiting.get(place)
                if rows is None:
                    rows = waiting[place] = []
                rows.append(
                    (
                        record.offset,
                        event.id,
                        tenant,
                        event.time,
                        event.data.model,
                        event.data.operation,
                        usage.input_tokens,
                        usage.output_tokens,
                        read,
                        written,
                        amount,
                    )
                )
                events += 1
                amount_pico += amount
        for place, rows in waiting.items():
            while len(rows) >= PACK_ROWS or (rows and events >= left):
                value = encode((place[0], rows[:PACK_ROWS]))
                sends.append(await producer.send(arguments.output, value, partition=place[1]))
                del rows[:PACK_ROWS]
    await asyncio.gather(*sends)
    return {"events": events, "amount_pico": amount_pico}


if __name__ == "__main__":
    result = asyncio.run(main(msgspec.json.decode(sys.stdin.readline(), type=Arguments)))
    print(msgspec.json.encode(result).decode(), flush=True)
