"""The broker: Apache Kafka, one node, broker and controller in one process, on the JRE of a wheel."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import signal
import socket
import struct
import sys
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meterstream.deploy.stack import jars, wheels
from meterstream.deploy.stack.host import Host, Steps
from meterstream.deploy.stack.ports import HOST

LOG = logging.getLogger(__name__)

DOWNLOAD_LIMIT_S = 600.0

# Part of the key of the JVM's cache: it is only good for the flags it was made with.
JVM_FLAGS = (
    "-Xms64m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
    "-Djava.io.tmpdir=tmp",  # in the broker's folder: compression libraries are unpacked there
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)

# Paths are relative to the broker's folder: no name of a folder above can break the file.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(4 << 20),
    "replica.fetch.max.bytes": str(4 << 20),
    # One node: everything once, and few partitions, so that the first group is quick.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "2",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.dedupe.buffer.size": str(4 << 20),  # 128 MB of heap otherwise
    # A killed broker comes back once its dead self's session is over: 9 s by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "300",
}


@dataclass(frozen=True)
class Kafka:
    """`train` names a file: the JVM writes its cache there when it is stopped."""

    train: Path | None = None

    name = "kafka"
    ports = ("kafka", "controller")
    stop_signal = signal.SIGTERM
    abort_signal = signal.SIGKILL

    def start(self, host: Host) -> Steps:
        """See `Server`. The first one ever downloads 45 MB."""
        port = host.state.ports["kafka"]
        if not host.is_running(self.name):
            home = host.folder.data(self.name)
            for folder in (home, home / "tmp"):
                folder.mkdir(mode=0o700, exist_ok=True)
            yield from host.await_alone(home)
            for left in (home / "tmp").iterdir():  # of a broker that was killed
                left.unlink()
            java = wheels.java()
            yield from _fetch(host)
            class_path = [jars.jar_folder() / jar.file_name for jar in jars.pinned()]
            if not (home / "data").exists():
                yield from _format(host, home, java, class_path)
            (home / "server.properties").write_text(properties(host.state.ports, "data"), encoding="ascii")
            cache = _cache_flags(java, class_path, self.train)
            host.serve(self, java_command(java, cache, class_path, "kafka.Kafka", "server.properties"), cwd=home)
        yield from host.await_ready(self, _answers(port))


def _answers(port: int) -> Iterator[bool]:
    while True:
        yield broker_count(port) > 0


def properties(ports: Mapping[str, int], log_dir: str) -> str:
    """The text of server.properties."""
    listeners = f"PLAINTEXT://{HOST}:{ports['kafka']},CONTROLLER://{HOST}:{ports['controller']}"
    settings = {
        **SETTINGS,
        "listeners": listeners,
        "advertised.listeners": f"PLAINTEXT://{HOST}:{ports['kafka']}",
        # Static voters: with dynamic ones the controller's port would be stored in the data.
        "controller.quorum.voters": f"1@{HOST}:{ports['controller']}",
        "log.dirs": log_dir,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def java_command(java: Path, cache: Sequence[str], class_path: Sequence[Path], *main: str) -> list[str]:
    """The class path is a list in a fixed order: the JVM's cache holds only for exactly that."""
    return [str(java), *JVM_FLAGS, *cache, "-cp", os.pathsep.join(map(str, class_path)), *main]


def _fetch(host: Host) -> Steps:
    folder = jars.jar_folder()
    lacking = jars.missing(folder)
    if lacking:
        what = "1 file" if len(lacking) == 1 else f"{len(lacking)} files"
        LOG.info("downloading Kafka %s, only this once: %s, at most 45 MB", jars.KAFKA_VERSION, what)
        program = f"import sys; from {jars.__name__} import main; sys.exit(main())"
        command = [sys.executable, "-P", "-c", program, str(folder)]
        yield from host.run("kafka", command, cwd=host.folder.home, env=dict(os.environ), limit_s=DOWNLOAD_LIMIT_S)


