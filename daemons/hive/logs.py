"""Log lines of the hive and its workers, for `/v1/logs`: what is there, then what is appended."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType
from daemons.contracts.fleet import LogLine, LogLines, LogQuery
from daemons.contracts.ids import RUN_ID
from daemons.hive.clock import SteadyClock
from daemons.hive.worker_logs import files_of, worker_of
from daemons.kit.logs import parse_log_line, read_log
from daemons.kit.paths import Paths
from daemons.kit.sse import encode_event

LOOK_EACH_S = 0.25
LONGEST_LINE = 64 * 1024
"""Bytes after which a line that does not end is told in pieces."""

_MOST_AT_ONCE = 2**20


class LogReader:
    """Reads log files of one node; streams that follow them end when `ending` is set."""

    def __init__(self, paths: Paths, node: str, clock: SteadyClock, ending: asyncio.Event) -> None:
        self._paths = paths
        self._node = node
        self._clock = clock
        self._ending = ending

    async def events(self, query: LogQuery) -> AsyncIterator[bytes]:
        """One ``snapshot`` of the lines that are there; with `follow` a ``log`` event for each further one.

        Raises RbeeError(WORKER_NOT_FOUND) when a worker is named that has no log.
        """
        if query.worker is not None and not await asyncio.to_thread(self._has_logs, query.worker):
            raise RbeeError(
                Code.WORKER_NOT_FOUND, f"there is no log of worker {query.worker!r}", details={"worker": query.worker}
            )
        return self._stream(query)

    def _has_logs(self, worker_id: str) -> bool:
        return bool(RUN_ID.fullmatch(worker_id) and files_of(self._paths.logs, worker_id))

    async def _stream(self, query: LogQuery) -> AsyncIterator[bytes]:
        follower = Follower(self._paths.logs, self._node, query.worker)
        try:
            if query.follow:
                await asyncio.to_thread(follower.skip_to_end)
            lines = await asyncio.to_thread(self._read, query)
            yield encode_event(EventType.SNAPSHOT.value, LogLines(lines=lines))
            told = lines  # what was appended while the snapshot was read is in both
            while query.follow and not self._ending.is_set():
                for line in await asyncio.to_thread(follower.appended):
                    if line not in told:
                        yield encode_event(EventType.LOG.value, line)
                told = []
                await self._pause()
        finally:
            follower.close()

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._ending.wait(), LOOK_EACH_S)
        except TimeoutError:
            pass  # the usual case: nothing ended

    def _read(self, query: LogQuery) -> list[LogLine]:
        since = 0.0 if query.since_s is None else self._clock.now() - query.since_s
        lines: list[LogLine] = []
        for path in sources(self._paths.logs, query.worker):
            try:
                if path.stat().st_mtime >= since:
                    lines += read_log(path, self._node, source_of(path), since=since, tail=query.tail)
            except FileNotFoundError:
                pass  # logs of ended workers are removed while we read
        lines.sort(key=lambda line: line.at)  # stable: lines without a time come first, in their own order
        return lines[-query.tail :] if query.tail else lines


def sources(logs: Path, worker: str | None) -> list[Path]:
    """Log files that are written now: of one worker (what it printed too), or of the hive and all workers."""
    if worker is not None:
        named = [logs / f"{worker}.out", logs / f"{worker}.log"]
    else:
        named = [logs / "hive.log", *sorted(path for path in logs.glob("w-*.log") if worker_of(path))]
    return [path for path in named if path.is_file()]


def source_of(path: Path) -> str:
    """``hive`` or the worker's id."""
    return path.name.partition(".")[0]


class _Tail:
    """One file that is read on as it grows. After a rotation the rest of the old file is read first."""

    def __init__(self, path: Path, *, at_end: bool) -> None:
        self.path = path
        self._file: BinaryIO = path.open("rb")
        self._rest = b""
        if at_end:
            self._file.seek(0, 2)

    def lines(self) -> list[str]:
        """Whole lines that came since the last call."""
        found: list[str] = []
        while block := self._file.read(_MOST_AT_ONCE):
            *whole, self._rest = (self._rest + block).split(b"\n")
            found += [line.decode(errors="replace") for line in whole]
            if len(self._rest) > LONGEST_LINE:
                found.append(self._rest.decode(errors="replace"))
                self._rest = b""
        return found

    def was_replaced(self) -> bool:
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return True
        mine = os.fstat(self._file.fileno())
        return (there.st_ino, there.st_dev) != (mine.st_ino, mine.st_dev)

    def close(self) -> None:
        self._file.close()


class Follower:
    """Follows the log files of one source or of all; files that appear later are read from their beginning."""

    def __init__(self, logs: Path, node: str, worker: str | None) -> None:
        self._logs = logs
        self._node = node
        self._worker = worker
        self._tails: dict[Path, _Tail] = {}

    def skip_to_end(self) -> None:
        """Tell only what is appended from now on."""
        for path in sources(self._logs, self._worker):
            self._open(path, at_end=True)

    def appended(self) -> list[LogLine]:
        """Lines that came since the last call, by source."""
        found: list[LogLine] = []
        for path, tail in list(self._tails.items()):
            found += self._parsed(tail)
            if tail.was_replaced():
                found += self._parsed(tail)  # what was written between the last read and the rotation
                tail.close()
                del self._tails[path]
        for path in sources(self._logs, self._worker):
            if path not in self._tails and self._open(path, at_end=False):
                found += self._parsed(self._tails[path])
        return found

    def _open(self, path: Path, *, at_end: bool) -> bool:
        try:
            self._tails[path] = _Tail(path, at_end=at_end)
        except FileNotFoundError:
            return False  # removed since it was listed
        return True

    def _parsed(self, tail: _Tail) -> list[LogLine]:
        source = source_of(tail.path)
        return [parse_log_line(line, self._node, source) for line in tail.lines() if line.strip()]

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()
