"""What the queen knows and decides upon. All times are seconds of one monotonic clock that events carry in."""

from dataclasses import dataclass, field
from enum import StrEnum

from daemons.contracts.errors import RbeeError
from daemons.contracts.fleet import NodeStatus
from daemons.contracts.tasks import Priority, TaskState
from daemons.contracts.telemetry import HiveTelemetry
from daemons.contracts.workers import READY_STATES, Backend, HiveWorker, WorkerState
from daemons.queen.core.prefix import PrefixMemory
from daemons.queen.core.queue import WaitingQueue

MOST_LOADS_PER_NODE = 8
"""Loads in flight on one node; further tasks wait in the bounded queue."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers that decisions depend on; from settings."""

    queue_limit: int = 100
    queue_wait_s: float = 600.0
    default_slots: int = 4
    crash_retries: int = 3
    refusal_keep_s: float = 5.0
    retry_after_s: float = 1.0
    finish_loads: bool = True


@dataclass(frozen=True, slots=True)
class Spec:
    """Which workers can answer a task, and how a new one is made. None: no matter."""

    model: str
    node: str | None = None
    backend: Backend | None = None
    device: int | None = None
    ctx: int | None = None
    slots: int | None = None
    mmap: bool = True
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model may be loaded: a node, and the device when it matters which."""

    node: str
    backend: Backend | None = None
    device: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a place could not load a task's model, and what the place looked like then."""

    error: RbeeError
    epoch: int
    at: float


@dataclass(slots=True)
class Task:
    """A live task. `order` is its rank in the queue, kept when it has to wait again; it waits since `queued_at`,
    which is moved on by the time that it spent on a load, begun at `placed_at`.

    `start_only` loads a model without generating. `stopping` is why the running generation is being cancelled. One that
    is `parked` waits for the next queen, since this one is ending; only `detached` tasks do.
    """

    id: str
    spec: Spec
    order: int
    queued_at: float
    placed_at: float = 0.0
    max_tokens: int = 0
    priority: Priority = Priority.INTERACTIVE
    prefix: tuple[bytes, ...] = ()
    start_only: bool = False
    detached: bool = False
    parked: bool = False
    state: TaskState = TaskState.QUEUED
    admitted: bool = False
    worker_id: str | None = None
    load_id: int | None = None
    crashes: int = 0
    hive_lost: bool = False
    refusals: dict[Place, Refusal] = field(default_factory=dict)
    stopping: RbeeError | None = None


class LoadStage(StrEnum):
    """What a load waits for."""

    ENSURING = "ensuring"
    EVICTING = "evicting"
    SPAWNING = "spawning"
    LOADING = "loading"


@dataclass(slots=True)
class Load:
    """One worker in the making, and the tasks that will use it."""

    id: int
    place: Place
    spec: Spec
    stage: LoadStage
    slots: int
    joinable: bool = True
    worker_id: str | None = None
    victim_id: str | None = None
    waiters: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Worker:
    """One worker of a node. `leases` are the tasks that were sent to it and have not come back.

    `seen` is set by the node's own telemetry: only then does absence from it mean that the worker is gone. `lost_at` is
    when a stream of it broke: it counts as dead, unless its node still tells of it a while later.
    """

    row: HiveWorker
    node: str
    seen: bool = False
    added_at: float = 0.0
    leases: set[str] = field(default_factory=set)
    used_at: float = 0.0
    evicting: bool = False
    lost_at: float | None = None
    backoff_until: float = 0.0
    backoffs: int = 0
    made_for: Spec | None = None

    @property
    def ready(self) -> bool:
        return self.row.state in READY_STATES and not self.leaving

    @property
    def coming(self) -> bool:
        """Ready, or will be."""
        return not self.leaving and (self.row.state in READY_STATES or self.row.state is WorkerState.LOADING)

    def restarting(self, model: str) -> bool:
        """Whether it stands for a worker of that model that its hive is going to start after a crash."""
        return self.row.state is WorkerState.RESTARTING and self.row.model_ref == model

    @property
    def leaving(self) -> bool:
        """Being ended, or dead as far as we know."""
        return self.evicting or self.lost_at is not None

    @property
    def pinned(self) -> bool:
        return self.row.idle_limit_s < 0

    @property
    def free_slots(self) -> int:
        return self.row.slots_total - len(self.leases)

    def usable(self, at: float) -> bool:
        """Whether a task may be sent to it now."""
        return self.ready and self.free_slots > 0 and self.backoff_until <= at


@dataclass(slots=True)
class Node:
    """One node. `epoch` counts the times when memory or cores of it became free."""

    name: str
    startable: bool = False
    status: NodeStatus = NodeStatus.STOPPED
    sample: HiveTelemetry | None = None
    epoch: int = 0
    problem: str = ""


@dataclass(slots=True)
class State:
    """Everything. Only `decide` changes it."""

    limits: Limits
    nodes: dict[str, Node] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    loads: dict[int, Load] = field(default_factory=dict)
    queue: WaitingQueue = field(default_factory=WaitingQueue)
    prefixes: PrefixMemory = field(default_factory=PrefixMemory)
    draining: bool = False
    next_load: int = 1
    next_order: int = 1

    @property
    def running(self) -> int:
        return sum(task.state is TaskState.RUNNING for task in self.tasks.values())

    @property
    def idle(self) -> bool:
        """Whether nothing is left that this queen has to do."""
        return all(task.parked for task in self.tasks.values())

    def loads_on(self, node: str) -> list[Load]:
        return [load for load in self.loads.values() if load.place.node == node]

    def workers_on(self, node: str) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.node == node]
