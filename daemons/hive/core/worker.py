"""One worker as the hive knows it, and the table of its states.

loading -> idle <-> busy -> draining -> (gone)
loading, idle, busy, draining, unhealthy -> failed -> (gone)
idle, busy -> unhealthy -> (gone)

Rows that wait after a crash have no record here, see `starts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from daemons.contracts.workers import ExitReason, HiveWorker, SpawnRequest, WorkerState

_S = WorkerState
TRANSITIONS: Mapping[WorkerState, frozenset[WorkerState]] = {
    _S.RESTARTING: frozenset(),
    _S.LOADING: frozenset({_S.IDLE, _S.BUSY, _S.DRAINING, _S.FAILED}),
    _S.IDLE: frozenset({_S.BUSY, _S.DRAINING, _S.UNHEALTHY, _S.FAILED}),
    _S.BUSY: frozenset({_S.IDLE, _S.DRAINING, _S.UNHEALTHY, _S.FAILED}),
    _S.DRAINING: frozenset({_S.FAILED}),
    _S.UNHEALTHY: frozenset({_S.FAILED}),
    _S.FAILED: frozenset(),
}

SERVING = frozenset({_S.IDLE, _S.BUSY})
LIVE = SERVING | {_S.LOADING}
"""States in which nobody has decided yet that the worker ends."""

HISTORY_KEPT = 64


@dataclass(frozen=True, slots=True)
class Step:
    """One change of state: when (unix seconds), to what, why."""

    at: float
    state: WorkerState
    why: str


class IllegalTransition(Exception):
    """A change of state that the table does not allow: a defect of the caller. Carries the worker's history."""

    def __init__(self, worker_id: str, asked: WorkerState, history: tuple[Step, ...]) -> None:
        passed = " -> ".join(f"{step.state.value} ({step.why})" for step in history)
        super().__init__(f"worker {worker_id} cannot become {asked.value}; history: {passed}")
        self.history = history


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker that has, or is about to get, a process. `row` is what others see of it, `request` what it was made of.

    `load_deadline` and `check_due_at` are unix seconds; `misses` counts failed health checks in a row; `answered` says
    whether its HTTP ever answered; `drained_by` is when one that drains by itself must have ended (unix seconds);
    `ending` is why it is being ended, None while nobody wants that; `stop_waiters` and `exit_waiters` are the tickets
    of clients that wait for its end.
    """

    row: HiveWorker
    request: SpawnRequest
    load_deadline: float
    http_deadline: float
    check_due_at: float
    history: tuple[Step, ...]
    misses: int = 0
    answered: bool = False
    drained_by: float | None = None
    ending: ExitReason | None = None
    drain_s: float = 0.0
    stop_waiters: tuple[int, ...] = field(default=())
    exit_waiters: tuple[int, ...] = field(default=())

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def state(self) -> WorkerState:
        return self.row.state

    @property
    def has_process(self) -> bool:
        return self.row.has_process

    def to(self, state: WorkerState, at: float, why: str) -> "WorkerRecord":
        """This worker in another state; the same state again changes nothing. Raises IllegalTransition."""
        if state is self.state:
            return self
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(self.id, state, self.history)
        history = (*self.history, Step(at, state, why))[-HISTORY_KEPT:]
        return replace(self.with_row(state=state), history=history)

    def with_row(self, **fields: Any) -> "WorkerRecord":
        """This worker with some fields of its row changed."""
        return replace(self, row=self.row.model_copy(update=fields))
