"""What the queen does. The service performs each; those that do I/O come back as an event."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from daemons.contracts.errors import RbeeError
from daemons.contracts.workers import SpawnRequest


@dataclass(frozen=True, slots=True)
class EnsureNode:
    """Start or find the hive of a node -> NodeSampled or NodeFailed."""

    node: str


@dataclass(frozen=True, slots=True)
class SpawnWorker:
    """Ask a hive for a worker and follow its load -> SpawnAnswered, then WorkerLoaded or LoadFailed."""

    load_id: int
    node: str
    request: SpawnRequest


@dataclass(frozen=True, slots=True)
class EvictWorker:
    """End an idle worker -> WorkerEvicted."""

    node: str
    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """A worker is no longer known: give up what is kept for it."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class StartRelay:
    """Send a task to a worker and relay its stream -> RelayEnded."""

    task_id: str
    worker_id: str


@dataclass(frozen=True, slots=True)
class StopRelay:
    """Cancel a generation -> RelayEnded."""

    task_id: str


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """A task's state, worker or place in the queue is another than before."""

    task_id: str


@dataclass(frozen=True, slots=True)
class EndTask:
    """A task is over, once and for all; without an error it is completed."""

    task_id: str
    error: RbeeError | None = None


@dataclass(frozen=True, slots=True)
class Narrate:
    """Say a sentence to the readers of these tasks."""

    task_ids: tuple[str, ...]
    actor: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WakeAfter:
    """Send a Tick after so many seconds."""

    seconds: float


Effect = (
    EnsureNode
    | SpawnWorker
    | EvictWorker
    | WorkerGone
    | StartRelay
    | StopRelay
    | TaskChanged
    | EndTask
    | Narrate
    | WakeAfter
)
