"""What must not be left: processes that no run file names, descriptors, sockets, files, lines that tell of defects."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemons.kit.procs.identity import ProcessIdentity
from tests.chaos.audit import Finding
from tests.chaos.plan import NODES
from tests.chaos.scene import Scene
from tests.support.harness_leftovers import lost_tasks, processes_of, read_worker_runs

Descriptors = Counter[str]
"""Kind of descriptor (file, socket, pipe, pidfd, …) -> how many."""

SLACK: Final = 2
"""Descriptors of one kind, but for sockets, that may be more than after the warm-up."""

PER_WORKER: Final = 2
"""What a hive holds of a kind for each worker, such as a pidfd; the warm-up had one worker on each node."""

MOST_TO_ONE_PEER: Final = 20
"""Connections that a client keeps to one daemon for their next use (httpx)."""

SETTLED_WITHIN_S: Final = 10.0
"""A connection whose other end is gone is closed within this."""

LOG_BYTES_PER_REQUEST: Final = 4096
LOG_BYTES_PER_SECOND: Final = 4096

_LISTEN, _CLOSE_WAIT = "0A", "08"
_KNOWN: Final = re.compile(
    r"(queen|hive)\.duckdb(\.corrupt-[0-9T.]+)?(\.wal)?|backups/.*|logs/.*|keys/(admin|infer|hive)\.key|partial/.*|models(/.*)?"
    r"|run/(queen|hive)\.(json|lock)|run/workers/w-[0-9a-f]+\.json"
)
"""Files that may lie in a state folder; of run files only those of processes that run."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that runs, by its run file."""

    name: str
    node: str
    identity: ProcessIdentity

    def __str__(self) -> str:
        return f"{self.name} of {self.node} (pid {self.identity.pid})"


def daemons_of(scene: Scene) -> list[Daemon]:
    """Queen, hives and workers that run files name."""
    found = [(name, node, scene.run_of(name, node)) for node in NODES for name in ("queen", "hive")]
    workers = [(id, node, run) for node in NODES for id, run in scene.worker_runs(node).items()]
    return [Daemon(name, node, run.identity) for name, node, run in found + workers if run is not None]


def descriptors(pid: int) -> Descriptors:
    """Open descriptors of a process by kind; what is deleted counts as such."""
    return Counter(_kind(target) for target in _targets(pid).values())


def _targets(pid: int) -> Mapping[int, str]:
    found: dict[int, str] = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(link.name)] = os.readlink(link)
        except OSError:
            continue  # closed meanwhile
    return found


def _kind(target: str) -> str:
    if target.endswith(" (deleted)"):
        return "deleted file"
    return target.partition(":")[0] if ":[" in target or target.startswith("anon_inode:") else "file"


def leaks(scene: Scene, before: Mapping[str, Descriptors], requests: int, seconds: float) -> Iterator[Finding]:
    """Everything that is left and should not be. `before`: descriptors of ``queen`` and ``hive`` after the warm-up."""
    running = daemons_of(scene)
    yield from _processes(scene, running)
    yield from _descriptors(running, before)
    yield from _settled(lambda: list(_sockets(running)))
    yield from _files(scene)
    yield from _logs(scene, requests, seconds)


