"""A hive and its workers inside a test: the real routes over real HTTP, with a fake model behind them.

Workers answer `max_tokens` tokens ``t0 t1 …``; tests pace, refuse and kill them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.requests import Request

from daemons import __version__
from daemons.contracts import routes
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Done, EventType, Narration, Progress, Token
from daemons.contracts.fleet import Accepted, DrainRequest, Health, LogLine, LogLines, LogQuery, ModelList
from daemons.contracts.inference import FinishReason, InferenceRequest, Timings, Usage
from daemons.contracts.routes import Daemon, Role
from daemons.contracts.workers import (
    ExitReason,
    HiveWorker,
    HiveWorkerList,
    Ready,
    ShutdownRequest,
    SpawnedWorker,
    SpawnRequest,
    WorkerExit,
    WorkerExitList,
    WorkerHealth,
    WorkerHealthList,
    WorkerState,
)
from daemons.kit.app import Handler, Result, build_app
from daemons.kit.auth import Keyring
from daemons.kit.policy import Policy
from daemons.kit.procs import ProcessIdentity
from daemons.kit.sse import SseResponse, encode_event
from daemons.queen.hives import HiveAddress, Say
from tests.support.http_service import running
from tests.support.queen_core import sample, worker_row

HIVE_KEY = "fake-hive-key-0123456789"
WORKER_KEY = "fake-worker-key-0123456789"


class FakeWorker:
    """One worker. `gated`: tokens, and parts of a prompt before them, come as `step(n)` lets them through."""

    def __init__(self, row: HiveWorker, *, gated: bool = False) -> None:
        self.row = row
        self.requests: list[InferenceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled: list[str] = []
        self.running = 0
        self.refuse_with: RbeeError | None = None
        self.end_with: RbeeError | None = None
        self.crash_after: int | None = None
        self.prompt_parts = 0
        self.load_gate = asyncio.Event()
        self.load_gate.set()
        self.load_error: RbeeError | None = None
        self.dead = False
        self._permits = asyncio.Semaphore(0)
        self._gated = gated

    def step(self, tokens: int = 1) -> None:
        for _ in range(tokens):
            self._permits.release()

    def flow(self) -> None:
        """No more gates, also for streams that are waiting at one."""
        self._gated = False
        self.step(1000)

    def app(self) -> Any:
        handlers: dict[routes.Route, Handler] = dict.fromkeys(routes.routes_of(Daemon.WORKER), _refuse)
        handlers |= {
            routes.WORKER_PROGRESS: self._progress,
            routes.WORKER_INFER: self._infer,
            routes.WORKER_CANCEL: self._cancel,
        }
        keyring = Keyring({WORKER_KEY: Role.ADMIN})
        return build_app(Daemon.WORKER, handlers, keyring=lambda: keyring, policy=Policy())

    async def _progress(self, _request: Request, _body: Any) -> Result:
        return SseResponse(self._loading())

    async def _loading(self) -> AsyncIterator[bytes]:
        yield encode_event(EventType.PROGRESS, Progress(stage="loading", done=50.0, total=100.0, unit="percent"))
        await self.load_gate.wait()
        if self.dead:
            raise ConnectionResetError("the process is gone")
        if self.load_error is not None:
            yield encode_event(EventType.ERROR, self.load_error.as_dict())
            return
        self.row = self.row.model_copy(update={"state": WorkerState.IDLE})
        yield encode_event(EventType.READY, Ready(ready=True, state=WorkerState.IDLE, model_loaded=True))
        yield encode_event(EventType.DONE, {"done": True})

    async def _infer(self, request: Request, body: InferenceRequest) -> Result:
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if self.refuse_with is not None:
            raise self.refuse_with
        if self.running >= self.row.slots_total:
            raise RbeeError(Code.ALL_SLOTS_BUSY, f"{self.running} of {self.row.slots_total} slots are busy")
        return SseResponse(self._tokens(body))

    async def _tokens(self, body: InferenceRequest) -> AsyncIterator[bytes]:
        self.running += 1
        finished = False
        try:
            for part in range(self.prompt_parts):
                await self._gate()
                done, total = float(part + 1), float(self.prompt_parts)
                yield encode_event(EventType.PROGRESS, Progress(stage="prompt", done=done, total=total, unit="tokens"))
            for index in range(body.max_tokens):
                await self._gate()
                if self.crash_after is not None and index >= self.crash_after:
                    raise ConnectionResetError("the process is gone")
                yield encode_event(EventType.TOKEN, Token(token=f"t{index} ", index=index))
            if self.end_with is not None:
                yield encode_event(EventType.ERROR, self.end_with.as_dict())
            else:
                yield encode_event(EventType.DONE, done_of(body.max_tokens))
            finished = True
        finally:
            self.running -= 1
            if not finished:
                self.cancelled.append(body.id)

    async def _gate(self) -> None:
        if self._gated:
            await self._permits.acquire()

    async def _cancel(self, request: Request, _body: Any) -> Result:
        self.cancelled.append(request.path_params["id"])
        return None


def done_of(tokens: int) -> Done:
    """The end of a generation of so many tokens."""
    return Done(
        total_tokens=tokens, duration_ms=12.0, finish_reason=FinishReason.LENGTH,
        usage=Usage(prompt_tokens=3, completion_tokens=tokens, cached_tokens=1),
        timings=Timings(queue_ms=1.0, prompt_ms=1.0, generation_ms=10.0, ttft_ms=2.0, tokens_per_second=100.0),
    )  # fmt: skip


async def _refuse(_request: Request, _body: Any) -> Result:
    raise RbeeError(Code.ROUTE_NOT_FOUND, "the fake does not serve this")


class FakeHive:
    """One hive, and at the same time the queen's way to it (`find`, `ensure`, `stop_if_ours`)."""

    host = "fake"

    def __init__(self, *, startable: bool = True, started: bool = True) -> None:
        self.startable = startable
        self.started = started
        self.ensure_error: RbeeError | None = None
        self.ensured = 0
        self.crash: ProcessIdentity | None = None
        self.stopped = 0
        self.version = __version__
        self.workers: dict[str, FakeWorker] = {}
        self.spawn_requests: list[SpawnRequest] = []
        self.spawn_headers: list[dict[str, str]] = []
        self.spawn_errors: list[RbeeError] = []
        self.gated = False
        self.model_refs = ["demo"]
        self.load_gates: list[asyncio.Event] = []
        self.slots = 2
        self.exits: dict[str, WorkerExit] = {}
        self.evicted: list[str] = []
        self.lines: list[LogLine] = []
        self.silent = False
        self.url = ""
        self._stack = AsyncExitStack()
        self._news = asyncio.Event()
        self._streams: set[asyncio.Task[Any]] = set()
        self._log_streams: set[asyncio.Task[Any]] = set()

    # -- the queen's way to it

    async def find(self) -> HiveAddress | None:
        return HiveAddress(self.url, HIVE_KEY) if self.started else None

    def command(self, verb: str) -> str:
        return f"rbee hive {verb}"

    async def crashed(self) -> ProcessIdentity | None:
        return self.crash

    async def ensure(self, say: Say) -> HiveAddress:
        self.ensured += 1
        say("starting the hive")
        if self.ensure_error is not None:
            raise self.ensure_error
        self.started = True
        return HiveAddress(self.url, HIVE_KEY)

    async def stop_if_ours(self) -> None:
        self.stopped += 1

    # -- what tests do with it

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeHive"]:
        """Answer on a free port until the block ends."""
        async with self._stack:
            self.url = await self._stack.enter_async_context(running(self._app()))
            yield self

    async def add_worker(self, model: str = "demo", **fields: Any) -> FakeWorker:
        """A worker that is there already."""
        row = worker_row(f"w-{len(self.workers):08x}", model, slots_total=self.slots, **fields)
        worker = FakeWorker(row.model_copy(update={"key": WORKER_KEY}), gated=self.gated)
        url = await self._stack.enter_async_context(running(worker.app()))
        worker.row = worker.row.model_copy(update={"url": url})
        self.workers[row.id] = worker
        self.tell()
        return worker

    def tell(self) -> None:
        """Push a telemetry sample."""
        self._news.set()

    def kill_worker(self, worker: FakeWorker, how: str = "killed by SIGKILL", error: RbeeError | None = None) -> None:
        """The worker is gone from the registry; its stream breaks at its next token."""
        worker.crash_after, worker.dead = 0, True
        worker.step()
        worker.load_gate.set()
        del self.workers[worker.row.id]
        self.exits[worker.row.id] = WorkerExit(
            id=worker.row.id, model_ref=worker.row.model_ref, pid=1, state=WorkerState.BUSY,
            reason=ExitReason.CRASHED, how=how, returncode=-9, started_at=0.0, ended_at=1.0,
            error=error.as_dict() if error else None,
        )  # fmt: skip
        self.tell()

    def die(self) -> None:
        """The hive's process is gone: its streams break, nobody finds it."""
        self.started = False
        self.cut_streams()
        for task in set(self._log_streams):
            task.cancel()

    def cut_streams(self) -> set[asyncio.Task[Any]]:
        """Break the telemetry streams that are open now; those that were."""
        broken = set(self._streams)
        for task in broken:
            task.cancel()
        return broken

    # -- its routes

    def _app(self) -> Any:
        handlers: dict[routes.Route, Handler] = dict.fromkeys(routes.routes_of(Daemon.HIVE), _refuse)
        handlers |= {
            routes.HIVE_HEALTH: self._health,
            routes.HIVE_TELEMETRY: self._telemetry,
            routes.HIVE_SPAWN: self._spawn,
            routes.HIVE_WORKER_LIST: self._list,
            routes.HIVE_WORKER_HEALTH: self._worker_health,
            routes.HIVE_WORKER_SHUTDOWN: self._worker_shutdown,
            routes.HIVE_WORKER_EXITS: self._worker_exits,
            routes.HIVE_MODEL_LIST: self._models,
            routes.HIVE_LOGS: self._logs,
            routes.HIVE_SHUTDOWN: self._shutdown,
        }
        keyring = Keyring({HIVE_KEY: Role.ADMIN})
        return build_app(Daemon.HIVE, handlers, keyring=lambda: keyring, policy=Policy())

    async def _health(self, _request: Request, _body: Any) -> Result:
        return Health(version=self.version)

    async def _telemetry(self, _request: Request, _body: Any) -> Result:
        return SseResponse(self._samples())

    async def _samples(self) -> AsyncIterator[bytes]:
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        kind = EventType.SNAPSHOT
        try:
            while True:
                if not self.silent:
                    yield encode_event(kind, sample(*(worker.row for worker in self.workers.values())))
                kind = EventType.TELEMETRY
                self._news.clear()
                try:
                    async with asyncio.timeout(0.1):
                        await self._news.wait()
                except TimeoutError:
                    pass
        finally:
            self._streams.discard(task)

    async def _spawn(self, request: Request, body: SpawnRequest) -> Result:
        self.spawn_requests.append(body)
        self.spawn_headers.append(dict(request.headers))
        if self.spawn_errors:
            raise self.spawn_errors.pop(0)
        worker = await self.add_worker(
            body.model_ref, state=WorkerState.LOADING, ctx=body.ctx or 2048, idle_limit_s=body.keep_alive_s or 300.0
        )
        if self.load_gates:
            worker.load_gate = self.load_gates.pop(0)
        narration = Narration(actor="hive local", text=f"{body.model_ref} goes to CPU", fields={"slots": self.slots})
        return SpawnedWorker.model_validate({**worker.row.model_dump(), "narration": [narration.model_dump()]})

    async def _list(self, _request: Request, _body: Any) -> Result:
        return HiveWorkerList(workers=[worker.row for worker in self.workers.values()])

    async def _worker_health(self, _request: Request, _body: Any) -> Result:
        rows = [worker.row for worker in self.workers.values()]
        return WorkerHealthList(
            workers=[
                WorkerHealth(id=row.id, model_ref=row.model_ref, state=row.state, healthy=True, answer_ms=1.0)
                for row in rows
            ]
        )

    async def _worker_shutdown(self, _request: Request, body: ShutdownRequest) -> Result:
        worker = self.workers.pop(body.id, None)
        if worker is None:
            raise RbeeError(Code.WORKER_NOT_FOUND, f"no worker {body.id}")
        self.evicted.append(body.id)
        self.tell()
        return worker.row

    async def _worker_exits(self, request: Request, _body: Any) -> Result:
        found = self.exits.get(request.query_params.get("id", ""))
        if found is None:
            raise RbeeError(Code.WORKER_NOT_FOUND, "it has not ended")
        return WorkerExitList(exits=[found])

    async def _models(self, _request: Request, _body: Any) -> Result:
        what = {"path": "/demo.gguf", "size_bytes": 1, "architecture": "llama", "context_length": 2048}
        rows = [{"id": f"m-{n}", "ref": ref, **what} for n, ref in enumerate(self.model_refs)]
        return ModelList.model_validate({"models": rows})

    async def _logs(self, _request: Request, query: LogQuery) -> Result:
        return SseResponse(self._log_events(query))

    async def _log_events(self, query: LogQuery) -> AsyncIterator[bytes]:
        task = asyncio.current_task()
        assert task is not None
        self._log_streams.add(task)
        try:
            told = len(self.lines)
            yield encode_event(EventType.SNAPSHOT, LogLines(lines=list(self.lines)))
            while query.follow:
                for line in self.lines[told:]:
                    yield encode_event(EventType.LOG, line)
                told = len(self.lines)
                await asyncio.sleep(0.02)
        finally:
            self._log_streams.discard(task)

    async def _shutdown(self, _request: Request, body: DrainRequest) -> Result:
        return Accepted()
