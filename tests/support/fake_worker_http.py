"""The serving half of the fake worker: see `tests.support.fake_worker`."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request

from daemons import __version__
from daemons.contracts import routes
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import Accepted, DrainRequest, Health
from daemons.contracts.routes import Daemon, Role
from daemons.contracts.workers import Ready, ReadyCallback, WorkerSettings, WorkerState, WorkerStats
from daemons.kit.app import Handler, Result, build_app
from daemons.kit.auth import Keyring
from daemons.kit.client import DaemonClient, Peer
from daemons.kit.logs import configure_logs, get_logger, log_start_line
from daemons.kit.policy import Policy
from daemons.kit.server import serve, url_of
from daemons.kit.settings import LogSettings
from daemons.kit.sse import SseResponse, encode_event


class FakeWorker:
    """Service and handlers of one fake worker. A POST to inference makes it busy for `max_tokens` x 10 ms."""

    def __init__(self, settings: WorkerSettings, url: str) -> None:
        self.settings = settings
        self.url = url
        self.words = Path(settings.model_path).stem.split("_") if settings.model_ref != "demo" else []
        self.state = WorkerState.LOADING
        self.progress = 0.0
        self.busy = 0
        self.requests = 0
        self.last_active_at = time.time()
        self.idle = asyncio.Event()
        self.idle.set()
        self.stop: Callable[[], None] = lambda: None
        self.tasks: list[asyncio.Task[None]] = []

    def slow_s(self) -> float:
        return next((float(word.removeprefix("slow-")) for word in self.words if word.startswith("slow-")), 0.0)

    # -- service

    async def start(self, stop: Callable[[], None]) -> None:
        self.stop = stop
        if "stubborn" in self.words:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
        self.tasks = [asyncio.create_task(self.load())]

    async def load(self) -> None:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < self.slow_s() or "stuck" in self.words:
            self.progress = 0.4 if "stuck" in self.words else passed / self.slow_s()
            await asyncio.sleep(0.02)
        self.progress, self.state = 1.0, WorkerState.IDLE
        self.last_active_at = time.time()
        if self.settings.ready_url and "shy" not in self.words:
            peer = Peer(
                self.settings.ready_url.removesuffix("/v1/workers/ready"),
                self.settings.key,
                "hive",
                Code.HIVE_UNREACHABLE,
            )
            async with DaemonClient(peer, Policy()) as hive:
                await hive.call(routes.HIVE_READY, body=self.callback())

    def callback(self) -> ReadyCallback:
        return ReadyCallback(
            id=self.settings.worker_id,
            url=self.url,
            model_ref=self.settings.model_ref,
            backend=self.settings.backend,
            device=self.settings.device,
            pid=os.getpid(),
            slots_total=self.settings.slots,
            ctx=self.settings.ctx,
            load_ms=1.0,
        )

    def begin_drain(self) -> None:
        self.state = WorkerState.DRAINING

    async def drained(self) -> None:
        await self.idle.wait()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    # -- routes

    async def health(self, _request: Request, _body: Any) -> Health:
        return Health(version=__version__)

    async def ready(self, _request: Request, _body: Any) -> Ready:
        loaded = self.state is not WorkerState.LOADING
        return Ready(ready=loaded, state=self.state, model_loaded=loaded)

    async def stats(self, _request: Request, _body: Any) -> WorkerStats:
        return WorkerStats(
            id=self.settings.worker_id,
            state=self.state,
            slots_total=self.settings.slots,
            slots_available=0 if self.state is WorkerState.LOADING else self.settings.slots - self.busy,
            ctx=self.settings.ctx,
            kv_cells_used=0,
            kv_cells_total=self.settings.ctx * self.settings.slots,
            requests_total=self.requests,
            tokens_generated_total=0,
            tokens_per_second=0.0,
            last_active_at=self.last_active_at,
            progress=self.progress,
        )

    async def end(self, _request: Request, body: DrainRequest) -> Accepted:
        get_logger().info("asked to end", drain_s=body.drain_s)
        if "stubborn" not in self.words:
            self.stop()
        return Accepted()

    async def infer(self, _request: Request, body: Any) -> Result:
        if self.state is WorkerState.DRAINING:
            raise RbeeError(Code.DRAINING, "draining")
        return SseResponse(self.tokens(body.max_tokens))

    async def tokens(self, count: int) -> AsyncIterator[bytes]:
        self.busy += 1
        self.requests += 1
        self.idle.clear()
        if self.state is WorkerState.IDLE:
            self.state = WorkerState.BUSY
        try:
            for index in range(count):
                await asyncio.sleep(0.01)
                yield encode_event("token", {"token": "x", "index": index})
            yield encode_event("done", {"done": True})
        finally:
            self.busy -= 1
            self.last_active_at = time.time()
            if not self.busy:
                self.idle.set()
                self.state = WorkerState.IDLE if self.state is WorkerState.BUSY else self.state

    async def refuse(self, _request: Request, _body: Any) -> Result:
        raise RbeeError(Code.INVALID_REQUEST, "this fake worker cannot do that")

    def table(self) -> dict[routes.Route, Handler]:
        answered: dict[routes.Route, Handler] = {
            routes.WORKER_ALIVE: self.health,
            routes.WORKER_READY: self.ready,
            routes.WORKER_STATS: self.stats,
            routes.WORKER_END: self.end,
            routes.WORKER_INFER: self.infer,
        }
        return {route: answered.get(route, self.refuse) for route in routes.routes_of(Daemon.WORKER)}


async def serve_fake() -> None:
    """The `serve` command."""
    settings = WorkerSettings.model_validate_json(sys.stdin.readline())
    configure_logs(settings.worker_id, Path(settings.log_path), LogSettings())
    log_start_line()
    fail_early(Path(settings.model_path).stem.split("_"))
    assert settings.listen_fd is not None
    sock = socket.socket(fileno=settings.listen_fd)
    fake = FakeWorker(settings, url_of(sock))
    if "deaf" in fake.words:
        await asyncio.Event().wait()
    keyring = Keyring({settings.key: Role.ADMIN})
    app = build_app(Daemon.WORKER, fake.table(), keyring=lambda: keyring, policy=Policy())
    await serve(fake, app, sock, drain_s=settings.drain_s, read_s=10.0)
    sock.close()


def fail_early(words: list[str]) -> None:
    if "crash" in words:
        for number in range(60):
            sys.stdout.write(f"fake line {number}\n")
        sys.stdout.flush()
        os._exit(3)
    if "killed" in words:
        os.kill(os.getpid(), signal.SIGKILL)
    if "invalid" in words:
        raise RbeeError(Code.MODEL_INVALID, "fake: this is no model")
