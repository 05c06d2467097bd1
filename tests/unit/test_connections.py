"""Logins: what goes wrong is said without a piece of the password."""

from __future__ import annotations

import traceback

import pytest
from pydantic import SecretStr

from meterstream.deploy.connections import reader
from meterstream.deploy.verify import run as verify
from meterstream.schema.errors import Unreachable, UsageError
from meterstream.schema.settings import Settings

BROKEN = Settings(postgres_reader_dsn=SecretStr("postgresql://reader:s3cret@127.0.0.1:9/meter?sslmode=s3cret"))
"""Only the client itself knows which modes there are."""


async def test_no_traceback_of_a_dsn_that_cannot_be_read_shows_its_password() -> None:
    with pytest.raises(UsageError, match="METERSTREAM_POSTGRES_READER_DSN: this is no postgresql://") as of_reader:
        async with reader(BROKEN):
            pass
    with pytest.raises(UsageError, match="METERSTREAM_POSTGRES_READER_DSN: this is no postgresql://") as of_verify:
        await verify.verify(BROKEN)
    for caught in (of_reader, of_verify):
        assert not isinstance(caught.value, Unreachable), "it does not pass by itself"
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))
