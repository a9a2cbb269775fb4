"""What may happen to a hive, and what it may decide to do about it.

Every event has `at`, unix seconds of a clock that never jumps. Effects that name a worker concern its process.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from daemons.contracts.errors import RbeeError
from daemons.contracts.telemetry import Device, HostSample
from daemons.contracts.workers import (
    ExitReason,
    HiveWorker,
    ReadyCallback,
    SpawnRequest,
    WorkerExit,
    WorkerStats,
)
from daemons.hive.core.exits import ProcessEnd
from daemons.hive.core.placement import ModelFacts


@dataclass(frozen=True, slots=True)
class SpawnAsked:
    """A client wants a worker; id and key were drawn for it. `ticket` is where the answer goes."""

    at: float
    ticket: int
    worker_id: str
    key: str = field(repr=False)
    request: SpawnRequest


@dataclass(frozen=True, slots=True)
class PreflightDone:
    """The model was found and read, and the devices were measured just now."""

    at: float
    worker_id: str
    model: ModelFacts
    devices: Sequence[Device]


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The model cannot be used, or its process could not be started."""

    at: float
    worker_id: str
    error: RbeeError


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """The worker runs; its address is bound."""

    at: float
    worker_id: str
    pid: int
    url: str
    command: Sequence[str]


@dataclass(frozen=True, slots=True)
class Adopted:
    """A worker of an earlier hive answers. `request` is what it was spawned for."""

    at: float
    row: HiveWorker
    request: SpawnRequest
    load_limit_s: float
    stats: WorkerStats


@dataclass(frozen=True, slots=True)
class ReadyReported:
    """A worker says that its model is loaded."""

    at: float
    ticket: int
    callback: ReadyCallback


@dataclass(frozen=True, slots=True)
class StatsSeen:
    at: float
    worker_id: str
    stats: WorkerStats


@dataclass(frozen=True, slots=True)
class StatsMissed:
    """A worker did not answer when it was asked for its stats."""

    at: float
    worker_id: str
    why: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """End one worker. `drain_s` None: the configured limit. `ticket` is answered when it is gone."""

    at: float
    ticket: int
    worker_id: str
    drain_s: float | None = None


@dataclass(frozen=True, slots=True)
class ExitAsked:
    """A client wants to know how a worker ended; answered when it has."""

    at: float
    ticket: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkersAsked:
    """A client wants the rows of all workers."""

    at: float
    ticket: int


@dataclass(frozen=True, slots=True)
class DrainBegun:
    """No new workers from now on."""

    at: float


@dataclass(frozen=True, slots=True)
class StopAllAsked:
    """End all workers; `ticket` is answered when the last one is gone."""

    at: float
    ticket: int
    drain_s: float | None = None


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """A worker's process is gone. `successor`: id and key that were drawn for one that may come in its place."""

    at: float
    worker_id: str
    end: ProcessEnd
    successor: tuple[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Measured:
    """A fresh look at devices and host."""

    at: float
    devices: Sequence[Device]
    host: HostSample


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed: one telemetry interval, or what WakeAfter asked for."""

    at: float


Event: TypeAlias = (
    SpawnAsked
    | PreflightDone
    | SpawnFailed
    | ProcessStarted
    | Adopted
    | ReadyReported
    | StatsSeen
    | StatsMissed
    | StopAsked
    | ExitAsked
    | WorkersAsked
    | DrainBegun
    | StopAllAsked
    | ProcessEnded
    | Measured
    | Tick
)


@dataclass(frozen=True, slots=True)
class Preflight:
    """Find the model, read its header, measure the devices; comes back as PreflightDone or SpawnFailed."""

    worker_id: str
    request: SpawnRequest


@dataclass(frozen=True, slots=True)
class StartProcess:
    """Start a worker as `row` says; comes back as ProcessStarted or SpawnFailed.

    `device_name` is llama.cpp's, "" for the CPU. `request` is kept for whoever adopts the worker.
    """

    row: HiveWorker
    request: SpawnRequest
    model: ModelFacts
    device_name: str
    batch: int
    mmap: bool
    load_limit_s: float


@dataclass(frozen=True, slots=True)
class Watch:
    """Wait for the end of a worker's process; comes back as ProcessEnded."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class AskStats:
    """Comes back as StatsSeen or StatsMissed."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class StopProcess:
    """Ask it to drain, then SIGTERM after `drain_s`, then SIGKILL. Its end comes back through Watch."""

    worker_id: str
    drain_s: float
    reason: ExitReason


@dataclass(frozen=True, slots=True)
class WakeAfter:
    """Comes back as a Tick after so many seconds, not earlier."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Bury:
    """Record an exit; remove the worker's log unless it is kept, and the oldest logs that are too many."""

    exit: WorkerExit
    keep_log: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a client."""

    ticket: int
    answer: Any


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer a client with a failure."""

    ticket: int
    error: RbeeError


@dataclass(frozen=True, slots=True)
class Say:
    """Narrate."""

    text: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell all telemetry readers the state as it is now."""


Effect: TypeAlias = (
    Preflight | StartProcess | Watch | AskStats | StopProcess | WakeAfter | Bury | Reply | Refuse | Say | Publish
)
