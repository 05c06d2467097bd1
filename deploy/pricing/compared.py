"""Which shipped price files were compared with which price book, kept in the database itself.

What loading them does is decided by the files and the book alone. Where both are those of the last time, it would do
nothing: so the files, half a megabyte of YAML, need not be parsed at each `up`.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from typing import Final

from meterstream.deploy.connections import Connection

# Rows cannot be taken away from the book, so its revision would do; the count sees through a restore that was cut off.
_SAME_BOOK: Final = """
    SELECT revision FROM meter.shipped_prices
    WHERE digest = $1 AND revision = (SELECT max(revision) FROM meter.price_revisions)
      AND prices = (SELECT count(*) FROM meter.prices)
"""

_REMEMBER: Final = """
    INSERT INTO meter.shipped_prices (digest, revision, prices)
    SELECT $1, max(revision), (SELECT count(*) FROM meter.prices) FROM meter.price_revisions
    HAVING max(revision) IS NOT NULL
    ON CONFLICT (digest) DO UPDATE
    SET revision = excluded.revision, prices = excluded.prices, compared_at = excluded.compared_at
"""


def files_digest() -> str:
    """Of the price files of this version, names and bytes, and of the version that reads them. Blocks for the read."""
    digest = sha256(version("meterstream").encode())
    folder = files("meterstream.schema").joinpath("prices")
    for file in sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name):
        content = file.read_bytes()
        digest.update(f"\0{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


async def newest_revision(connection: Connection, digest: str) -> int | None:
    """The book's newest revision, where these files were compared with just this book. None: they must be, now."""
    revision: int | None = await connection.fetchval(_SAME_BOOK, digest)
    return revision


async def remember(connection: Connection, digest: str) -> None:
    """The book of this transaction has what these files bring. Nobody else may change it until the transaction ends."""
    await connection.execute(_REMEMBER, digest)
