"""Tasks as the service holds them: the row, the events, and what is needed to run them; ended ones for a while."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Done, EventType, Narration
from daemons.contracts.tasks import ENDED, TaskRequest, TaskRow, TaskState
from daemons.contracts.workers import WorkerRow
from daemons.queen.relay import Relay
from daemons.queen.task_events import TaskEvents

MOST_ENDED_BYTES = 64 * 2**20
"""Events of all ended tasks together; the oldest are forgotten first, before their time."""

MOST_SAID = 200
"""Sentences that are kept of one task, the newest."""

SHOWN_ENDED = 20
"""Ended tasks in a fleet snapshot."""

_HOW_FAR = {
    TaskState.QUEUED: "it still waited for a free slot",
    TaskState.PLACING: "its model was still being loaded",
}


@dataclass(slots=True, eq=False)
class TaskRecord:
    """One task. `created` and `first_token_at` are loop time; `deadline` and what is in the row are unix seconds.

    `generation` is what is to be generated; None when a worker is only started (`starts_worker`; such tasks are in no
    list), and after the end, when nobody needs a long prompt any more.
    `decided` is set when the queen has taken or refused the task; `refusal` is then why it was not taken.
    """

    row: TaskRow
    generation: TaskRequest | None
    events: TaskEvents
    created: float
    starts_worker: bool = False
    deadline: float | None = None
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: RbeeError | None = None
    relay: Relay | None = None
    done: Done | None = None
    raw_done: str = ""
    worker: WorkerRow | None = None
    first_token_at: float | None = None
    checkpoint: int = 0
    narration: deque[tuple[float, Narration]] = field(default_factory=lambda: deque(maxlen=MOST_SAID))
    timer: asyncio.TimerHandle | None = None

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def ended(self) -> bool:
        return self.row.state in ENDED

    def say(self, narration: Narration, at: float) -> None:
        """Tell the readers a sentence."""
        if not self.events.closed:
            self.narration.append((at, narration))
            self.events.add_model(EventType.NARRATION.value, narration)

    def late(self) -> RbeeError:
        """The end of a task whose deadline has passed."""
        limit_s = (self.deadline or 0.0) - self.row.created_at
        return self._not_done(
            Code.DEADLINE_EXCEEDED, f"the task was not done within {limit_s:.3g} s", timeout_s=round(limit_s, 3)
        )

    def cut_off(self) -> RbeeError:
        """The end of a task that its queen has no time for any more."""
        return self._not_done(Code.DRAINING, "the queen ended before the task was done")

    def _not_done(self, code: Code, what: str, **details: object) -> RbeeError:
        """With how far the task had come."""
        done, asked = self.events.tokens, self.row.max_tokens
        how_far = _HOW_FAR.get(self.row.state, f"{done} of {asked} tokens had come")
        so_far = {"state": self.row.state.value, "tokens_done": done, "tokens_asked": asked}
        return RbeeError(code, f"{what}: {how_far}", details={**details, **so_far})

    def shown(self) -> TaskRow:
        """The row with what changes with every token."""
        if self.row.state is TaskState.RUNNING and self.events.tokens != self.row.tokens:
            self.row.tokens = self.events.tokens
        return self.row


class TaskBook:
    """Live tasks, and ended ones until `keep_s` after their end."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._records: dict[str, TaskRecord] = {}
        self._ended: deque[tuple[float, TaskRecord]] = deque()
        self._ended_bytes = 0
        self._last_rows: deque[TaskRow] = deque(maxlen=SHOWN_ENDED)

    def add(self, record: TaskRecord) -> None:
        self._records[record.id] = record

    def find(self, task_id: str) -> TaskRecord | None:
        return self._records.get(task_id)

    def get(self, task_id: str) -> TaskRecord:
        """The record. Raises RbeeError(TASK_NOT_FOUND)."""
        record = self._records.get(task_id)
        if record is None:
            raise task_not_found(task_id)
        return record

    def all(self) -> list[TaskRecord]:
        """Tasks of which rows are told, live and ended."""
        return [record for record in self._records.values() if not record.starts_worker]

    def live(self) -> Iterator[TaskRecord]:
        return (record for record in self._records.values() if not record.ended)

    def rows(self) -> list[TaskRow]:
        """Live tasks and the last that ended, newest first."""
        live = [record.shown() for record in self.live() if not record.starts_worker]
        return sorted([*live, *self._last_rows], key=lambda row: row.created_at, reverse=True)

    def remember_rows(self, rows: list[TaskRow]) -> None:
        """Ended tasks of an earlier queen, newest first."""
        self._last_rows.extendleft(rows)

    def ended(self, record: TaskRecord, now: float) -> None:
        """Keep an ended task for its readers to come."""
        self._ended.append((now, record))
        self._ended_bytes += record.events.size
        if not record.starts_worker:
            self._last_rows.append(record.row)
        self.expire(now)

    def forget(self, record: TaskRecord) -> None:
        """A task that was refused at the door has never been."""
        self._records.pop(record.id, None)

    def expire(self, now: float) -> None:
        """Forget ended tasks whose time is over, or whose events take too much memory together."""
        while self._ended and (self._ended[0][0] + self._keep_s <= now or self._ended_bytes > MOST_ENDED_BYTES):
            _, record = self._ended.popleft()
            self._ended_bytes -= record.events.size
            self._records.pop(record.id, None)


def task_not_found(task_id: str) -> RbeeError:
    return RbeeError(Code.TASK_NOT_FOUND, f"no task {task_id!r} is known here", details={"id": task_id})
