"""Crashes of workers, counted for each model and device: how often, what of, and when one may be started again."""

from dataclasses import dataclass
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.workers import Backend, ExitReason, HiveWorker, SpawnRequest, WorkerExit, WorkerState
from daemons.kit.restarts import RestartRule, Restarts


@dataclass(frozen=True, slots=True)
class Place:
    """A model on a device. Ordered by nothing, compared by all."""

    model_ref: str
    backend: Backend
    device: int

    @classmethod
    def of(cls, row: HiveWorker) -> "Place":
        return cls(row.model_ref, row.backend, row.device)

    def suits(self, request: SpawnRequest) -> bool:
        """Whether the request's wishes for a device lead, or may lead, here."""
        return request.backend in (None, self.backend) and request.device in (None, self.device)

    def __str__(self) -> str:
        return f"{self.model_ref} on {self.backend.value} {self.device}"


class Crashes:
    """The crashes of one place. `failed_row` is what is listed once there were too many."""

    def __init__(self, place: Place, rule: RestartRule) -> None:
        self.place = place
        self.failed_row: HiveWorker | None = None
        self._rule = rule
        self._restarts = Restarts(rule)
        self._last: WorkerExit | None = None

    @property
    def failed(self) -> bool:
        return self._restarts.failed

    @property
    def next_start_at(self) -> float:
        """Unix seconds."""
        return self._restarts.next_start_at

    def note(self, exit_: WorkerExit) -> None:
        """A worker crashed."""
        self._last = exit_
        self._restarts.crashed(exit_.ended_at)

    def count(self, at: float) -> int:
        """Crashes that still count."""
        fresh = self._last is not None and at - self._last.ended_at < self._rule.window_s
        return self._restarts.count if fresh or self.failed else 0

    def wait_s(self, at: float) -> float:
        """Seconds until a worker may be started here."""
        return self._restarts.wait_s(at)

    @property
    def story(self) -> str:
        """``crashed 2 times within 10 minutes, the last time killed by SIGSEGV while it was busy``."""
        assert self._last is not None, "it is made when a worker crashes"
        count = self._restarts.count
        what = _in_words(self._last)
        if count == 1:
            return f"crashed: {what}"
        return f"crashed {count} times within {_span(self._rule.window_s)}, the last time {what}"

    def fail(self, row: HiveWorker) -> None:
        """List `row` as what failed, until a person shuts it down."""
        problem = f"{self.story}; it is not started again until: rbee workers shutdown --id {row.id}"
        self.failed_row = waiting_row(row, WorkerState.FAILED, self._restarts.count, problem)

    def refusal(self) -> RbeeError:
        """Why no worker is started here."""
        assert self.failed_row is not None
        assert self._last is not None
        details: dict[str, Any] = {
            "model": self.place.model_ref,
            "backend": self.place.backend.value,
            "device": self.place.device,
            "crashes": self._restarts.count,
            "window_s": self._rule.window_s,
            "last": self._last.error,
        }
        return RbeeError(
            Code.WORKER_CRASH_LOOP,
            f"{self.place} {self.story}; it is not started again until a person has looked at it"
            f" (rbee logs --worker {self._last.id})",
            details=details,
            hint=f"rbee workers shutdown --id {self.failed_row.id}",
        )


def waiting_row(row: HiveWorker, state: WorkerState, crashes: int, problem: str, starts_at: float = 0.0) -> HiveWorker:
    """The row of a worker that has no process: it holds nothing and answers nowhere."""
    return row.model_copy(
        update={
            "state": state, "restarts": crashes, "problem": problem, "starts_at": starts_at,
            "url": "", "pid": 0, "command": [], "slots_available": 0, "threads": 0, "memory_bytes": 0,
            "progress": 0.0, "tokens_per_second": 0.0, "started_at": 0.0, "last_active_at": 0.0,
        }
    )  # fmt: skip


def _in_words(exit_: WorkerExit) -> str:
    if exit_.reason is ExitReason.UNHEALTHY:
        return f"it no longer answered and was ended ({exit_.how})"
    memory = "out of memory, " if (exit_.error or {}).get("code") == Code.WORKER_OOM else ""
    return f"{memory}{exit_.how} while it was {exit_.state.value}"


def _span(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 120 else f"{seconds:g} s"
