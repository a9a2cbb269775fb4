"""Log lines of the hive and its workers, for `/v1/logs`: what is there, then what is appended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType
from daemons.contracts.fleet import LogLines, LogQuery
from daemons.hive.clock import SteadyClock
from daemons.kit.log_files import LogFiles, files_of, sources
from daemons.kit.paths import Paths
from daemons.kit.sse import encode_event


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
        if query.worker is not None and not await asyncio.to_thread(files_of, self._paths.logs, query.worker):
            raise RbeeError(
                Code.WORKER_NOT_FOUND, f"there is no log of worker {query.worker!r}", details={"worker": query.worker}
            )
        return self._stream(query)

    async def _stream(self, query: LogQuery) -> AsyncIterator[bytes]:
        files = LogFiles(lambda: sources(self._paths.logs, query.worker), self._node)
        since = 0.0 if query.since_s is None else self._clock.now() - query.since_s
        if not query.follow:
            lines = await asyncio.to_thread(files.read, since=since, tail=query.tail)
            yield encode_event(EventType.SNAPSHOT.value, LogLines(lines=lines))
            return
        async with aclosing(files.follow(self._ending, since=since, tail=query.tail)) as parts:
            yield encode_event(EventType.SNAPSHOT.value, LogLines(lines=await anext(parts)))
            async for lines in parts:
                for line in lines:
                    yield encode_event(EventType.LOG.value, line)
