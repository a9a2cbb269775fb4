"""What is handed to the queen: a generation, or a worker to start; from a request, or from the database."""

import time
from dataclasses import dataclass, field

from daemons.contracts.ids import new_task_id
from daemons.contracts.tasks import Priority, TaskRequest, TaskRow, TaskState
from daemons.contracts.workers import StartWorkerRequest
from daemons.models.references import parse_model_ref
from daemons.queen.core.events import TaskSubmitted
from daemons.queen.core.prefix import prefix_chain
from daemons.queen.core.state import Spec
from daemons.queen.store import StoredTask
from daemons.queen.task_events import TaskEvents
from daemons.queen.tasks import TaskRecord


@dataclass(frozen=True, slots=True)
class Submission:
    """One task to be. `client` is the fingerprint of the key it came with; `deadline` is in unix seconds."""

    request: TaskRequest | StartWorkerRequest
    client: str
    request_id: str
    detached: bool = False
    deadline: float | None = None
    task_id: str = field(default_factory=new_task_id)
    created_at: float = field(default_factory=time.time)
    restored: bool = False

    @property
    def task(self) -> TaskRequest | None:
        """The generation that is asked for; None for a worker alone."""
        return self.request if isinstance(self.request, TaskRequest) else None

    def record(self, keep_bytes: int, now: float) -> TaskRecord:
        """The record of the task. Raises RbeeError(INVALID_MODEL_REF) as `spec` does."""
        spec, task = self.spec(), self.task
        row = TaskRow(
            id=self.task_id,
            state=TaskState.QUEUED,
            model=spec.model,
            priority=task.priority if task else Priority.INTERACTIVE,
            node=spec.node,
            created_at=self.created_at,
            max_tokens=task.max_tokens if task else 0,
            detached=self.detached,
            request_id=self.request_id,
            client=self.client,
        )
        # Milliseconds are more than an earlier queen can have counted of it.
        before = int(time.time() * 1000) if self.restored else 0
        events = TaskEvents(keep_bytes, before)
        return TaskRecord(row, task, events, created=now, starts_worker=task is None, deadline=self._deadline())

    def _deadline(self) -> float | None:
        """The earlier one of what a caller set before and what this request asks for."""
        asked = self.task.timeout_s if self.task else None
        limits = [self.deadline, None if asked is None else self.created_at + asked]
        return min((limit for limit in limits if limit is not None), default=None)

    def spec(self) -> Spec:
        """What the task needs of a worker. Raises RbeeError(INVALID_MODEL_REF)."""
        request = self.request
        name = request.model if isinstance(request, TaskRequest) else request.model_ref
        return Spec(
            model=str(parse_model_ref(name)),
            node=request.node,
            backend=request.backend,
            device=request.device,
            ctx=request.ctx,
            slots=request.slots,
            mmap=request.mmap,
            keep_alive_s=request.keep_alive_s,
        )

    def event(self, record: TaskRecord, now: float) -> TaskSubmitted:
        """What the owner of the state is told."""
        task = self.task
        return TaskSubmitted(
            at=now,
            task_id=record.id,
            spec=self.spec(),
            priority=record.row.priority,
            prefix=prefix_chain(task) if task else (),
            max_tokens=record.row.max_tokens,
            start_only=task is None,
            detached=self.detached,
        )

    def sentence(self, record: TaskRecord) -> str:
        """How the task is announced."""
        if isinstance(self.request, StartWorkerRequest):
            return f"A worker for {record.row.model} is asked for"
        again = " again after a restart of the queen" if self.restored else ""
        return f"Task {record.id} taken{again}: {record.row.model}, at most {record.row.max_tokens} tokens"

    def figures(self) -> dict[str, object]:
        """Fields of that announcement."""
        if isinstance(self.request, StartWorkerRequest):
            return {"model": self.request.model_ref}
        return {
            "model": self.request.model,
            "max_tokens": self.request.max_tokens,
            "priority": self.request.priority.value,
        }


def restored(stored: StoredTask) -> Submission:
    """A task that waited when an earlier queen ended. Its client is gone, so nobody's leaving cancels it."""
    row = stored.row
    return Submission(
        request=stored.request,
        client=row.client,
        request_id=row.request_id,
        detached=True,
        task_id=row.id,
        created_at=row.created_at,
        restored=True,
    )
