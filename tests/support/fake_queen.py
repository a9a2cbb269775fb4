"""A queen without a hive, for tests of the keeper: real HTTP through the kit, scripted answers, a list of what came.

Runs in a thread of its own, so that tests of use cases (in an event loop) and of whole commands can both use it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from pydantic import BaseModel
from starlette.requests import Request

from daemons import __version__
from daemons.contracts import routes
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Done, EventType, Narration, Token
from daemons.contracts.fleet import (
    Accepted,
    FleetSnapshot,
    Health,
    LogLine,
    LogLines,
    LogQuery,
    ModelList,
    ModelRow,
    NodeList,
    NodeRow,
    NodeStatus,
    QueueState,
)
from daemons.contracts.inference import FinishReason, Timings, Usage
from daemons.contracts.routes import Daemon, Role, Route
from daemons.contracts.tasks import Priority, TaskList, TaskRequest, TaskRow, TaskState
from daemons.contracts.telemetry import Device, HostSample
from daemons.contracts.workers import (
    Backend,
    ShutdownRequest,
    StartWorkerRequest,
    WorkerHealth,
    WorkerHealthList,
    WorkerList,
    WorkerRow,
    WorkerState,
)
from daemons.kit.app import Handler, Result, build_app
from daemons.kit.auth import Keyring
from daemons.kit.policy import Policy
from daemons.kit.procs import bind_listening
from daemons.kit.server import url_of
from daemons.kit.sse import SseResponse, encode_event

KEY = "fake-queen-key"
TASK_ID = "task-0123456789ab"
STARTED_AT = 1_700_000_000.0

Step = tuple[str, BaseModel | Mapping[str, Any]] | threading.Event | None
"""One step of a task's stream: an event to send, a gate to wait for, or None: close without an end."""


def worker_row(worker_id: str = "w-00000001", **changes: Any) -> WorkerRow:
    """A worker as a queen lists it."""
    fields: dict[str, Any] = {
        "id": worker_id, "url": "http://127.0.0.1:8001", "model_ref": "demo", "backend": Backend.CPU, "device": 0,
        "state": WorkerState.IDLE, "slots_total": 4, "slots_available": 4, "pid": 4711, "ctx": 2048,
        "command": ["llm-worker-rbee", "serve"], "started_at": STARTED_AT, "last_active_at": STARTED_AT,
    }  # fmt: skip
    return WorkerRow.model_validate(fields | changes)


def task_row(task_id: str = TASK_ID, **changes: Any) -> TaskRow:
    """A task as a queen lists it."""
    fields: dict[str, Any] = {
        "id": task_id, "state": TaskState.COMPLETED, "model": "demo", "priority": Priority.INTERACTIVE,
        "node": "local", "worker_id": "w-00000001", "created_at": STARTED_AT, "started_at": STARTED_AT + 1,
        "ended_at": STARTED_AT + 3, "max_tokens": 100, "tokens": 24, "finish_reason": "stop",
    }  # fmt: skip
    return TaskRow.model_validate(fields | changes)


def node_row(name: str = "local", **changes: Any) -> NodeRow:
    """A node with one CPU device."""
    gib = 2**30
    fields: dict[str, Any] = {
        "name": name, "host": "127.0.0.1", "status": NodeStatus.REACHABLE, "url": "http://127.0.0.1:9200",
        "version": __version__, "backends": [Backend.CPU], "last_seen_at": STARTED_AT,
        "devices": [Device(index=0, backend=Backend.CPU, name="CPU", memory_total=16 * gib, memory_free=8 * gib,
                           cores=8, threads_free=6)],
        "host_sample": HostSample(cpu_percent=12.5, load_1m=0.5, cores=8, ram_total=16 * gib, ram_available=8 * gib,
                                  disk_total=100 * gib, disk_free=50 * gib),
    }  # fmt: skip
    return NodeRow.model_validate(fields | changes)


