"""Performs the effects that the core decides: at once, or as work beside the owner that comes back as one event."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Narration
from daemons.contracts.tasks import TaskRequest
from daemons.kit.logs import get_logger
from daemons.queen.actions import Actions
from daemons.queen.audience import Audience
from daemons.queen.core import effects as fx
from daemons.queen.core import events as ev
from daemons.queen.core.decide import task_place
from daemons.queen.core.state import State
from daemons.queen.fleet import worker_row
from daemons.queen.ledger import TaskLedger
from daemons.queen.nodes import NodeWatcher
from daemons.queen.relay import Relay, RelayJob
from daemons.queen.tasks import TaskBook, TaskRecord

_FAILED = "the queen failed unexpectedly; its log has the trace"


@dataclass(frozen=True, slots=True)
class Stage:
    """What effects act on and with."""

    state: State
    book: TaskBook
    watchers: Mapping[str, NodeWatcher]
    ledger: TaskLedger
    actions: Actions
    audience: Audience
    stall_s: float


class Performer:
    """Begins each effect. `post` takes the events that come back; `group`, set while the queen runs, holds the work."""

    def __init__(self, stage: Stage, post: Callable[[ev.Event], None], now: Callable[[], float]) -> None:
        self.group: asyncio.TaskGroup | None = None
        self._stage = stage
        self._post = post
        self._now = now
        self._work: set[asyncio.Task[None]] = set()
        self._table: Mapping[type[Any], Callable[[Any], None]] = {
            fx.TaskChanged: self._task_changed,
            fx.EndTask: self.end_task,
            fx.Narrate: self._narrate,
            fx.WakeAfter: self._wake_after,
            fx.EnsureNode: lambda effect: stage.watchers[effect.node].ensure(),
            fx.WorkerGone: lambda effect: self._begin(stage.actions.clients.retire(effect.worker_id)),
            fx.SpawnWorker: self._spawn,
            fx.EvictWorker: self._evict,
            fx.StartRelay: self._start_relay,
            fx.StopRelay: self._stop_relay,
        }

    def perform(self, effect: fx.Effect) -> None:
        """Begin an effect. One that cannot be begun is answered as one that failed; the others are not held up."""
        try:
            self._table[type(effect)](effect)
        except Exception as error:
            get_logger().error("an effect was not begun", kind=type(effect).__name__, exc_info=error)
            self._not_begun(effect, RbeeError(Code.INTERNAL, _FAILED))

    def cancel(self) -> None:
        """Cut all work that is under way."""
        for task in self._work:
            task.cancel()

    def _not_begun(self, effect: fx.Effect, error: RbeeError) -> None:
        match effect:
            case fx.SpawnWorker():
                self._post(ev.LoadFailed(self._now(), effect.load_id, error))
            case fx.EvictWorker():
                self._post(ev.WorkerEvicted(self._now(), effect.worker_id, error))
            case fx.StartRelay():
                self._post(ev.RelayEnded(self._now(), effect.task_id, ev.RelayEnd.FAILED, 0, error))
            case fx.EndTask():
                record = self._stage.book.find(effect.task_id)
                if record is not None and not record.events.closed:
                    record.decided.set()
                    self._stage.ledger.ended(record, error, None, self._now())
            case _:
                pass  # nobody waits for the others

    # -- work beside the owner ----------------------------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, None], request_id: str = "") -> None:
        """Run work beside the owner; its log lines carry the request's id."""
        assert self.group is not None
        with structlog.contextvars.bound_contextvars(**({"request_id": request_id} if request_id else {})):
            task = self.group.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _guarded(self, work: Coroutine[Any, Any, ev.Event], failed: Callable[[RbeeError], ev.Event]) -> None:
        """Whatever happens, an event comes back."""
        try:
            event = await work
        except RbeeError as error:
            event = failed(error)
        except Exception as error:
            get_logger().error("an effect failed", exc_info=error)
            event = failed(RbeeError(Code.INTERNAL, _FAILED))
        self._post(event)

    def _spawn(self, effect: fx.SpawnWorker) -> None:
        def failed(error: RbeeError) -> ev.Event:
            return ev.LoadFailed(self._now(), effect.load_id, error)

        waiters = self._stage.audience.waiters(effect.load_id)
        request_id = waiters[0].row.request_id if waiters else ""
        deadline = latest_deadline(record.deadline for record in waiters)
        self._begin(self._guarded(self._stage.actions.spawn(effect, deadline), failed), request_id)

    def _evict(self, effect: fx.EvictWorker) -> None:
        def failed(error: RbeeError) -> ev.Event:
            return ev.WorkerEvicted(self._now(), effect.worker_id, error)

        self._begin(self._guarded(self._stage.actions.evict(effect), failed))

    def _start_relay(self, effect: fx.StartRelay) -> None:
        record, worker = self._stage.book.get(effect.task_id), self._stage.state.workers[effect.worker_id]

        def failed(error: RbeeError) -> ev.Event:
            return ev.RelayEnded(self._now(), record.id, ev.RelayEnd.FAILED, record.events.tokens, error)

        def first_token() -> None:
            record.first_token_at = self._now()

        generation = record.generation
        assert generation is not None
        relay = Relay(self._job(record, generation, effect.worker_id), record.events, on_first_token=first_token)
        record.relay = relay
        work = self._stage.actions.relay(record, relay, worker.row, worker.node)
        self._begin(self._guarded(work, failed), record.row.request_id)

    def _job(self, record: TaskRecord, generation: TaskRequest, worker_id: str) -> RelayJob:
        return RelayJob(
            task_id=record.id,
            worker_id=worker_id,
            request=generation,
            max_tokens=record.row.max_tokens,
            request_id=record.row.request_id,
            deadline=record.deadline,
            stall_s=self._stage.stall_s,
        )

    # -- done at once -------------------------------------------------------------------------------------------------

    def _stop_relay(self, effect: fx.StopRelay) -> None:
        record, task = self._stage.book.find(effect.task_id), self._stage.state.tasks.get(effect.task_id)
        if record is not None and record.relay is not None and task is not None and task.stopping is not None:
            record.relay.stop(task.stopping)

    def _narrate(self, effect: fx.Narrate) -> None:
        narration = Narration(actor=effect.actor, text=effect.text, fields=dict(effect.fields))
        self._stage.audience.tell_tasks(effect.task_ids, narration)

    def _wake_after(self, effect: fx.WakeAfter) -> None:
        asyncio.get_running_loop().call_later(effect.seconds, lambda: self._post(ev.Tick(self._now())))

    def _task_changed(self, effect: fx.TaskChanged) -> None:
        record, task = self._stage.book.find(effect.task_id), self._stage.state.tasks.get(effect.task_id)
        if record is not None and task is not None:
            self._stage.ledger.placed(record, task_place(self._stage.state, task))

    def end_task(self, effect: fx.EndTask) -> None:
        """Keep how a task ended, and tell its readers."""
        record = self._stage.book.find(effect.task_id)
        if record is None:
            return
        if record.timer is not None:
            record.timer.cancel()
        if not record.decided.is_set() and effect.error is not None:
            self._stage.ledger.refused(record, effect.error)
            return
        worker = self._stage.state.workers.get(record.row.worker_id or "")
        self._stage.ledger.ended(record, effect.error, worker_row(worker) if worker else None, self._now())


def latest_deadline(deadlines: Iterable[float | None]) -> float | None:
    """When nobody needs a common work any more; None as soon as one of them would wait for ever."""
    known = list(deadlines)
    return None if not known or None in known else max(limit for limit in known if limit is not None)
