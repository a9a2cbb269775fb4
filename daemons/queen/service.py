"""The running queen: one task owns the state, every effect runs beside it and comes back as an event."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import structlog

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType, Narration
from daemons.contracts.fleet import DrainRequest, ModelRow, NodeStatus
from daemons.contracts.tasks import ENDED, TaskRequest, TaskState
from daemons.contracts.telemetry import HiveTelemetry
from daemons.kit.logs import get_logger
from daemons.kit.policy import Policy
from daemons.queen.actions import Actions
from daemons.queen.core import effects as fx
from daemons.queen.core import events as ev
from daemons.queen.core.decide import decide, task_place
from daemons.queen.core.state import Limits, Node, State
from daemons.queen.fleet import FleetFeed, FleetView, QueenIdentity, worker_row
from daemons.queen.ledger import TaskLedger
from daemons.queen.metrics import Metrics
from daemons.queen.nodes import Hive, NodeWatcher
from daemons.queen.relay import Relay, RelayJob
from daemons.queen.store import QueenStore, StoredTask, TelemetryMinutes
from daemons.queen.submissions import Submission, restored
from daemons.queen.tasks import TaskBook, TaskRecord

TICK_S = 1.0
CHECKPOINT_S = 2.0
"""How much of a running task's text a crash of the queen may cost."""

_PRUNE_S = 6 * 3600.0
_SETTLE_SHARE = 0.6
"""Of the time that a client gives one try of a request."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a queen is made of. `hives`: node name -> how its hive is found and started."""

    policy: Policy
    limits: Limits
    hives: Mapping[str, Hive]
    store: QueenStore
    identity: QueenIdentity
    start_hives: bool = True