def _settled(look: Callable[[], list[Finding]]) -> list[Finding]:
    """What is found still when there was time to settle."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _processes(scene: Scene, running: list[Daemon]) -> Iterator[Finding]:
    named = {daemon.identity for daemon in running}
    # A worker whose run file was lost is still its hive's.
    pids = scene.worker_pids()
    for identity, command in processes_of(scene.topology.root).items():
        if identity not in named and identity.pid not in pids:
            yield Finding("a process is left that no run file names", f"pid {identity.pid}: {command}")


def _descriptors(running: list[Daemon], before: Mapping[str, Descriptors]) -> Iterator[Finding]:
    workers = Counter(daemon.node for daemon in running if daemon.name not in before)
    for daemon in running:
        if daemon.name not in before:
            continue
        extra = sum(workers.values()) - len(NODES) if daemon.name == "queen" else workers[daemon.node] - 1
        allowed = SLACK + PER_WORKER * max(0, extra)
        now = descriptors(daemon.identity.pid)
        for kind, count in (now - before[daemon.name]).items():
            if kind != "socket" and (count > allowed or kind == "deleted file"):
                names = sorted(target for target in _targets(daemon.identity.pid).values() if _kind(target) == kind)
                yield Finding(
                    "descriptors are left open",
                    f"{daemon} has {now[kind]} of kind {kind}, {before[daemon.name][kind]} after the warm-up: {names}",
                )


def _sockets(running: list[Daemon]) -> Iterator[Finding]:
    sockets = _tcp_sockets()
    for daemon in running:
        mine = [sockets[target] for target in _targets(daemon.identity.pid).values() if target in sockets]
        listening = [socket for socket in mine if socket.state == _LISTEN]
        if len(listening) != 1:
            yield Finding("a daemon listens at one address", f"{daemon} holds the listening sockets {listening}")
        half_closed = [socket.remote_port for socket in mine if socket.state == _CLOSE_WAIT]
        if half_closed:
            yield Finding("connections are left half closed", f"{daemon}: CLOSE_WAIT with ports {half_closed}")
        for port, count in Counter(socket.remote_port for socket in mine).items():
            if count > MOST_TO_ONE_PEER:
                yield Finding("connections are left open", f"{daemon} has {count} with port {port}")


@dataclass(frozen=True, slots=True)
class _Socket:
    """A TCP socket; `state` as proc(5) writes it for /proc/net/tcp."""

    state: str
    local_port: int
    remote_port: int


def _tcp_sockets() -> Mapping[str, _Socket]:
    """``socket:[inode]`` -> the TCP sockets of this machine."""
    found: dict[str, _Socket] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            local, remote = (int(address.rpartition(":")[2], 16) for address in fields[1:3])
            found[f"socket:[{fields[9]}]"] = _Socket(fields[3], local, remote)
    return found


def _files(scene: Scene) -> Iterator[Finding]:
    for node in NODES:
        home = scene.home(node)
        for path in sorted(home.rglob("*")):
            name = str(path.relative_to(home))
            if path.is_file() and not _KNOWN.fullmatch(name):
                yield Finding("a file is left", f"{path}, {path.stat().st_size} bytes")
        dead = set(read_worker_runs(home)) - set(scene.worker_runs(node))
        yield from (Finding("a run file is left of a worker that is gone", f"{id} on {node}") for id in sorted(dead))


def _logs(scene: Scene, requests: int, seconds: float) -> Iterator[Finding]:
    yield from (Finding("asyncio lost a task or a failure", line) for line in lost_tasks(scene.topology.root))
    total = 0
    for node in NODES:
        for path in sorted((scene.home(node) / "logs").glob("*")):
            total += path.stat().st_size
            yield from (Finding("a log tells of a defect", f"{path}: {told}") for told in _traces(path))
    allowed = LOG_BYTES_PER_REQUEST * requests + LOG_BYTES_PER_SECOND * seconds
    if total > allowed:
        yield Finding("logs grow without measure", f"{total} bytes for {requests} requests in {seconds:.0f} s")


def _traces(path: Path) -> Iterator[str]:
    """Lines with a trace of Python, each kind once with how often it came."""
    seen: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if "Traceback (most recent call last)" in line:
            seen.setdefault(_gist(line), []).append(line)
    for gist, lines in seen.items():
        yield f"{gist}, {len(lines)} times; the first: {lines[0][:3000]}"


def _gist(line: str) -> str:
    try:
        row = json.loads(line)
        return f"{row.get('text')} [{str(row.get('exception', '')).strip().splitlines()[-1]}]"
    except (ValueError, IndexError, AttributeError):
        return "a trace outside the log"
