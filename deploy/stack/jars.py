"""The broker's jars: pinned by sha256, downloaded once into a cache that all folders share.

    CACHE/kafka-4.4.0/<artifact>-<version>.jar

`up` runs the download as a process of its own, so that Ctrl-C ends one that hangs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from meterstream.schema.errors import StackError

KAFKA_VERSION = "4.4.0"
LOCK_NAME = f"kafka-{KAFKA_VERSION}.lock"
CACHE_VARIABLE = "METERSTREAM_CACHE"
DOWNLOADS_AT_ONCE = 8
NETWORK_TIMEOUT_S = 20
UNREACHABLE = "check the network and the proxy's settings"
UNTRUSTED = (
    "whoever answers has a certificate that is not trusted here. Where your network has an authority of its own, "
    "name its file in REQUESTS_CA_BUNDLE (pip's settings do not count here)"
)


@dataclass(frozen=True)
class Jar:
    """One pinned artifact."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """As the repository names it."""
        return f"{self.artifact}-{self.version}.jar"


def pinned() -> tuple[Jar, ...]:
    """The broker's class path, in the order in which the JVM's cache was trained."""
    text = files("meterstream.deploy.stack").joinpath(LOCK_NAME).read_text(encoding="ascii")
    return tuple(parse_pin(line) for line in text.splitlines() if line)


def parse_pin(line: str) -> Jar:
    """`group:artifact:version sha256`."""
    coordinates, sha256 = line.split()
    group, artifact, version = coordinates.split(":")
    return Jar(group, artifact, version, sha256)


def cache_folder() -> Path:
    """METERSTREAM_CACHE, else ~/.cache/meterstream; absolute. Raises StackError for a user without a home."""
    named = os.environ.get(CACHE_VARIABLE)
    try:
        return Path(os.path.abspath(named)) if named else Path.home() / ".cache" / "meterstream"
    except RuntimeError as error:
        raise StackError(f"user id {os.getuid()} has no home folder: set HOME or {CACHE_VARIABLE}") from error


def jar_folder() -> Path:
    """Where this version's jars are kept."""
    return cache_folder() / f"kafka-{KAFKA_VERSION}"


def missing(folder: Path) -> list[Jar]:
    """The pinned jars that are not there, or not what was pinned. Reads all of them (45 MB)."""
    return [jar for jar in pinned() if not _is_good(folder / jar.file_name, jar.sha256)]


def _is_good(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def download(folder: Path) -> None:
    """Fetches and checks what is missing. Blocks; raises StackError naming every jar that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    drafts = folder / "download"
    with open(folder / ".download.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two first starts at once: one downloads, the other waits
        shutil.rmtree(drafts, ignore_errors=True)  # of a download that was killed
        wanted = missing(folder)
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            results = list(pool.map(lambda jar: _fetch(jar, drafts, folder), wanted))
        shutil.rmtree(drafts, ignore_errors=True)
    problems = [problem for problem in results if problem]
    if problems:
        raise StackError(
            f"{len(problems)} of {len(wanted)} jars could not be downloaded (the first: {problems[0]}): "
            f"{UNTRUSTED if problems[0].endswith(': SSLError') else UNREACHABLE}, then try again"
        )


def _fetch(jar: Jar, drafts: Path, folder: Path) -> str | None:
    """The problem in one line, or None."""
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=drafts, remote_repos={"central": MAVEN_CENTRAL_URL}, timeout=NETWORK_TIMEOUT_S)
    try:
        draft = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
        return f"{jar.file_name}: {type(error).__name__}"
    if not _is_good(draft, jar.sha256):
        return f"{jar.file_name}: its sha256 is not the pinned one"
    draft.replace(folder / jar.file_name)
    return None


def main() -> int:
    """The download process, given the folder; its last line of output is the reason of a failure."""
    try:
        download(Path(sys.argv[1]))
    except ImportError as error:
        print(f'the package {error.name} is missing: pip install "meterstream[local]"')
        return 1
    except (StackError, OSError) as error:
        print(error)
        return 1
    return 0