def done(tokens: int, reason: FinishReason = FinishReason.STOP) -> tuple[str, Done]:
    """The end of an answer of so many tokens."""
    timings = Timings(queue_ms=1.0, prompt_ms=2.0, generation_ms=3.0, ttft_ms=4.0, tokens_per_second=120.5)
    usage = Usage(prompt_tokens=5, completion_tokens=tokens)
    return EventType.DONE, Done(
        total_tokens=tokens, duration_ms=10.0, finish_reason=reason, usage=usage, timings=timings
    )


def answer_of(*texts: str) -> list[Step]:
    """The steps of a task that answers with these tokens."""
    tokens: list[Step] = [(EventType.TOKEN, Token(token=text, index=number)) for number, text in enumerate(texts)]
    placing = Narration(actor="queen", text="placing on worker w-00000001", fields={"slots_free": 4})
    return [(EventType.NARRATION, placing), *tokens, done(len(texts))]


@dataclass
class FakeQueen:
    """What it answers, and what it was asked. Change the fields before the keeper runs."""

    version: str = __version__
    policy: Policy = field(default_factory=Policy)
    answers: list[list[Step] | RbeeError] = field(default_factory=lambda: [answer_of("Bees ", "hum.")])
    """One for each task in order; the last one is used again and again."""
    nodes: list[NodeRow] = field(default_factory=lambda: [node_row()])
    workers: list[WorkerRow] = field(default_factory=lambda: [worker_row()])
    models: list[ModelRow] = field(default_factory=list)
    tasks: list[TaskRow] = field(default_factory=lambda: [task_row()])
    lines: list[LogLine] = field(default_factory=list)
    events: list[Step] = field(default_factory=list)
    start_steps: list[Step] = field(default_factory=list)
    on_shutdown: Callable[[], object] = lambda: None

    url: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    """(method and path, request id) of each request."""
    requests: list[TaskRequest] = field(default_factory=list)
    starts: list[StartWorkerRequest] = field(default_factory=list)
    queries: list[LogQuery] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    closed_early: threading.Event = field(default_factory=threading.Event)

    def app(self) -> Any:
        """The application: the real route table, authentication and error answers."""
        handlers: dict[Route, Handler] = dict.fromkeys(routes.routes_of(Daemon.QUEEN), self._refuse)
        handlers |= {
            routes.QUEEN_HEALTH: self._health,
            routes.TASK_CREATE: self._create,
            routes.TASK_LIST: self._answer(lambda: TaskList(tasks=self.tasks)),
            routes.TASK_SHOW: self._show,
            routes.TASK_EVENTS: self._events,
            routes.TASK_CANCEL: self._cancel,
            routes.FLEET: self._answer(self._snapshot),
            routes.WORKER_LIST: self._answer(lambda: WorkerList(workers=self.workers)),
            routes.WORKER_HEALTH: self._worker_health,
            routes.WORKER_START: self._worker_start,
            routes.WORKER_SHUTDOWN: self._worker_shutdown,
            routes.MODEL_LIST: self._answer(lambda: ModelList(models=self.models)),
            routes.NODE_LIST: self._answer(lambda: NodeList(nodes=self.nodes)),
            routes.LOGS: self._logs,
            routes.QUEEN_SHUTDOWN: self._shutdown,
        }
        return build_app(Daemon.QUEEN, handlers, keyring=lambda: Keyring({KEY: Role.ADMIN}), policy=self.policy)

    def _note(self, request: Request) -> None:
        self.seen.append((f"{request.method} {request.url.path}", request.headers.get("x-request-id", "")))

    def _answer(self, make: Callable[[], BaseModel]) -> Handler:
        async def handler(request: Request, _body: Any) -> Result:
            self._note(request)
            return make()

        return handler

    async def _refuse(self, request: Request, _body: Any) -> Result:
        self._note(request)
        raise RbeeError(Code.ROUTE_NOT_FOUND, "the fake queen has no such answer")

    async def _health(self, request: Request, _body: Any) -> Result:
        self._note(request)
        return Health(version=self.version)

    async def _create(self, request: Request, body: TaskRequest) -> Result:
        self._note(request)
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(body)
        if isinstance(answer, RbeeError):
            raise answer
        return SseResponse(self._stream(answer), headers={"X-Task-Id": TASK_ID})

    async def _stream(self, steps: list[Step]) -> AsyncIterator[bytes]:
        number = 0
        try:
            for step in steps:
                if step is None:
                    break
                if isinstance(step, threading.Event):
                    while not step.is_set():  # noqa: ASYNC110 - the gate belongs to a thread without a loop
                        await asyncio.sleep(0.005)
                else:
                    number += 1
                    yield encode_event(step[0], step[1], number)
        except (asyncio.CancelledError, GeneratorExit):
            self.closed_early.set()
            raise

    async def _show(self, request: Request, _body: Any) -> Result:
        self._note(request)
        return self._task(request.path_params["id"])

    async def _events(self, request: Request, _body: Any) -> Result:
        self._note(request)
        self._task(request.path_params["id"])
        return SseResponse(self._stream(self.events))

    async def _cancel(self, request: Request, _body: Any) -> Result:
        self._note(request)
        self._task(request.path_params["id"])
        self.cancelled.set()
        return None

    def _task(self, task_id: str) -> TaskRow:
        for task in self.tasks:
            if task.id == task_id:
                return task
        raise RbeeError(Code.TASK_NOT_FOUND, f"no task {task_id}")

    def _snapshot(self) -> FleetSnapshot:
        return FleetSnapshot(
            version=self.version, queen_pid=4242, queen_url=self.url, started_at=STARTED_AT, nodes=self.nodes,
            workers=self.workers, models=self.models, tasks=self.tasks,
            queue=QueueState(waiting=1, running=2, limit=100),
        )  # fmt: skip

    async def _worker_health(self, request: Request, _body: Any) -> Result:
        self._note(request)
        node = request.query_params.get("node")
        if node is not None and node not in [row.name for row in self.nodes]:
            raise RbeeError(Code.NODE_NOT_FOUND, f"no node {node}")
        rows = [row for row in self.workers if node in (None, row.node)]
        return WorkerHealthList(
            workers=[
                WorkerHealth(
                    id=row.id, node=row.node, model_ref=row.model_ref, state=row.state,
                    healthy=row.state is not WorkerState.UNHEALTHY, answer_ms=1.5,
                )
                for row in rows
            ]
        )  # fmt: skip

    async def _worker_start(self, request: Request, body: StartWorkerRequest) -> Result:
        self._note(request)
        self.starts.append(body)
        return SseResponse(self._stream(self.start_steps))

    async def _worker_shutdown(self, request: Request, body: ShutdownRequest) -> Result:
        self._note(request)
        for row in self.workers:
            if row.id == body.id:
                return row.model_copy(update={"state": WorkerState.DRAINING})
        raise RbeeError(Code.WORKER_NOT_FOUND, f"no worker {body.id}")

    async def _logs(self, request: Request, query: LogQuery) -> Result:
        self._note(request)
        self.queries.append(query)
        if not query.follow:
            return LogLines(lines=self.lines)
        steps: list[Step] = [(EventType.SNAPSHOT, LogLines(lines=self.lines[:1]))]
        steps += [(EventType.LOG, line) for line in self.lines[1:]]
        return SseResponse(self._stream([*steps, threading.Event()]))

    async def _shutdown(self, request: Request, _body: Any) -> Result:
        self._note(request)
        self.on_shutdown()
        return Accepted()


@contextmanager
def running_queen(queen: FakeQueen) -> Iterator[FakeQueen]:
    """Serve the queen on a free port of the loopback interface until the block ends."""
    sock = bind_listening("127.0.0.1", 0)
    queen.url = url_of(sock)
    # The kit's runner handles signals, which only a main thread may; the application is the kit's all the same.
    server = uvicorn.Server(
        uvicorn.Config(queen.app(), lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), name="fake-queen")
    thread.start()
    try:
        yield queen
    finally:
        server.should_exit = True
        thread.join(10)
        sock.close()
        assert not thread.is_alive(), "the fake queen did not end"
