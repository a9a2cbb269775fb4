"""Log lines of the queen and of all hives and workers, merged by time; followed as they are written."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType
from daemons.contracts.fleet import LogLine, LogLines, LogQuery
from daemons.contracts.ids import LOCAL_NODE
from daemons.contracts.routes import HIVE_LOGS
from daemons.kit.log_files import LogFiles, files_of, sources
from daemons.kit.logs import get_logger
from daemons.kit.sse import encode_event
from daemons.queen.nodes import NodeWatcher

SOURCE = "queen"
LOOK_EACH_S = 0.25
_ANSWER_S = 10.0
_SILENCE_S = 60.0
"""A hive that follows sends pings; after this long without a byte its stream is opened anew."""

_ASK_AGAIN_S = 60.0
"""How much of what was told a source is asked for again when it is back: clocks differ, lines overtake each other."""

_MOST_WAITING = 1000
"""Lines that wait for a slow reader; then the sources wait, too."""

_MOST_TOLD = 1000


class QueenLogs:
    """Reads `queen.log` itself and asks the hives for the rest. `closing` ends what is followed.

    The logs of this machine's hive and workers lie beside `queen.log`, and are read there while that hive is away.
    """

    def __init__(self, path: Path, watchers: Mapping[str, NodeWatcher], closing: asyncio.Event) -> None:
        self._folder = path.parent
        self._watchers = watchers
        self._closing = closing
        self._own = LogFiles(lambda: [path], LOCAL_NODE)

    async def read(self, query: LogQuery) -> LogLines:
        """The lines there are, oldest first.

        Raises RbeeError: NODE_NOT_FOUND, WORKER_NOT_FOUND, HIVE_UNREACHABLE for a node that is named and not there.
        """
        names = [name for name in self._nodes(query) if query.node or name == LOCAL_NODE or self._connected(name)]
        parts = await asyncio.gather(*(self._of_node(name, query) for name in names), return_exceptions=True)
        lines = [line for part in parts if not isinstance(part, BaseException) for line in part]
        failures = [part for part in parts if isinstance(part, BaseException)]
        if failures and (query.node is not None or (query.worker is not None and len(failures) == len(parts))):
            raise failures[0]
        if not names and query.worker is not None:
            raise _no_log_of(query.worker)
        if _has_own(query):
            lines += await asyncio.to_thread(self._own.read, since=_begin_of(query), tail=query.tail)
        lines.sort(key=lambda line: line.at)
        return LogLines(lines=lines[-query.tail :] if query.tail else lines)

    async def follow(self, query: LogQuery) -> AsyncIterator[bytes]:
        """``snapshot`` of the lines there are, then a ``log`` event for each further one. Raises as `read`.

        Nodes that connect meanwhile join, and those that were lost join again without telling a line twice.
        """
        begin = _begin_of(query)
        return self._events(query, begin, await self.read(query))

    async def _events(self, query: LogQuery, begin: float, first: LogLines) -> AsyncIterator[bytes]:
        following = _Following(query, begin, first.lines)
        tasks = [asyncio.create_task(self._follow_node(name, following)) for name in self._nodes(query)]
        if _has_own(query):
            tasks.append(asyncio.create_task(self._follow_own(following)))
        ending = asyncio.create_task(self._closing.wait())
        try:
            yield encode_event(EventType.SNAPSHOT.value, first)
            while (line := await following.next_line(ending)) is not None:
                yield encode_event(EventType.LOG.value, line)
        finally:
            for task in (*tasks, ending):
                task.cancel()
            await asyncio.gather(*tasks, ending, return_exceptions=True)

    def _nodes(self, query: LogQuery) -> list[str]:
        """Nodes that are asked for, connected or not."""
        if query.node is None:
            return list(self._watchers)
        if query.node not in self._watchers:
            raise RbeeError(
                Code.NODE_NOT_FOUND, f"no node is called {query.node}", details={"known": list(self._watchers)}
            )
        return [query.node]

    def _connected(self, name: str) -> bool:
        return self._watchers[name].connected

    async def _of_node(self, name: str, query: LogQuery) -> list[LogLine]:
        try:
            return await self._of_hive(name, query)
        except RbeeError as error:
            if name != LOCAL_NODE or error.code is Code.WORKER_NOT_FOUND:
                raise
        return await asyncio.to_thread(self._of_files, query)

    async def _of_hive(self, name: str, query: LogQuery) -> list[LogLine]:
        asked = _of_one_node(query, follow=False)
        async with self._watchers[name].client.stream(HIVE_LOGS, query=asked, silence_s=_ANSWER_S) as events:
            async for event in events:
                return [_at_node(line, name) for line in LogLines.model_validate_json(event.raw).lines]
        return []

    def _of_files(self, query: LogQuery) -> list[LogLine]:
        if query.worker is not None and not files_of(self._folder, query.worker):
            raise _no_log_of(query.worker)
        return self._local_files(query).read(since=_begin_of(query), tail=query.tail)

    def _local_files(self, query: LogQuery) -> LogFiles:
        return LogFiles(lambda: sources(self._folder, query.worker), LOCAL_NODE)

    async def _follow_node(self, name: str, following: "_Following") -> None:
        """From its hive while there is one; this machine's node from its files while there is none."""
        source = following.source(name)

        async def follow() -> None:
            if name == LOCAL_NODE and not self._connected(name):
                files = self._local_files(following.query)
                await self._follow_files(files, source, lambda: not self._connected(name))
            else:
                await self._follow_hive(name, source)

        await _again_and_again(follow, f"the log of node {name}")

    async def _follow_own(self, following: "_Following") -> None:
        source = following.source(None)
        await _again_and_again(lambda: self._follow_files(self._own, source, lambda: True), "the queen's log")

    async def _follow_hive(self, name: str, source: "_Source") -> None:
        """One connection to a hive. Its snapshot has what was written since we read, or since the last connection."""
        asked = _of_one_node(source.asked(), follow=True)
        stream = self._watchers[name].client.stream(HIVE_LOGS, query=asked, silence_s=_SILENCE_S, tries=1)
        async with stream as events:
            async for event in events:
                if event.type == EventType.SNAPSHOT:
                    for line in LogLines.model_validate_json(event.raw).lines:
                        await source.heard(_at_node(line, name), again=True)
                elif event.type == EventType.LOG:
                    await source.heard(_at_node(LogLine.model_validate_json(event.raw), name), again=False)

    async def _follow_files(self, files: LogFiles, source: "_Source", wanted: Callable[[], bool]) -> None:
        asked, again = source.asked(), True
        since = _begin_of(asked)
        async with aclosing(files.follow(self._closing, since=since, tail=asked.tail)) as looks:
            async for lines in looks:
                for line in lines:
                    await source.heard(line, again=again)
                if not wanted():
                    return
                again = False


