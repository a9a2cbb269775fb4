"""Log lines of the queen and of all hives and workers, merged by time; followed as they are written."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import BinaryIO

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType
from daemons.contracts.fleet import LogLine, LogLines, LogQuery
from daemons.contracts.ids import LOCAL_NODE
from daemons.contracts.routes import HIVE_LOGS
from daemons.kit.logs import get_logger, parse_log_line, read_log
from daemons.kit.sse import encode_event
from daemons.queen.nodes import NodeWatcher

SOURCE = "queen"
LOOK_EACH_S = 0.25
_ANSWER_S = 10.0
_MOST_WAITING = 1000
"""Lines that wait for a slow reader; then the sources wait, too."""

_MOST_TOLD = 1000
_Waiting = tuple[LogLine, bool]
"""A line, and whether it may have been told before."""


class QueenLogs:
    """Reads `queen.log` itself and asks the hives for the rest. `closing` ends what is followed."""

    def __init__(self, path: Path, watchers: Mapping[str, NodeWatcher], closing: asyncio.Event) -> None:
        self._path = path
        self._watchers = watchers
        self._closing = closing

    async def read(self, query: LogQuery) -> LogLines:
        """The lines there are, oldest first.

        Raises RbeeError: NODE_NOT_FOUND, WORKER_NOT_FOUND, HIVE_UNREACHABLE for a node that is named and not there.
        """
        names = self._nodes(query)
        parts = await asyncio.gather(*(self._of_hive(name, query) for name in names), return_exceptions=True)
        lines = [line for part in parts if not isinstance(part, BaseException) for line in part]
        failures = [part for part in parts if isinstance(part, BaseException)]
        if failures and (query.node is not None or (query.worker is not None and len(failures) == len(parts))):
            raise failures[0]
        if not names and query.worker is not None:
            raise _no_log_of(query.worker)
        if self._own(query):
            lines += await asyncio.to_thread(self._read_own, query)
        lines.sort(key=lambda line: line.at)
        return LogLines(lines=lines[-query.tail :] if query.tail else lines)

    async def follow(self, query: LogQuery) -> AsyncIterator[bytes]:
        """``snapshot`` of the lines there are, then a ``log`` event for each further one. Raises as `read`."""
        tail = await asyncio.to_thread(_FileTail, self._path) if self._own(query) else None
        try:
            first = await self.read(query)
        except BaseException:
            if tail is not None:
                tail.close()
            raise
        return self._events(query, first, tail)

    async def _events(self, query: LogQuery, first: LogLines, tail: "_FileTail | None") -> AsyncIterator[bytes]:
        waiting: asyncio.Queue[_Waiting] = asyncio.Queue(_MOST_WAITING)
        sources: list[asyncio.Task[None]] = [
            asyncio.create_task(self._follow_hive(name, query, waiting)) for name in self._nodes(query)
        ]
        if tail is not None:
            sources.append(asyncio.create_task(self._follow_own(tail, waiting)))
        ending = asyncio.create_task(self._closing.wait())
        # What was written while the first lines were read is in both.
        told = _Told(first.lines)
        try:
            yield encode_event(EventType.SNAPSHOT.value, first)
            while not ending.done():
                getting = asyncio.create_task(waiting.get())
                await asyncio.wait({getting, ending}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    return
                line, again = getting.result()
                if told.is_new(line, again=again):
                    yield encode_event(EventType.LOG.value, line)
        finally:
            for task in (*sources, ending):
                task.cancel()
            await asyncio.gather(*sources, ending, return_exceptions=True)
            if tail is not None:
                tail.close()

    def _own(self, query: LogQuery) -> bool:
        return query.worker is None and query.node is None

    def _nodes(self, query: LogQuery) -> list[str]:
        """Nodes whose hives are asked."""
        if query.node is None:
            return [name for name, watcher in self._watchers.items() if watcher.connected]
        if query.node not in self._watchers:
            raise RbeeError(
                Code.NODE_NOT_FOUND, f"no node is called {query.node}", details={"known": list(self._watchers)}
            )
        return [query.node]

    async def _of_hive(self, name: str, query: LogQuery) -> list[LogLine]:
        client = self._watchers[name].client
        asked = _as_query(query, follow=False)
        async with client.stream(HIVE_LOGS, query=asked, silence_s=_ANSWER_S) as events:
            async for event in events:
                return [_at_node(line, name) for line in LogLines.model_validate_json(event.raw).lines]
        return []

    async def _follow_hive(self, name: str, query: LogQuery, waiting: "asyncio.Queue[_Waiting]") -> None:
        """Follow a hive's logs; one that goes away is followed again when it is back."""
        problem = ""
        while True:
            try:
                await self._read_on(name, query, waiting)
            except RbeeError:
                pass  # its hive is away; the node's watcher says so
            except Exception as error:
                if problem != str(error):  # once: our own log may be what is being followed
                    problem = str(error)
                    get_logger().error("following a hive's log failed", node=name, exc_info=error)
            await asyncio.sleep(LOOK_EACH_S)

    async def _read_on(self, name: str, query: LogQuery, waiting: "asyncio.Queue[_Waiting]") -> None:
        """One connection to a hive. Its snapshot has what was written since we read, or since the last connection."""
        async with self._watchers[name].client.stream(HIVE_LOGS, query=_as_query(query, follow=True)) as events:
            async for event in events:
                if event.type == EventType.SNAPSHOT:
                    for line in LogLines.model_validate_json(event.raw).lines:
                        await waiting.put((_at_node(line, name), True))
                elif event.type == EventType.LOG:
                    await waiting.put((_at_node(LogLine.model_validate_json(event.raw), name), False))

    async def _follow_own(self, tail: "_FileTail", waiting: "asyncio.Queue[_Waiting]") -> None:
        while True:
            for line in await asyncio.to_thread(tail.lines):
                await waiting.put((parse_log_line(line, LOCAL_NODE, SOURCE), False))
            await asyncio.sleep(LOOK_EACH_S)

    def _read_own(self, query: LogQuery) -> list[LogLine]:
        since = 0.0 if query.since_s is None else time.time() - query.since_s
        return read_log(self._path, LOCAL_NODE, SOURCE, since=since, tail=query.tail)


