"""What becomes of a task's row: told to the fleet's readers, counted, and stored."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType, Narration
from daemons.contracts.tasks import TaskRequest, TaskRow, TaskState
from daemons.contracts.workers import WorkerRow
from daemons.kit.logs import get_logger
from daemons.queen.fleet import FleetFeed
from daemons.queen.metrics import Metrics
from daemons.queen.store import QueenStore
from daemons.queen.tasks import TaskBook, TaskRecord

SAVE_LATER_S = 0.25
"""How long a row may wait to be stored."""

_SHORTEST_S, _LONGEST_S = 0.001, 86_400.0
"""Time limits that a request may have."""


class TaskLedger:
    """Keeps the rows of tasks. Called by the owner of the state, in the order of what happened."""

    def __init__(self, book: TaskBook, store: QueenStore, feed: FleetFeed, metrics: Metrics) -> None:
        self._book = book
        self._store = store
        self._feed = feed
        self._metrics = metrics
        self._unsaved: dict[str, TaskRecord] = {}

    def placed(self, record: TaskRecord, place: Mapping[str, Any]) -> None:
        """The task was taken, or is somewhere else than before: `state`, `node`, `worker_id`, `queue_position`."""
        record.decided.set()
        if all(getattr(record.row, name) == value for name, value in place.items()):
            return
        started_at = record.row.started_at
        if place["state"] is TaskState.RUNNING and started_at is None:
            started_at = time.time()
        record.row = record.row.model_copy(update={**place, "started_at": started_at})
        self._publish(record)

    def refused(self, record: TaskRecord, error: RbeeError) -> None:
        """The task was not taken: it has never been."""
        record.refusal = error
        record.row = record.row.model_copy(update={"state": TaskState.FAILED})
        self._book.forget(record)
        self._metrics.refused(error.code)
        record.decided.set()

    def ended(self, record: TaskRecord, error: RbeeError | None, worker: WorkerRow | None, now: float) -> None:
        """The task is over. `worker` is what a task that starts one has made; `now` is loop time."""
        record.row = _ended_row(record, error)
        if error is not None:
            self._end_with_error(record, error)
        elif record.starts_worker:
            row = worker.model_dump(mode="json", exclude_none=True) if worker else {}
            record.events.add(EventType.WORKER.value, json.dumps(row))
            record.events.add(EventType.DONE.value, json.dumps({"done": True, "worker": row}))
        else:
            record.events.add(EventType.DONE.value, record.raw_done)
        self._metrics.task_ended(record)
        record.generation = record.relay = record.timer = record.done = None
        record.raw_done = ""
        self._book.ended(record, now)
        self._publish(record)

    @staticmethod
    def _end_with_error(record: TaskRecord, error: RbeeError) -> None:
        row = record.row
        get_logger().warning(error.message, code=error.code.value, task=row.id, request_id=row.request_id)
        sentence = Narration(actor="queen", text=f"Task ended: {error.message}", fields={"code": error.code.value})
        record.narration.append((time.time(), sentence))
        record.events.add(EventType.ERROR.value, json.dumps(error.as_dict(), default=str))

    def _publish(self, record: TaskRecord) -> None:
        """Tell the fleet's readers, and have the row stored.

        A row that must survive a crash from now on (the task waits, or its client was told that it may leave) is stored
        at once; others a little later, because on a single core the database would delay their first token.
        """
        if record.starts_worker:
            return
        self._feed.publish(EventType.TASK, record.row)
        self._unsaved[record.id] = record
        if record.row.state is TaskState.QUEUED or (record.row.detached and not record.ended):
            self.save_rows()
        elif len(self._unsaved) == 1:
            asyncio.get_running_loop().call_later(SAVE_LATER_S, self.save_rows)

    def save_rows(self) -> None:
        """Hand all rows that are not stored yet to the database; reads come behind them. Never raises.

        What could not be handed over is tried again with the next checkpoint.
        """
        records, self._unsaved = self._unsaved, {}
        try:
            self._save(list(records.values()))
        except Exception as error:
            get_logger().error("rows of tasks were not stored", tasks=list(records), exc_info=error)
            self._unsaved = {**records, **self._unsaved}

    def _save(self, records: list[TaskRecord]) -> None:
        self._store.save([(record.row, _to_take_up(record)) for record in records])
        ended = [record for record in records if record.ended]
        self._store.narrated([(record.id, at, told) for record in ended for at, told in record.narration])
        for record in ended:
            record.narration.clear()
        for record in ended:
            if record.row.state is not TaskState.COMPLETED and record.events.tokens:
                self._store.save_text(record.id, record.events.tokens, record.events.text)
            elif record.checkpoint:
                self._store.drop_text(record.id)

    def checkpoint(self) -> None:
        """Keep the text of running tasks that have grown, and rows that are still to be stored."""
        self.save_rows()
        for record in self._book.live():
            tokens = record.events.tokens
            if tokens > record.checkpoint:
                record.checkpoint = tokens
                self._store.save_text(record.id, tokens, record.events.text)


def _to_take_up(record: TaskRecord) -> TaskRequest | None:
    """What a later queen needs to run the task; the deadline of the request's header is in its time limit."""
    if record.generation is None or record.deadline is None:
        return record.generation
    left = min(max(record.deadline - record.row.created_at, _SHORTEST_S), _LONGEST_S)
    return record.generation.model_copy(update={"timeout_s": left})


def _ended_row(record: TaskRecord, error: RbeeError | None) -> TaskRow:
    done = record.done
    changes: dict[str, Any] = {"ended_at": time.time(), "queue_position": None, "state": TaskState.COMPLETED}
    if error is not None:
        error.request_id = error.request_id or record.row.request_id
        state = TaskState.CANCELLED if error.code is Code.CANCELLED else TaskState.FAILED
        changes |= {"state": state, "error": error.as_dict(), "tokens": record.events.tokens}
    elif done is not None:
        changes |= {"tokens": done.total_tokens, "usage": done.usage, "timings": done.timings}
        changes |= {"finish_reason": done.finish_reason.value}
    return record.row.model_copy(update=changes)
