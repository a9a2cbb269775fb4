"""A whole worker inside a test: its engine on the given backend, HTTP on a free port of the loopback interface."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from daemons.contracts import routes
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType
from daemons.contracts.workers import WorkerSettings, WorkerState, WorkerStats
from daemons.kit.client import DaemonClient, Event, Peer
from daemons.kit.policy import Policy
from daemons.kit.procs import bind_listening
from daemons.kit.server import url_of
from daemons.worker.engine.backend import Backend
from daemons.worker.serve import run_worker

KEY = "worker-key-for-tests-0123456789"
WAIT_S = 20.0


def settings_for(**changes: Any) -> WorkerSettings:
    values = {
        "worker_id": "w-0a1b2c3d", "key": KEY, "model_ref": "demo", "model_path": "unused", "slots": 4, "batch": 64,
        "log_path": "unused", "drain_s": 5.0,
    }  # fmt: skip
    return WorkerSettings.model_validate({**values, **changes})


@dataclass
class WorkerUnderTest:
    """A running worker and a client with its key. `serving` ends when the worker does."""

    url: str
    client: DaemonClient
    serving: "asyncio.Task[None]"

    async def stats(self) -> WorkerStats:
        return await self.client.get(routes.WORKER_STATS, WorkerStats)

    async def until(self, state: WorkerState) -> WorkerStats:
        """Wait for a state; it is reached by events inside the worker, which HTTP can only be asked for."""
        async with asyncio.timeout(WAIT_S):
            while (stats := await self.stats()).state is not state:  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.005)
        return stats

    async def events(self, **body: Any) -> list[Event]:
        """All events of one generation."""
        async with self.client.stream(routes.WORKER_INFER, body={"id": "r-1", "prompt": "hello", **body}) as events:
            return [event async for event in events]

    async def text(self, **body: Any) -> str:
        return "".join(e.data["token"] for e in await self.events(**body) if e.type == EventType.TOKEN)

    async def refusal(self, **body: Any) -> RbeeError:
        """The error that answers a generation request before any event."""
        try:
            await self.events(**body)
        except RbeeError as error:
            return error
        raise AssertionError("the request was not refused")


@asynccontextmanager
async def running_worker(
    backend: Backend, *, loaded: bool = True, key: str = KEY, **settings: Any
) -> AsyncIterator[WorkerUnderTest]:
    """Start a worker, wait for its model unless told otherwise, and end it afterwards."""
    sock = bind_listening("127.0.0.1", 0)
    url = url_of(sock)
    serving = asyncio.create_task(run_worker(settings_for(**settings), backend, sock))
    async with DaemonClient(Peer(url, key, "the worker", Code.WORKER_CRASHED), Policy()) as client:
        worker = WorkerUnderTest(url, client, serving)
        if loaded:
            await worker.until(WorkerState.IDLE)
        try:
            yield worker
        finally:
            if not serving.done():
                await end(url)
            await asyncio.wait_for(asyncio.wait([serving]), WAIT_S)
            if not serving.cancelled():
                serving.exception()  # looked at, whatever it was


async def end(url: str) -> None:
    """Ask a worker to end without waiting for its requests."""
    async with DaemonClient(Peer(url, KEY, "the worker", Code.WORKER_CRASHED), Policy()) as client:
        await client.call(routes.WORKER_END, body={"drain_s": 0})
