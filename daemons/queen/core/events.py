"""What happens to the queen. Each event carries `at`, seconds of the queen's monotonic clock."""

from dataclasses import dataclass
from enum import StrEnum

from daemons.contracts.errors import RbeeError
from daemons.contracts.fleet import NodeStatus
from daemons.contracts.tasks import Priority
from daemons.contracts.telemetry import HiveTelemetry
from daemons.contracts.workers import HiveWorker
from daemons.queen.core.state import Spec


@dataclass(frozen=True, slots=True)
class TaskSubmitted:
    """A person or program wants a generation; with `start_only` only its worker."""

    at: float
    task_id: str
    spec: Spec
    priority: Priority = Priority.INTERACTIVE
    prefix: tuple[bytes, ...] = ()
    max_tokens: int = 0
    start_only: bool = False
    detached: bool = False


@dataclass(frozen=True, slots=True)
class TaskStopped:
    """A task is to end before it is done: cancelled, its client gone, its deadline over. `why` tells which."""

    at: float
    task_id: str
    why: RbeeError


@dataclass(frozen=True, slots=True)
class NodeSampled:
    """A node told its figures and workers."""

    at: float
    node: str
    sample: HiveTelemetry


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """A node is starting, stopped, or has been silent so long that it is stale or unreachable."""

    at: float
    node: str
    status: NodeStatus
    problem: str = ""


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """A node's hive could not be started or reached."""

    at: float
    node: str
    error: RbeeError
    status: NodeStatus = NodeStatus.STOPPED


@dataclass(frozen=True, slots=True)
class SpawnAnswered:
    """The hive has started a worker; its model is being loaded."""

    at: float
    load_id: int
    worker: HiveWorker


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The hive refused to start a worker, or the worker did not come to be ready."""

    at: float
    load_id: int
    error: RbeeError


@dataclass(frozen=True, slots=True)
class WorkerLoaded:
    """A worker's model is loaded."""

    at: float
    load_id: int


@dataclass(frozen=True, slots=True)
class WorkerEvicted:
    """An idle worker was ended to make room; `error` when that failed."""

    at: float
    worker_id: str
    error: RbeeError | None = None


class RelayEnd(StrEnum):
    """How a generation on a worker ended, as seen by the relay."""

    DONE = "done"
    REFUSED = "refused"
    LOST = "lost"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RelayEnded:
    """A worker's stream is over. REFUSED: the worker had no slot. LOST: it died. `error` is set but for DONE."""

    at: float
    task_id: str
    how: RelayEnd
    tokens: int = 0
    error: RbeeError | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went by."""

    at: float


@dataclass(frozen=True, slots=True)
class DrainBegun:
    """The queen is to end: no new tasks."""

    at: float


Event = (
    TaskSubmitted
    | TaskStopped
    | NodeSampled
    | NodeChanged
    | NodeFailed
    | SpawnAnswered
    | LoadFailed
    | WorkerLoaded
    | WorkerEvicted
    | RelayEnded
    | Tick
    | DrainBegun
)
