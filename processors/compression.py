"""How hard this process compresses what it sends to Kafka.

aiokafka has no setting for it, and takes zstd's level 3. Level 1 makes the rater's packs as small, in half the time.
"""

from __future__ import annotations

from typing import Final

from aiokafka import codec

LEVEL: Final = 1


def compress_fast() -> None:
    """From here on all zstd of aiokafka in this process is of LEVEL; readers need not know."""
    codec.zstd_encode.__defaults__ = (LEVEL,)
