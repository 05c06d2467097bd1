"""The state file: whole or clearly refused, private, one command at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meterstream.deploy import stack
from meterstream.deploy.stack import process
from meterstream.deploy.stack.process import ProcessId
from meterstream.deploy.stack.state import Folder, State
from meterstream.schema.errors import StackBusy, StackError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder in which something was started once."""
    made = Folder(tmp_path / "home")
    made.make()
    state = State.new()
    state.ports = {"kafka": 1, "controller": 2, "postgres": 3, "valkey": 4}
    made.save(state)
    return made


def test_what_is_saved_is_loaded(folder: Folder) -> None:
    state = folder.load()
    assert state is not None
    state.processes["kafka"] = ProcessId(1, 2, "boot")
    folder.save(state)
    assert folder.load() == state
    for path in (folder.state_file, folder.pgpass_file):
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b'{"version": 1}',
        b'{"cluster_id": "x", "passwords": {}, "ports": {"kafka": 1}}',
    ],
)
def test_a_damaged_file_is_refused_with_the_way_out(folder: Folder, content: bytes) -> None:
    folder.state_file.write_bytes(content)
    for command in (stack.up, stack.down, stack.status, stack.addresses):
        with pytest.raises(StackError, match=r"state\.json is damaged .*Put the file back, or give up the data"):
            command(folder.home)
    assert folder.state_file.read_bytes() == content


def test_a_file_of_a_later_version_is_refused(folder: Folder) -> None:
    known = json.loads(folder.state_file.read_bytes())
    folder.state_file.write_text(json.dumps(known | {"version": 2}))
    with pytest.raises(StackError, match="has version 2"):
        stack.status(folder.home)


def test_data_without_their_state_are_not_overwritten(folder: Folder) -> None:
    folder.state_file.unlink()
    folder.data("postgres").mkdir()
    with pytest.raises(StackError, match="is missing, but there is data of postgres"):
        stack.up(folder.home)


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    home = tmp_path / "none"
    assert stack.down(home) == []
    assert stack.addresses(home) is None
    assert [server.state for server in stack.status(home).servers] == ["stopped"] * 3
    assert not home.exists()


def test_one_command_at_a_time(folder: Folder) -> None:
    with (
        folder.locked("up"),
        pytest.raises(StackBusy, match=r"is in use: `up` of process \d+"),
        folder.locked("down", 0),
    ):
        pass
    with folder.locked("down", 0):
        pass


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(StackError, match="is a file; the stack needs a folder"):
        stack.up(tmp_path / "home")


def test_a_copy_knows_nothing_of_the_originals_processes(folder: Folder, tmp_path: Path) -> None:
    state = folder.load()
    me = process.identify(os.getpid())
    assert state is not None and me is not None
    state.processes["kafka"] = me
    folder.save(state)
    shutil.copytree(folder.home, tmp_path / "copy")
    assert stack.down(tmp_path / "copy") == []
    assert [server.state for server in stack.status(tmp_path / "copy").servers] == ["stopped"] * 3
    folder.home.rename(tmp_path / "moved")
    moved = Folder(tmp_path / "moved").load()
    assert moved is not None and moved.processes == {"kafka": me}


def test_down_leaves_a_process_that_got_the_id_of_a_server(folder: Folder) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        found = process.identify(other.pid)
        state = folder.load()
        assert found is not None
        assert state is not None
        state.processes["kafka"] = ProcessId(found.pid, found.started_ticks - 1, found.boot_id)
        folder.save(state)
        assert [server.state for server in stack.status(folder.home).servers] == ["died", "stopped", "stopped"]
        assert stack.down(folder.home) == []
        assert other.poll() is None
        other.kill()


def test_a_password_is_made_once_and_kept(folder: Folder) -> None:
    made = stack.password(folder.home, "someone")
    assert stack.password(folder.home, "someone") == made
    assert f"127.0.0.1:3:*:someone:{made}\n" in folder.pgpass_file.read_text()
    with pytest.raises(StackError, match="run `meterstream up`"):
        stack.password(folder.home / "other", "someone")


def test_addresses_show_no_password(folder: Folder) -> None:
    state = folder.load()
    assert state is not None
    addresses = state.addresses()
    assert not [word for word in state.passwords.values() if word in repr(addresses)]
    assert addresses.dsn("a b", "p/:@") == "postgresql://a%20b:p%2F%3A%40@127.0.0.1:3/meterstream"
    assert addresses.dsn().startswith(f"postgresql://postgres:{state.passwords['postgres']}@")


def test_bound_servers_need_the_main_thread(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(stack.up, tmp_path / "home", bind_to_parent=True)
        with pytest.raises(UsageError, match="needs the main thread"):
            started.result()
    assert not (tmp_path / "home").exists()
