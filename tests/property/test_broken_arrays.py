"""The rater and `verify` take any bytes apart into the same positions, each with a reader of its own."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import example, given
from hypothesis import strategies as st

from meterstream.deploy.intake.raw_record import positions_of
from meterstream.processors.rating.decode import decode_record

PIECES = st.sampled_from(
    [
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b'"',
        b"\\",
        b" ",
        b"\n",
        b"1",
        b"NaN",
        b'"a"',
        b":",
        b'\\"',
        b"\\ud800",
        b"\xff",
        b"{}",
    ]
)


@given(st.lists(PIECES, max_size=30).map(b"".join))
@example(b'1,"\\"],{')
@example(b"]")
def test_rater_and_verify_see_the_same_positions(inside: bytes) -> None:
    for value in (b"[" + inside + b"]", b"[NaN," + inside + b"]", inside):
        record = SimpleNamespace(offset=0, value=value, headers=())
        assert len(positions_of(record)) == len(decode_record(value, ())), value
