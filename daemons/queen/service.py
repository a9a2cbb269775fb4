"""The running queen: one task owns the state, every effect runs beside it and comes back as an event."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType
from daemons.contracts.fleet import DrainRequest, ModelRow, NodeStatus
from daemons.contracts.tasks import ENDED, TaskState
from daemons.contracts.telemetry import HiveTelemetry
from daemons.kit.logs import get_logger
from daemons.kit.notices import Notices
from daemons.kit.policy import Policy
from daemons.queen.actions import Actions
from daemons.queen.audience import Audience
from daemons.queen.core import effects as fx
from daemons.queen.core import events as ev
from daemons.queen.core.decide import decide, queen_ends
from daemons.queen.core.state import Limits, Node, State
from daemons.queen.fleet import FleetFeed, FleetView, QueenIdentity
from daemons.queen.hives import Hive
from daemons.queen.ledger import TaskLedger
from daemons.queen.metrics import Metrics
from daemons.queen.nodes import NodeWatcher
from daemons.queen.performer import Performer, Stage
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
    notices: Notices = field(default_factory=Notices)
    start_hives: bool = True


class QueenService:
    """What the runner starts, drains and closes, and what the routes ask."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.policy = parts.policy
        self.store = parts.store
        self.state = State(parts.limits, nodes={name: Node(name, hive.startable) for name, hive in parts.hives.items()})
        self.book = TaskBook(parts.policy.event_keep_s)
        self.audience = Audience(self.state, self.book)
        self.watchers = {name: self._watcher(name, hive) for name, hive in parts.hives.items()}
        self.view = FleetView(parts.identity, self.state, self.watchers, self.book, parts.notices)
        self.feed = FleetFeed(self.view)
        self.metrics = Metrics(self.state)
        self.ledger = TaskLedger(self.book, parts.store, self.feed, self.metrics)
        self.minutes = TelemetryMinutes(parts.store)
        self.actions = Actions(
            self.state, self.watchers, parts.policy, parts.store, self.audience, post=self.post, now=self.now
        )
        self._performer = Performer(self._stage(), self.post, self.now)
        self.closing = asyncio.Event()
        self._ready = asyncio.Event()
        self._settled = asyncio.Event()
        self._inbox: asyncio.Queue[ev.Event | None] = asyncio.Queue()
        self._idle = asyncio.Event()
        self._idle.set()
        self._on_idle: Callable[[], None] = lambda: None
        self._running: asyncio.Task[None] | None = None
        self.stop: Callable[[], None] = lambda: None
        self._shutdown = DrainRequest()

    def _stage(self) -> Stage:
        return Stage(
            self.state,
            self.book,
            self.watchers,
            self.ledger,
            self.actions,
            self.audience,
            self.policy.inference_stall_s,
        )

    def _watcher(self, name: str, hive: Hive) -> NodeWatcher:
        return NodeWatcher(
            name,
            hive,
            self.policy,
            post=self.post,
            say=partial(self.audience.tell_node, name),
            notices=self.parts.notices,
        )

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
        self._performer.cancel()
        for record in list(self.book.live()):
            waits = record.row.state is not TaskState.RUNNING and record.row.detached
            if not waits or self.view.identity.ephemeral:
                self._performer.end_task(fx.EndTask(record.id, record.cut_off()))
            else:
                record.events.leave_to_the_next_queen()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._performer.group = group
            others = [group.create_task(watcher.run()) for watcher in self.watchers.values()]
            others.append(group.create_task(self._each(TICK_S, self._tick)))
            others.append(group.create_task(self._each(CHECKPOINT_S, self.ledger.checkpoint)))
            others.append(group.create_task(self._each(_PRUNE_S, self._prune)))
            if self.parts.start_hives:
                self._start_hives()
            self._note_settled()
            self._ready.set()
            await self._own()
            self._performer.cancel()
            for task in others:
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
            self._performer.perform(effect)
        if isinstance(event, ev.NodeSampled) and self.feed.watched:
            self.feed.publish(EventType.TELEMETRY, self.view.telemetry(event.node, event.sample))
        self.feed.publish_changes()
        self._note_settled()
        if self.state.idle:
            self._idle.set()
            self._on_idle()
        else:
            self._idle.clear()

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
        """Hand a task to the owner; await its `decided` to learn whether it was taken.

        Raises RbeeError(DRAINING) when there is no owner any more, who could decide.
        """
        if self.closing.is_set() or (self._running is not None and self._running.done()):
            raise queen_ends(self.parts.limits)
        record = submission.record(self.policy.event_keep_bytes, self.now())
        self.book.add(record)
        self._idle.clear()
        if submission.restored:
            record.decided.set()  # taken by an earlier queen: a refusal now is an end that is to be kept
        if record.deadline is not None:
            left = max(0.0, record.deadline - time.time())
            record.timer = asyncio.get_running_loop().call_later(left, self._deadline, record)
        self.audience.say(record, "queen", submission.sentence(record), **submission.figures())
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

    # -- time ---------------------------------------------------------------------------------------------------------

    def _deadline(self, record: TaskRecord) -> None:
        self.stop_task(record, record.late())

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