async def _again_and_again(follow: Callable[[], Awaitable[None]], what: str) -> None:
    """Follow a source; one that goes away or fails is followed again."""
    problem = ""
    while True:
        try:
            await follow()
        except RbeeError:
            pass  # its hive is away; the node's watcher says so
        except Exception as error:
            if problem != str(error):  # once: our own log may be what is being followed
                problem = str(error)
                get_logger().error(f"following {what} failed", exc_info=error)
        await asyncio.sleep(LOOK_EACH_S)


def _has_own(query: LogQuery) -> bool:
    return query.worker is None and query.node is None


def _begin_of(query: LogQuery) -> float:
    """Unix seconds before which no line is wanted."""
    return 0.0 if query.since_s is None else time.time() - query.since_s


def _of_one_node(query: LogQuery, *, follow: bool) -> LogQuery:
    """What its hive is asked."""
    return query.model_copy(update={"node": None, "follow": follow})


def _at_node(line: LogLine, name: str) -> LogLine:
    return line.model_copy(update={"node": name})


def _no_log_of(worker: str) -> RbeeError:
    return RbeeError(Code.WORKER_NOT_FOUND, f"there is no log of worker {worker!a}", details={"worker": worker})


@dataclass(frozen=True, slots=True)
class _Heard:
    """A line of a source. `again`: it is from a list that may go further back than what was told."""

    source: "_Source"
    line: LogLine
    again: bool


class _Following:
    """One reader that follows: what it asked for, what it was told at first, and what waits for it."""

    def __init__(self, query: LogQuery, begin: float, first: list[LogLine]) -> None:
        self.query = query
        self._begin = begin
        self._first = first
        # What the tail left out is not told by a source that joins later either.
        self._floor = min((line.at for line in first), default=0.0) if query.tail and len(first) >= query.tail else 0.0
        self._waiting: asyncio.Queue[_Heard] = asyncio.Queue(_MOST_WAITING)

    def source(self, node: str | None) -> "_Source":
        """The hive of a node, or (None) the queen itself."""
        told = [line for line in self._first if (None if line.source == SOURCE else line.node) == node]
        return _Source(self.query, self._begin, _Told(told, self._floor), self._waiting)

    async def next_line(self, ending: "asyncio.Task[bool]") -> LogLine | None:
        """The next line to tell; None once `ending` is done."""
        while not ending.done():
            getting = asyncio.create_task(self._waiting.get())
            try:
                await asyncio.wait({getting, ending}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                getting.cancel()
            if getting.done() and not getting.cancelled():
                heard = getting.result()
                if heard.source.told.is_new(heard.line, again=heard.again):
                    return heard.line
        return None


class _Source:
    """Where lines come from: which of them were told, and how far back to ask when it is followed (again)."""

    def __init__(self, query: LogQuery, begin: float, told: "_Told", waiting: "asyncio.Queue[_Heard]") -> None:
        self.told = told
        self._query = query
        self._begin = begin
        self._waiting = waiting

    def asked(self) -> LogQuery:
        """What to ask: as the reader did, or what came since its last line, with some of what was told before."""
        newest = self.told.newest
        begin = max(self._begin, newest - _ASK_AGAIN_S) if newest else self._begin
        since_s = max(0.0, time.time() - begin) if begin else None
        return self._query.model_copy(update={"since_s": since_s, "tail": 0 if newest else self._query.tail})

    async def heard(self, line: LogLine, *, again: bool) -> None:
        await self._waiting.put(_Heard(self, line, again))


class _Told:
    """The last lines of one source that a reader was told; `floor`: lines of before (unix seconds) are not wanted."""

    def __init__(self, lines: list[LogLine], floor: float) -> None:
        kept = lines[-_MOST_TOLD:]
        self._last = {line.model_dump_json(): line.at for line in kept}
        self._floor = max(floor, kept[0].at) if len(lines) > len(kept) else floor
        self.newest = max(self._last.values(), default=0.0)

    def is_new(self, line: LogLine, *, again: bool) -> bool:
        """Whether to tell the line, which counts as told from then on."""
        if again and line.at < self._floor:
            return False
        key = line.model_dump_json()
        if again and key in self._last:
            return False
        self._remember(key, line.at)
        return True

    def _remember(self, key: str, at: float) -> None:
        self._last[key] = at
        self.newest = max(self.newest, at)
        if len(self._last) > _MOST_TOLD:
            self._floor = max(self._floor, self._last.pop(next(iter(self._last))))
