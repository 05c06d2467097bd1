"""The JVM's cache: one boot of a throw-away broker writes it, every later boot is a second shorter."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
from pathlib import Path

from meterstream.deploy.stack import kafka, process
from meterstream.deploy.stack.starting import bring_up
from meterstream.deploy.stack.state import Folder
from meterstream.schema.errors import StackError

WRITE_LIMIT_S = 120.0
LOW_PRIORITY = 15
CACHES_MAX = 3  # each virtual environment has its own JRE and so its own cache, 65 MB


def warm() -> bool:
    """Makes the cache for the installed JRE. Blocks about 6 s. False: it is there, or another makes it now.

    Raises StackError where the broker does not start or the cache is not written.
    """
    target = kafka.installed_cache_file()
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / ".warm.lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        scratch = target.parent / "training"
        shutil.rmtree(scratch, ignore_errors=True)  # of a training that was killed
        try:
            _train(Folder(scratch), scratch / "cache.aot", target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return True


def _train(folder: Folder, draft: Path, target: Path) -> None:
    broker = kafka.Kafka(train=draft)
    state = bring_up(folder, [broker], bind_to_parent=True)
    running = state.processes[broker.name]
    process.send(running, broker.stop_signal)
    if not process.wait(running, WRITE_LIMIT_S) or not draft.exists():
        process.kill_group(running, WRITE_LIMIT_S)
        raise StackError(f"the JVM wrote no cache; see {folder.log(broker.name)}")
    draft.replace(target)
    kept = sorted(target.parent.glob("jvm-*.aot"), key=lambda path: path.stat().st_mtime)
    for old in kept[:-CACHES_MAX]:
        old.unlink()


def start_in_background() -> None:
    """`warm()` in a process of its own at low priority, unless the cache is there or cannot be written."""
    with contextlib.suppress(OSError, StackError):  # it is a nicety: `down` has done its work
        target = kafka.installed_cache_file()
        if target.exists() or not os.access(target.parent, os.W_OK):
            return
        process.spawn(
            [sys.executable, "-P", "-c", f"from {__name__} import warm; warm()"],
            cwd=target.parent,
            log=target.parent / "warming.log",
            env=os.environ,
            nice=LOW_PRIORITY,
        ).release()
