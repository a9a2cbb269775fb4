"""Log files of one machine: which there are, what is in them in order of time, and what is appended to them.

``hive.log`` and ``<worker>.log`` are structured and rotated; ``<worker>.out`` is what a worker printed.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import BinaryIO

from daemons.contracts.fleet import LogLine
from daemons.contracts.ids import RUN_ID
from daemons.kit.logs import get_logger, parse_log_line, read_log

LOOK_EACH_S = 0.25
LONGEST_LINE = 64 * 1024
"""Bytes after which a line that does not end is told in pieces."""

_MOST_AT_ONCE = 2**20
_ROTATED_UNDER_US = 2
"""Times that a file is read anew when it was rotated meanwhile."""

ListFiles = Callable[[], list[Path]]


def worker_of(path: Path) -> str | None:
    """Id of the worker that a file of the log folder belongs to."""
    name, _, rest = path.name.partition(".")
    is_log = rest == "out" or rest == "log" or rest.startswith("log.")
    return name if is_log and name.startswith("w-") and RUN_ID.fullmatch(name) else None


def files_of(logs: Path, worker_id: str) -> list[Path]:
    """All log files of one worker, rotated ones too; none for what is no id."""
    if not RUN_ID.fullmatch(worker_id):
        return []
    return [path for path in logs.glob(f"{worker_id}.*") if worker_of(path) == worker_id]


def sources(logs: Path, worker: str | None) -> list[Path]:
    """Log files that are written now: of one worker (what it printed too), or of the hive and all workers."""
    if worker is None:
        named = [logs / "hive.log", *sorted(path for path in logs.glob("w-*.log") if worker_of(path))]
    elif RUN_ID.fullmatch(worker):
        named = [logs / f"{worker}.out", logs / f"{worker}.log"]
    else:
        named = []
    return [path for path in named if path.is_file()]


def source_of(path: Path) -> str:
    """``queen``, ``hive`` or the worker's id."""
    return path.name.partition(".")[0]


class LogFiles:
    """The log files that `list_files` names at each look; their lines are told to be of `node`.

    A file that cannot be read is left out, which is logged.
    """

    def __init__(self, list_files: ListFiles, node: str) -> None:
        self._list_files = list_files
        self._node = node

    def read(self, *, since: float = 0.0, tail: int = 0) -> list[LogLine]:
        """The lines there are, oldest first, not before `since` (unix seconds); the last `tail` of them (0: all)."""
        lines = [line for path in self._list_files() for line in self._of(path, since, tail)]
        lines.sort(key=lambda line: line.at)  # stable: lines without a time come first, in their own order
        return lines[-tail:] if tail else lines

    def _of(self, path: Path, since: float, tail: int) -> list[LogLine]:
        for _ in range(_ROTATED_UNDER_US):
            try:
                if path.stat().st_mtime < since:
                    return []
                return read_log(path, self._node, source_of(path), since=since, tail=tail)
            except FileNotFoundError:
                continue  # logs are rotated, and those of ended workers removed, while we read
            except OSError as error:
                _cannot_read(path, error)
                return []
        return []

    async def follow(
        self, ending: asyncio.Event, *, since: float = 0.0, tail: int = 0
    ) -> AsyncGenerator[list[LogLine], None]:
        """What `read` has, then at each look the lines that were appended (often none), until `ending` is set."""
        follower = Follower(self._list_files, self._node)
        try:
            await asyncio.to_thread(follower.skip_to_end)
            told = await asyncio.to_thread(self.read, since=since, tail=tail)
            yield told
            while not ending.is_set():
                yield await asyncio.to_thread(follower.appended, told)
                told = []  # only what was appended while `told` was read is in both
                await _pause(ending)
        finally:
            follower.close()


async def _pause(ending: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(LOOK_EACH_S):  # before Python 3.12 `wait_for` may swallow a cancellation
            await ending.wait()
    except TimeoutError:
        pass  # the usual case: nothing ended


def _cannot_read(path: Path, error: OSError) -> None:
    get_logger().warning("a log file cannot be read", path=str(path), reason=error.strerror or str(error))


class _Tail:
    """One file that is read on as it grows. After a rotation the rest of the old file is read first."""

    def __init__(self, path: Path, *, at_end: bool) -> None:
        self.path = path
        self._file: BinaryIO = path.open("rb")
        self._rest = b""
        if at_end:
            self._file.seek(0, os.SEEK_END)

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
    """Follows log files; files that appear later are read from their beginning. Every method blocks."""

    def __init__(self, list_files: ListFiles, node: str) -> None:
        self._list_files = list_files
        self._node = node
        self._tails: dict[Path, _Tail] = {}
        self._unreadable: set[Path] = set()
        # Whoever followed may leave while a thread is in here.
        self._lock = threading.Lock()
        self._closed = False

    def skip_to_end(self) -> None:
        """Tell only what is appended from now on."""
        with self._lock:
            for path in self._list_files():
                self._open(path, at_end=True)

    def appended(self, told: list[LogLine] | None = None) -> list[LogLine]:
        """Lines that came since the last call, by source, but for those in `told`."""
        with self._lock:
            found: list[LogLine] = []
            for path, tail in list(self._tails.items()):
                try:
                    found += self._read_on(path, tail)
                except OSError as error:
                    self._failed(path, error)
            for path in self._list_files():
                if path not in self._tails and self._open(path, at_end=False):
                    found += self._parsed(self._tails[path])
        return [line for line in found if line not in told] if told else found

    def _read_on(self, path: Path, tail: _Tail) -> list[LogLine]:
        found = self._parsed(tail)
        if tail.was_replaced():
            found += self._parsed(tail)  # what was written between the last read and the rotation
            tail.close()
            del self._tails[path]
        return found

    def _open(self, path: Path, *, at_end: bool) -> bool:
        if self._closed:
            return False
        try:
            self._tails[path] = _Tail(path, at_end=at_end)
        except FileNotFoundError:
            return False  # removed since it was listed
        except OSError as error:
            self._failed(path, error)
            return False
        self._unreadable.discard(path)
        return True

    def _failed(self, path: Path, error: OSError) -> None:
        if path not in self._unreadable:  # once: this very message may go to a log that is followed
            self._unreadable.add(path)
            _cannot_read(path, error)

    def _parsed(self, tail: _Tail) -> list[LogLine]:
        source = source_of(tail.path)
        return [parse_log_line(line, self._node, source) for line in tail.lines() if line.strip()]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for tail in self._tails.values():
                tail.close()
            self._tails.clear()
