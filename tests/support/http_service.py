"""Runs an ASGI application on a real socket inside a test, the way daemons run theirs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from daemons.kit.procs import bind_listening
from daemons.kit.server import serve, url_of


class RecordingService:
    """A service that owns nothing and records the order in which the runner calls it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.idle = asyncio.Event()
        self.idle.set()
        self.stop: Callable[[], None] = lambda: None

    async def start(self, stop: Callable[[], None]) -> None:
        self.calls.append("start")
        self.stop = stop

    def begin_drain(self) -> None:
        self.calls.append("begin_drain")

    async def drained(self) -> None:
        await self.idle.wait()
        self.calls.append("drained")

    async def close(self) -> None:
        self.calls.append("close")


@asynccontextmanager
async def running(
    app: ASGIApp, service: RecordingService | None = None, drain_s: float = 1.0, read_s: float = 10.0
) -> AsyncIterator[str]:
    """Serve `app` on a free port of the loopback interface; yields its URL."""
    service = service or RecordingService()
    sock = bind_listening("127.0.0.1", 0)
    serving = asyncio.create_task(serve(service, app, sock, drain_s=drain_s, read_s=read_s))
    try:
        yield url_of(sock)
    finally:
        service.stop()
        await serving
