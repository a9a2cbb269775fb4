"""Answers that stream a task's events, and know when nobody reads them any more."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.sse import SseResponse
from daemons.queen.service import QueenService
from daemons.queen.task_events import TaskReader
from daemons.queen.tasks import TaskRecord

ResultT = TypeVar("ResultT")


class TaskReading:
    """One connection that reads a task. When it is over, the service learns that a reader left."""

    def __init__(self, service: QueenService, record: TaskRecord, after: int = 0) -> None:
        self.record = record
        self.reader: TaskReader = record.events.read(after)
        self._service = service

    def end(self) -> None:
        """The connection is closed, or read to its end."""
        self.reader.close()
        self._service.reader_left(self.record)

    def response(self, chunks: AsyncIterator[bytes], headers: Mapping[str, str] | None = None) -> "TaskStream":
        """An answer that ends this reading when it ends."""
        return TaskStream(self, SseResponse(chunks, ping_s=self._service.policy.ping_s, headers=headers))

    async def unless_gone(self, request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Do `work` while the client is there. Raises RbeeError(CANCELLED) when it closes the connection."""
        working = asyncio.create_task(work)
        leaving = asyncio.create_task(_until_gone(request))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise RbeeError(Code.CANCELLED, "the client closed the connection")
            return working.result()
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)


class TaskStream:
    """ASGI answer around an event stream."""

    def __init__(self, reading: TaskReading, response: SseResponse) -> None:
        self._reading = reading
        self._response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._reading.end()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
