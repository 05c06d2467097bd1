"""The sink's session: its settings and the codecs that make COPY cheap.

Values go to the server as the rater sent them: claim keys as 16 bytes, amounts as integers of 1e-12, JSON
as text. Only amounts are translated, exactly (`encode_amount`).
"""

from __future__ import annotations

from decimal import Decimal
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from meterstream.schema.money import to_decimal

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # its generics are those of the stubs only

CONNECT_TIMEOUT_S: Final = 10.0
COMMAND_TIMEOUT_S: Final = 60.0

_GROUP: Final = 10_000
_PLACES: Final = 12
_POSITIVE, _NEGATIVE = 0, 0x4000
_USUAL: Final = Struct(">hhHh5H").pack
_USUAL_MAX: Final = _GROUP**5
_NUMERIC_HEADER: Final = Struct(">hhHh").pack


def encode_amount(pico: int) -> bytes:
    """An integer of 1e-12 -> the binary form of NUMERIC with 12 places: sign, and digits in base 10,000."""
    sign, rest = (_NEGATIVE, -pico) if pico < 0 else (_POSITIVE, pico)
    if rest < _USUAL_MAX:  # below a hundred million units of currency
        rest, e = divmod(rest, _GROUP)
        rest, d = divmod(rest, _GROUP)
        rest, c = divmod(rest, _GROUP)
        a, b = divmod(rest, _GROUP)
        return _USUAL(5, 1, sign, _PLACES, a, b, c, d, e)
    digits: list[int] = []
    while rest:
        rest, digit = divmod(rest, _GROUP)
        digits.append(digit)
    count = len(digits)
    body = b"".join(digit.to_bytes(2, "big") for digit in reversed(digits))
    return _NUMERIC_HEADER(count, count - 1 - _PLACES // 4, sign, _PLACES) + body


def decode_amount(data: bytes) -> Decimal:
    """The binary form of a NUMERIC with at most 12 places -> Decimal with 12 places."""
    count, weight, sign = (int.from_bytes(data[i : i + 2], "big", signed=i == 2) for i in (0, 2, 4))
    pico = 0
    for index in range(count):
        digit = int.from_bytes(data[8 + 2 * index : 10 + 2 * index], "big")
        pico += digit * _GROUP ** (weight - index + _PLACES // 4)
    return to_decimal(-pico if sign == _NEGATIVE else pico)


def encode_jsonb(text: str) -> bytes:
    """jsonb's binary form is a version and the text."""
    return b"\x01" + text.encode()


def decode_jsonb(data: bytes) -> str:
    """The reverse of `encode_jsonb`."""
    return data[1:].decode()


async def connect(dsn: str) -> Connection:
    """A session for the sink, ready for COPY. May block up to CONNECT_TIMEOUT_S; raises OSError, TimeoutError,
    asyncpg.PostgresError."""
    connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        server_settings={
            "application_name": "meterstream-sink-postgres",
            "timezone": "UTC",
            # A commit that the server may still forget would leave the position here ahead of the one there.
            "synchronous_commit": "on",
            "search_path": "pg_catalog",
            # Planned with the bounds at hand, so that only the leaves of this batch are looked at.
            "plan_cache_mode": "force_custom_plan",
            "jit": "off",
            # Keys are looked up in an index, whatever the planner believes of a leaf: what a scan would save on a
            # small one is nothing beside reading a large one whole.
            "enable_seqscan": "off",
        },
    )
    await _set_codecs(connection)
    return connection


async def _set_codecs(connection: Connection) -> None:
    for name, encoder, decoder in (
        ("uuid", bytes, bytes),
        ("numeric", encode_amount, decode_amount),
        ("jsonb", encode_jsonb, decode_jsonb),
    ):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=encoder, decoder=decoder, format="binary")