def _template() -> Path:
    return jars.jar_folder() / "format.checked"


DIGEST_BYTES = hashlib.sha256().digest_size
METADATA = Path("__cluster_metadata-0", "00000000000000000000-0000000000.checkpoint")


def _format(host: Host, home: Path, java: Path, class_path: Sequence[Path]) -> Steps:
    """Makes the data folder as a whole or not at all.

    Formatting costs a JVM's start, and its result has nothing of this folder in it but the two ids in
    meta.properties: so it is done once for each version and copied.
    """
    draft = home / "data.new"
    shutil.rmtree(draft, ignore_errors=True)
    template = _template()
    checkpoint = _kept(template)
    if checkpoint is not None:
        (draft / METADATA).parent.mkdir(parents=True)
        (draft / METADATA).write_bytes(checkpoint)
        (draft / "meta.properties").write_text(meta_properties(host.state.cluster_id), encoding="ascii")
    else:
        (home / "format.properties").write_text(properties(host.state.ports, draft.name), encoding="ascii")
        tool = ("kafka.tools.StorageTool", "format", "-t", host.state.cluster_id, "-c", "format.properties")
        yield from host.run("kafka", java_command(java, (), class_path, *tool), cwd=home)
        _keep_template(draft / METADATA, template)
    draft.rename(home / "data")


def _kept(template: Path) -> bytes | None:
    """What `_keep_template` has kept; None where there is nothing, or something else: a crash of the machine."""
    try:
        content = template.read_bytes()
    except FileNotFoundError:
        return None
    digest, checkpoint = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return checkpoint if hashlib.sha256(checkpoint).digest() == digest else None


def _keep_template(made: Path, template: Path) -> None:
    draft = template.with_name(f"{template.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a cache that others own: the next folder is formatted again
        checkpoint = made.read_bytes()
        draft.write_bytes(hashlib.sha256(checkpoint).digest() + checkpoint)
        draft.replace(template)


def meta_properties(cluster_id: str) -> str:
    """What StorageTool writes there, with a directory id made up now."""
    directory_id = urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
    return f"version=1\ncluster.id={cluster_id}\nnode.id=1\ndirectory.id={directory_id}\n"


def cache_file(java: Path, class_path: Sequence[Path]) -> Path:
    """The JVM's cache for exactly these flags, jars and paths; it need not exist."""
    key = "\n".join(map(str, (java.resolve(), *JVM_FLAGS, *class_path)))
    release = java.parent.parent / "release"
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape") + release.read_bytes()).hexdigest()[:16]
    return jars.jar_folder() / f"jvm-{digest}.aot"


def _cache_flags(java: Path, class_path: Sequence[Path], train: Path | None) -> list[str]:
    if train is not None:
        return [f"-XX:AOTCacheOutput={train}"]
    cache = cache_file(java, class_path)
    return [f"-XX:AOTCache={cache}"] if cache.exists() else []


def installed_cache_file() -> Path:
    """Where the cache of the installed JRE and the pinned jars belongs. Raises StackError without the wheel."""
    return cache_file(wheels.java(), [jars.jar_folder() / jar.file_name for jar in jars.pinned()])


METADATA_REQUEST = struct.pack(">hhih5si", 3, 1, 1, 5, b"stack", 0)  # Metadata v1 of no topics
HEADER = struct.Struct(">iii")  # size, correlation id, count of brokers


def broker_count(port: int) -> int:
    """How many brokers this one knows to be alive; 0 where it does not answer. Blocks up to 1 s."""
    with contextlib.suppress(OSError, EOFError), socket.create_connection((HOST, port), timeout=1.0) as link:
        link.sendall(struct.pack(">i", len(METADATA_REQUEST)) + METADATA_REQUEST)
        answer = b""
        while len(answer) < HEADER.size:
            piece = link.recv(HEADER.size - len(answer))
            if not piece:
                raise EOFError
            answer += piece
        count: int = HEADER.unpack(answer)[2]
        return count
    return 0