def _as_query(query: LogQuery, *, follow: bool) -> dict[str, object]:
    return {
        "worker": query.worker,
        "since_s": query.since_s,
        "tail": query.tail,
        "follow": "true" if follow else "false",
    }


def _at_node(line: LogLine, name: str) -> LogLine:
    return line.model_copy(update={"node": name})


def _no_log_of(worker: str) -> RbeeError:
    return RbeeError(Code.WORKER_NOT_FOUND, f"there is no log of worker {worker!a}", details={"worker": worker})


class _Told:
    """The last lines that a reader was told."""

    def __init__(self, lines: list[LogLine]) -> None:
        self._last = {line.model_dump_json(): line.at for line in lines[-_MOST_TOLD:]}
        self._since = min(self._last.values(), default=0.0)

    def is_new(self, line: LogLine, *, again: bool) -> bool:
        """Whether to tell the line. `again`: it is from a list that goes further back than what we remember."""
        key = line.model_dump_json()
        if key in self._last or (again and line.at < self._since):
            return False
        self._last[key] = line.at
        if len(self._last) > _MOST_TOLD:
            self._since = max(self._since, self._last.pop(next(iter(self._last))))
        return True


class _FileTail:
    """A log file that is read on as it grows, also over a rotation. Opens at its end; every method blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = b""
        self._file = self._opened()
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def lines(self) -> list[str]:
        """Whole lines that came since the last call."""
        found = self._read()
        if self._was_replaced():
            found += self._read()  # what was written between the last read and the rotation
            self.close()
            self._file = self._opened()
            found += self._read()
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO | None:
        try:
            return self._path.open("rb")
        except FileNotFoundError:
            return None

    def _read(self) -> list[str]:
        if self._file is None:
            return []
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [line.decode(errors="replace") for line in whole if line.strip()]

    def _was_replaced(self) -> bool:
        if self._file is None:
            return True
        mine = os.fstat(self._file.fileno())
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return (there.st_ino, there.st_dev) != (mine.st_ino, mine.st_dev)