class QueenService:
    """What the runner starts, drains and closes, and what the routes ask."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.policy = parts.policy
        self.store = parts.store
        self.state = State(parts.limits, nodes={name: Node(name, hive.startable) for name, hive in parts.hives.items()})
        self.book = TaskBook(parts.policy.event_keep_s)
        self.watchers = {name: self._watcher(name, hive) for name, hive in parts.hives.items()}
        self.view = FleetView(parts.identity, self.state, self.watchers, self.book)
        self.feed = FleetFeed(self.view)
        self.metrics = Metrics(self.state)
        self.ledger = TaskLedger(self.book, parts.store, self.feed, self.metrics)
        self.minutes = TelemetryMinutes(parts.store)
        self.actions = Actions(self.state, self.watchers, parts.policy, parts.store, self, now=self.now)
        self.closing = asyncio.Event()
        self._ready = asyncio.Event()
        self._settled = asyncio.Event()
        self._inbox: asyncio.Queue[ev.Event | None] = asyncio.Queue()
        self._idle = asyncio.Event()
        self._idle.set()
        self._on_idle: Callable[[], None] = lambda: None
        self._running: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._effects: set[asyncio.Task[None]] = set()
        self.stop: Callable[[], None] = lambda: None
        self._shutdown = DrainRequest()
        self._perform = self._table()

    @staticmethod
    def now() -> float:
        """The clock of all events."""
        return asyncio.get_running_loop().time()

    # -- life, as the runner drives it --------------------------------------------------------------------------------

    async def start(self, stop: Callable[[], None]) -> None:
        """Take up what an earlier queen left, and find the nodes. The store is open already."""
        self.stop = stop
        now = time.time()
        self.store.prune(now, self.policy.history_days)
        waiting = await self.store.recover(now)
        self.book.remember_rows(await self.store.rows(limit=20, states=sorted(ENDED)))
        self._running = asyncio.create_task(self._run(), name="queen")
        self._running.add_done_callback(self._owner_ended)
        for stored in waiting:
            self._take_up(stored)
        await self._ready.wait()

    def _take_up(self, stored: StoredTask) -> None:
        try:
            self.submit(restored(stored))
        except RbeeError as error:
            changes = {"state": TaskState.FAILED, "ended_at": time.time(), "error": error.as_dict()}
            self.store.save([(stored.row.model_copy(update=changes), None)])

    def _owner_ended(self, _running: "asyncio.Task[None]") -> None:
        """Nobody takes events in any more: end the daemon rather than answer for a queen that does nothing."""
        self._ready.set()
        self._idle.set()
        self.stop()

    def begin_drain(self) -> None:
        """Refuse new tasks."""
        self.post(ev.DrainBegun(self.now()))

    async def drained(self) -> None:
        """Return when no task is left, or when the drain time that somebody asked for is over."""
        try:
            async with asyncio.timeout(self._shutdown.drain_s):
                while not self.idle and self._running is not None and not self._running.done():
                    await self._idle.wait()
                    await asyncio.sleep(0)
        except TimeoutError:
            get_logger().warning("cutting what still runs", limit_s=self._shutdown.drain_s)

    async def close(self) -> None:
        """End what is left, then the hives that were started for this queen alone."""
        self.closing.set()
        async with AsyncExitStack() as last_things:  # from the last to the first, each also when others failed
            last_things.push_async_callback(self.store.close)
            last_things.push_async_callback(self._stop_hives)
            last_things.push_async_callback(self.actions.clients.close)
            last_things.callback(self.minutes.flush)
            last_things.callback(self.ledger.save_rows)
            last_things.callback(self.feed.close)
            last_things.push_async_callback(self._end_running)
            self._end_what_is_left()

    async def _end_running(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            self._inbox.put_nowait(None)
            (failure,) = await asyncio.gather(running, return_exceptions=True)
            if failure is not None:
                get_logger().error("the queen's owner had failed", exc_info=failure)

    async def _stop_hives(self) -> None:
        stops = (watcher.hive.stop_if_ours() for watcher in self.watchers.values())
        failures = [failure for failure in await asyncio.gather(*stops, return_exceptions=True) if failure is not None]
        if failures:
            raise failures[0]

    def shut_down(self, request: DrainRequest) -> None:
        """End the queen as SIGTERM would, after at most the drain time of the request."""
        self._shutdown = request
        self.stop()

    def _end_what_is_left(self) -> None:
        """Cut the tasks. Detached ones that still wait stay in the database: the next queen takes them up."""
        for effect in self._effects:
            effect.cancel()
        for record in list(self.book.live()):
            waits = record.row.state is not TaskState.RUNNING and record.row.detached
            if not waits or self.view.identity.ephemeral:
                self._end_task(fx.EndTask(record.id, _cut_off()))

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            others = [group.create_task(watcher.run()) for watcher in self.watchers.values()]
            others.append(group.create_task(self._each(TICK_S, self._tick)))
            others.append(group.create_task(self._each(CHECKPOINT_S, self.ledger.checkpoint)))
            others.append(group.create_task(self._each(_PRUNE_S, self._prune)))
            if self.parts.start_hives:
                self._start_hives()
            self._note_settled()
            self._ready.set()
            await self._own()
            for task in (*others, *self._effects):
                task.cancel()

    def _start_hives(self) -> None:
        for name, watcher in self.watchers.items():
            self._take_in(ev.NodeChanged(self.now(), name, NodeStatus.STARTING))
            watcher.ensure()

    async def _own(self) -> None:
        """Take events in, one after the other, and act on each."""
        while (event := await self._inbox.get()) is not None:
            try:
                self._take_in(event)
            except Exception as error:
                # One bad event must not end the service of all others; the log has the trace.
                get_logger().error("an event was not handled", kind=type(event).__name__, exc_info=error)

    def _take_in(self, event: ev.Event) -> None:
        if isinstance(event, ev.NodeSampled):
            self._note_sample(event.node, event.sample)
        for effect in decide(self.state, event):
            self._act(effect)
        if isinstance(event, ev.NodeSampled) and self.feed.watched:
            self.feed.publish(EventType.TELEMETRY, self.view.telemetry(event.node, event.sample))
        self.feed.publish_changes()
        self._note_settled()
        if self.state.tasks:
            self._idle.clear()
        else:
            self._idle.set()
            self._on_idle()

    def _act(self, effect: fx.Effect) -> None:
        """Begin an effect. One that cannot be begun is answered as one that failed; the others are not held up."""
        try:
            self._perform[type(effect)](effect)
        except Exception as error:
            get_logger().error("an effect was not begun", kind=type(effect).__name__, exc_info=error)
            self._not_begun(effect, RbeeError(Code.INTERNAL, "the queen failed unexpectedly; its log has the trace"))

    def _not_begun(self, effect: fx.Effect, error: RbeeError) -> None:
        match effect:
            case fx.SpawnWorker():
                self.post(ev.LoadFailed(self.now(), effect.load_id, error))
            case fx.EvictWorker():
                self.post(ev.WorkerEvicted(self.now(), effect.worker_id, error))
            case fx.StartRelay():
                self.post(ev.RelayEnded(self.now(), effect.task_id, ev.RelayEnd.FAILED, 0, error))
            case fx.EndTask():
                record = self.book.find(effect.task_id)
                if record is not None and not record.events.closed:
                    record.decided.set()
                    self.ledger.ended(record, error, None, self.now())
            case _:
                pass  # nobody waits for the others

    def _note_settled(self) -> None:
        if any(node.status is NodeStatus.STARTING for node in self.state.nodes.values()):
            self._settled.clear()
        else:
            self._settled.set()

    # -- asked by the routes ------------------------------------------------------------------------------------------

    def post(self, event: ev.Event) -> None:
        """Let something happen."""
        self._inbox.put_nowait(event)

    def submit(self, submission: Submission) -> TaskRecord:
        """Hand a task to the owner; await its `decided` to learn whether it was taken."""
        record = submission.record(self.policy.event_keep_bytes, self.now())
        self.book.add(record)
        self._idle.clear()
        if submission.restored:
            record.decided.set()  # taken by an earlier queen: a refusal now is an end that is to be kept
        if record.deadline is not None:
            left = max(0.0, record.deadline - time.time())
            record.timer = asyncio.get_running_loop().call_later(left, self._deadline, record)
        self.say(record, "queen", submission.sentence(record), **submission.figures())
        self.post(submission.event(record, self.now()))
        return record

    def stop_task(self, record: TaskRecord, why: RbeeError) -> None:
        """End a task early; does nothing to one that has ended."""
        if not record.ended:
            self.post(ev.TaskStopped(self.now(), record.id, why))

    def reader_left(self, record: TaskRecord) -> None:
        """A reader's connection is closed. The last one of an attached task takes the task with it."""
        if record.row.detached or record.ended or record.events.readers:
            return
        get_logger().info("the client is gone, cancelling", task=record.id, request_id=record.row.request_id)
        self.stop_task(record, RbeeError(Code.CANCELLED, "the client of the task is gone"))

    def node(self, name: str) -> Node:
        """A node by its name. Raises RbeeError(NODE_NOT_FOUND)."""
        node = self.state.nodes.get(name)
        if node is None:
            known = list(self.state.nodes)
            raise RbeeError(
                Code.NODE_NOT_FOUND,
                f"no node is called {name}; known: {', '.join(known) or 'none'}",
                details={"node": name, "known": known},
            )
        return node

    async def nodes_settled(self) -> None:
        """Wait, but not for long, until no node is being started: a list asked for right after our own start."""
        try:
            async with asyncio.timeout(_SETTLE_SHARE * self.policy.http_timeout_s):
                await self._settled.wait()
        except TimeoutError:
            pass

    async def models_now(self) -> list[ModelRow]:
        """Models of all nodes, each hive asked now."""
        await self.nodes_settled()
        await asyncio.gather(*(watcher.refresh_models() for watcher in self.watchers.values() if watcher.connected))
        return self.view.models()

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Have `callback` called whenever no task is left."""
        self._on_idle = callback

    @property
    def idle(self) -> bool:
        return self._idle.is_set() and self._inbox.empty()

    # -- what actions tell --------------------------------------------------------------------------------------------

    def say(self, record: TaskRecord, actor: str, text: str, **fields: object) -> None:
        """One sentence about a task, to the log and to its readers."""
        self._tell([record], Narration(actor=actor, text=text, fields=fields))

    def tell_load(self, load_id: int, narration: Narration) -> None:
        self._tell(self._waiters(load_id), narration)

    def pass_on_load(self, load_id: int, kind: str, raw: str) -> None:
        for record in self._waiters(load_id):
            if not record.events.closed:
                record.events.add(kind, raw)

    def _tell(self, records: list[TaskRecord], narration: Narration) -> None:
        ids = {"request_id": records[0].row.request_id, "task": records[0].id} if records else {}
        get_logger().info(narration.text, **{**narration.fields, **ids, "actor": narration.actor})
        at = time.time()
        for record in records:
            record.say(narration, at)

    def _waiters(self, load_id: int) -> list[TaskRecord]:
        load = self.state.loads.get(load_id)
        records = (self.book.find(task_id) for task_id in (load.waiters if load else ()))
        return [record for record in records if record is not None]

    def _watcher(self, name: str, hive: Hive) -> NodeWatcher:
        def say(text: str, **fields: object) -> None:
            loads = [load.id for load in self.state.loads_on(name)]
            waiting = {record.id: record for load_id in loads for record in self._waiters(load_id)}
            self._tell(list(waiting.values()), Narration(actor="queen", text=f"Node {name}: {text}", fields=fields))

        return NodeWatcher(name, hive, self.parts.policy, post=self.post, say=say)

    # -- effects ------------------------------------------------------------------------------------------------------

    def _table(self) -> Mapping[type[Any], Callable[[Any], None]]:
        return {
            fx.TaskChanged: self._task_changed,
            fx.EndTask: self._end_task,
            fx.Narrate: self._narrate,
            fx.WakeAfter: lambda effect: self._wake_after(effect.seconds),
            fx.EnsureNode: lambda effect: self.watchers[effect.node].ensure(),
            fx.WorkerGone: lambda effect: self._begin(self.actions.clients.retire(effect.worker_id)),
            fx.SpawnWorker: self._spawn,
            fx.EvictWorker: self._evict,
            fx.StartRelay: self._start_relay,
            fx.StopRelay: self._stop_relay,
        }

    def _spawn(self, effect: fx.SpawnWorker) -> None:
        def failed(error: RbeeError) -> ev.Event:
            return ev.LoadFailed(self.now(), effect.load_id, error)

        waiters = self._waiters(effect.load_id)
        request_id = waiters[0].row.request_id if waiters else ""
        self._begin(self._guarded(self.actions.spawn(effect), failed), request_id)

    def _evict(self, effect: fx.EvictWorker) -> None:
        def failed(error: RbeeError) -> ev.Event:
            return ev.WorkerEvicted(self.now(), effect.worker_id, error)

        self._begin(self._guarded(self.actions.evict(effect), failed))

    def _start_relay(self, effect: fx.StartRelay) -> None:
        record, worker = self.book.get(effect.task_id), self.state.workers[effect.worker_id]

        def failed(error: RbeeError) -> ev.Event:
            return ev.RelayEnded(self.now(), record.id, ev.RelayEnd.FAILED, record.events.tokens, error)

        generation = record.generation
        assert generation is not None
        relay = Relay(
            self._job(record, generation, effect.worker_id),
            record.events,
            on_first_token=lambda: self._first_token(record),
        )
        record.relay = relay
        self._begin(
            self._guarded(self.actions.relay(record, relay, worker.row, worker.node), failed), record.row.request_id
        )

    def _job(self, record: TaskRecord, generation: TaskRequest, worker_id: str) -> RelayJob:
        return RelayJob(
            task_id=record.id,
            worker_id=worker_id,
            request=generation,
            max_tokens=record.row.max_tokens,
            request_id=record.row.request_id,
            deadline=record.deadline,
            stall_s=self.policy.inference_stall_s,
        )

    def _stop_relay(self, effect: fx.StopRelay) -> None:
        record, task = self.book.find(effect.task_id), self.state.tasks.get(effect.task_id)
        if record is not None and record.relay is not None and task is not None and task.stopping is not None:
            record.relay.stop(task.stopping)

    def _begin(self, work: Coroutine[Any, Any, None], request_id: str = "") -> None:
        """Run work beside the owner; its log lines carry the request's id."""
        assert self._group is not None
        with structlog.contextvars.bound_contextvars(**({"request_id": request_id} if request_id else {})):
            task = self._group.create_task(work)
        self._effects.add(task)
        task.add_done_callback(self._effects.discard)

    async def _guarded(self, work: Coroutine[Any, Any, ev.Event], failed: Callable[[RbeeError], ev.Event]) -> None:
        """Whatever happens, an event comes back."""
        try:
            event = await work
        except RbeeError as error:
            event = failed(error)
        except Exception as error:
            get_logger().error("an effect failed", exc_info=error)
            event = failed(RbeeError(Code.INTERNAL, "the queen failed unexpectedly; its log has the trace"))
        self.post(event)

    def _narrate(self, effect: fx.Narrate) -> None:
        records = [record for record in map(self.book.find, effect.task_ids) if record is not None]
        if records:
            self._tell(records, Narration(actor=effect.actor, text=effect.text, fields=dict(effect.fields)))

    def _wake_after(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, lambda: self.post(ev.Tick(self.now())))

    def _task_changed(self, effect: fx.TaskChanged) -> None:
        record, task = self.book.find(effect.task_id), self.state.tasks.get(effect.task_id)
        if record is not None and task is not None:
            self.ledger.placed(record, task_place(self.state, task))

    def _end_task(self, effect: fx.EndTask) -> None:
        record = self.book.find(effect.task_id)
        if record is None:
            return
        if record.timer is not None:
            record.timer.cancel()
        if not record.decided.is_set() and effect.error is not None:
            self.ledger.refused(record, effect.error)
            return
        worker = self.state.workers.get(record.row.worker_id or "")
        self.ledger.ended(record, effect.error, worker_row(worker) if worker else None, self.now())

    # -- time ---------------------------------------------------------------------------------------------------------

    def _first_token(self, record: TaskRecord) -> None:
        record.first_token_at = self.now()

    def _deadline(self, record: TaskRecord) -> None:
        limit = record.deadline - record.row.created_at if record.deadline else 0.0
        why = RbeeError(
            Code.DEADLINE_EXCEEDED,
            f"the task was not done within {limit:.3g} s",
            details={"timeout_s": round(limit, 3), "tokens_done": record.events.tokens},
        )
        self.stop_task(record, why)

    async def _each(self, seconds: float, work: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                work()
            except Exception as error:
                # What failed for now is done the next time; the service goes on.
                get_logger().error("regular work failed", work=work.__name__, exc_info=error)

    def _tick(self) -> None:
        self.post(ev.Tick(self.now()))
        self.book.expire(self.now())
        if self.feed.watched:
            for record in self.book.live():
                before = record.row.tokens
                if not record.starts_worker and record.shown().tokens != before:
                    self.feed.publish(EventType.TASK, record.row)

    def _prune(self) -> None:
        self.store.prune(time.time(), self.policy.history_days)

    def _note_sample(self, node: str, sample: HiveTelemetry) -> None:
        now = time.time()
        self.view.last_seen[node] = now
        self.minutes.add(node, sample, now)


def _cut_off() -> RbeeError:
    return RbeeError(Code.DRAINING, "the queen ended before the task was done; its text so far is kept")
