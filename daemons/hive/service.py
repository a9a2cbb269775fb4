"""The running hive: one task owns the registry, effects run beside it and come back as events."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import DrainRequest
from daemons.contracts.ids import new_worker_id
from daemons.contracts.telemetry import HiveTelemetry
from daemons.contracts.workers import (
    HiveWorker,
    ReadyCallback,
    SpawnedWorker,
    SpawnRequest,
    WorkerExit,
    WorkerHealth,
)
from daemons.hive.catalog import Catalog
from daemons.hive.clock import SteadyClock
from daemons.hive.core import events as ev
from daemons.hive.core.exits import ProcessEnd
from daemons.hive.core.registry import Registry
from daemons.hive.instruments import Instruments
from daemons.hive.metrics import Metrics
from daemons.hive.store import HiveStore
from daemons.hive.telemetry import Broadcast
from daemons.hive.worker_logs import prune, remove
from daemons.hive.workers import WorkerProcesses, ended
from daemons.kit.auth import new_key
from daemons.kit.logs import get_logger
from daemons.kit.narration import Narrator
from daemons.kit.notices import Notices
from daemons.kit.paths import Paths
from daemons.kit.policy import Policy
from daemons.kit.procs import ProcessIdentity, wait_exit
from daemons.lifecycle.plan import KEEP_WORKERS_SIGNAL

LIST_WAIT_S = 0.5
"""How long a listing waits for workers that are slow to answer; their rows are then those of the last answer."""

EXIT_WAIT_S = 4.0
"""How long a question for the exit of a worker that still has a process is kept waiting."""

_LAST_EFFECTS_S = 5.0
_CLOCKS_DIFFER_S = 0.002
"""A timer of the event loop may ring that much early by our clock."""
_KILL_MARGIN_S = 15.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a hive is made of. `owner` is the process that an ephemeral hive ends with."""

    paths: Paths
    policy: Policy
    node: str
    registry: Registry
    workers: WorkerProcesses
    instruments: Instruments
    catalog: Catalog
    store: HiveStore
    clock: SteadyClock
    owner: ProcessIdentity | None = None
    notices: Notices = field(default_factory=Notices)


@dataclass(frozen=True, slots=True)
class _Performer:
    """How one kind of effect is done: within how many seconds (None: as long as it takes), and what its failure is."""

    run: Callable[[Any], Awaitable[ev.Event | None]]
    limit_s: Callable[[Any], float | None]
    failed: Callable[[Any, RbeeError], ev.Event | None]


class HiveService:
    """What the runner starts, drains and closes, and what the routes ask."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.broadcast = Broadcast()
        self.metrics = Metrics(self.telemetry)
        self.started_at = parts.clock.now()
        self.measured = asyncio.Event()
        """Devices and host were looked at for the first time."""
        self.ending = asyncio.Event()
        """All that is left to do is to close: streams without an end of their own end now."""
        self._narrator = Narrator(f"hive {parts.node}")
        # An event comes with the context it arose in: what follows from a request is logged with the request's id.
        self._events: asyncio.Queue[tuple[ev.Event, Context] | None] = asyncio.Queue()
        self._tickets: dict[int, asyncio.Future[Any]] = {}
        self._last_ticket = 0
        self._effects: dict[asyncio.Task[None], ev.Effect] = {}
        self._running: asyncio.Task[None] | None = None
        self._stop: Callable[[], None] = lambda: None
        self._shutdown = DrainRequest()
        self._performers = self._table()

    def _table(self) -> Mapping[type[Any], _Performer]:
        policy, now = self.parts.policy, self.parts.clock.now
        start_s = policy.worker_http_s

        def spawn_failed(effect: ev.Preflight | ev.StartProcess, error: RbeeError) -> ev.Event:
            worker_id = effect.worker_id if isinstance(effect, ev.Preflight) else effect.row.id
            return ev.SpawnFailed(now(), worker_id, error)

        return {
            ev.Preflight: _Performer(self._preflight, lambda _: 2 * start_s, spawn_failed),
            ev.StartProcess: _Performer(self.parts.workers.start, lambda _: start_s, spawn_failed),
            ev.Watch: _Performer(
                lambda effect: self.parts.workers.watch(effect.worker_id),
                lambda _: None,
                lambda effect, error: ended(now(), effect.worker_id, ProcessEnd(None, error.message)),
            ),
            ev.AskStats: _Performer(
                lambda effect: self.parts.workers.ask_stats(effect.worker_id),
                lambda _: policy.http_timeout_s + 1.0,
                lambda effect, error: ev.StatsMissed(now(), effect.worker_id, error.message),
            ),
            ev.StopProcess: _Performer(
                self._stop_process,
                lambda effect: effect.drain_s + policy.term_s + _KILL_MARGIN_S,
                lambda _effect, _error: None,
            ),
            ev.WakeAfter: _Performer(self._wake, lambda _: None, lambda _effect, _error: ev.Tick(now())),
            ev.Bury: _Performer(self._bury, lambda _: _LAST_EFFECTS_S, lambda _effect, _error: None),
        }

    # -- life, as the runner drives it ----------------------------------------------------------------------------

    async def start(self, stop: Callable[[], None]) -> None:
        """Find the workers that run, begin to look at the devices. The store is open already."""
        self._stop = stop
        parts = self.parts
        asyncio.get_running_loop().add_signal_handler(
            KEEP_WORKERS_SIGNAL, lambda: self.shut_down(DrainRequest(workers=False))
        )
        self._running = asyncio.create_task(self._run(), name="hive")
        self._running.add_done_callback(lambda _: stop())
        try:
            for adopted in await parts.workers.adopt():
                self._post(adopted)
            alive = {row.id for row in await self.workers()}
            await asyncio.to_thread(prune, parts.paths.logs, alive)
        except BaseException:
            await self.close()
            raise

    def begin_drain(self) -> None:
        """Start no more workers."""
        self._post(ev.DrainBegun(self.parts.clock.now()))

    async def drained(self) -> None:
        """End all workers at once, unless they are to be kept; returns when the last one is gone."""
        if self._shutdown.workers:
            await self._ask(lambda at, ticket: ev.StopAllAsked(at, ticket, self._shutdown.drain_s))

    async def close(self) -> None:
        """End what is left, without patience, and give everything up."""
        if self._running is not None:
            if self._shutdown.workers and self.parts.registry.workers:
                asking = self._ask(lambda at, ticket: ev.StopAllAsked(at, ticket, 0.0))
                await asyncio.wait([asyncio.ensure_future(asking)], timeout=self.parts.policy.term_s + _KILL_MARGIN_S)
            self._events.put_nowait(None)
            running, self._running = self._running, None
            await asyncio.wait([running])
            if running.exception() is not None:
                get_logger().error("the hive broke", exc_info=running.exception())
        self.ending.set()
        self.broadcast.close()
        await self.parts.workers.close()
        await self.parts.store.close()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            others = [
                group.create_task(self._each_interval(self._tick)),
                group.create_task(self._keep_measuring()),
                group.create_task(self.parts.instruments.run()),
            ]
            if self.parts.owner is not None:
                others.append(group.create_task(self._end_with(self.parts.owner)))
            await self._own(group)
            last = [task for task, effect in self._effects.items() if isinstance(effect, ev.Bury | ev.StartProcess)]
            if last:
                await asyncio.wait(last, timeout=_LAST_EFFECTS_S)
            for task in (*others, *self._effects):
                task.cancel()
        for future in self._tickets.values():
            if not future.done():
                future.set_exception(_ended())

    async def _own(self, group: asyncio.TaskGroup) -> None:
        """Take events in, one after the other; whatever waits already is taken in before the state is published."""
        while (first := await self._events.get()) is not None:
            event, context = first
            publish = context.run(self._take_in, event, group)
            while not self._events.empty():
                following = self._events.get_nowait()
                if following is None:
                    return
                event, context = following
                publish |= context.run(self._take_in, event, group)
            state = self.telemetry() if publish else None
            if state is not None:
                self.broadcast.publish(state)

    def _post(self, event: ev.Event) -> None:
        self._events.put_nowait((event, copy_context()))

    def _take_in(self, event: ev.Event, group: asyncio.TaskGroup) -> bool:
        """Let the registry decide, and begin what it wants; whether the state is to be published."""
        try:
            effects = self.parts.registry.handle(event)
        except Exception as error:
            get_logger().error("an event could not be handled", event_type=type(event).__name__, exc_info=error)
            self._refuse(getattr(event, "ticket", 0), RbeeError(Code.INTERNAL, "the hive failed; see its log"))
            return False
        publish = False
        for effect in effects:
            publish |= self._begin(effect, group)
        return publish

    def _begin(self, effect: ev.Effect, group: asyncio.TaskGroup) -> bool:
        """Do what takes no time, begin what does; whether the state is to be published."""
        match effect:
            case ev.Publish():
                return True
            case ev.Reply(ticket, answer):
                self._reply(ticket, answer)
            case ev.Refuse(ticket, refusal):
                self._refuse(ticket, refusal)
            case ev.Say(text, fields):
                self._narrator.say(text, **fields)
            case _:
                # The end of a worker, hours later, is no part of the request that it was started for.
                context = Context() if isinstance(effect, ev.Watch) else None
                task = group.create_task(self._perform(effect), context=context)
                self._effects[task] = effect
                task.add_done_callback(self._effects.pop)
        return False

    async def _perform(self, effect: ev.Effect) -> None:
        performer = self._performers[type(effect)]
        limit_s = performer.limit_s(effect)
        try:
            async with asyncio.timeout(limit_s):
                event = await performer.run(effect)
        except RbeeError as error:
            event = performer.failed(effect, error)
        except TimeoutError:
            message = f"{type(effect).__name__} took longer than {limit_s:g} s"
            get_logger().warning(message)
            event = performer.failed(effect, RbeeError(Code.INTERNAL, message))
        except Exception as error:
            get_logger().error("an effect failed", effect=type(effect).__name__, exc_info=error)
            event = performer.failed(effect, RbeeError(Code.INTERNAL, f"the hive failed: {type(error).__name__}"))
        if event is not None:
            self._post(event)

    def _reply(self, ticket: int, answer: Any) -> None:
        future = self._tickets.get(ticket)
        if future is not None and not future.done():
            future.set_result(answer)

    def _refuse(self, ticket: int, error: RbeeError) -> None:
        future = self._tickets.get(ticket)
        if future is not None and not future.done():
            future.set_exception(error)

    # -- effects --------------------------------------------------------------------------------------------------

    async def _preflight(self, effect: ev.Preflight) -> ev.Event:
        model = await self.parts.catalog.find(effect.request.model_ref)
        devices = await self.parts.instruments.fresh_devices()
        return ev.PreflightDone(self.parts.clock.now(), effect.worker_id, model, devices)

    async def _stop_process(self, effect: ev.StopProcess) -> None:
        await self.parts.workers.stop(effect)

    async def _bury(self, effect: ev.Bury) -> None:
        self.metrics.exited(effect.exit)
        self.parts.store.buried(effect.exit)
        logs = self.parts.paths.logs
        if not effect.keep_log:
            await asyncio.to_thread(remove, logs, effect.exit.id)
        await asyncio.to_thread(prune, logs, {row.id for row in self.parts.registry.workers})

    # -- time -----------------------------------------------------------------------------------------------------

    async def _each_interval(self, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self.parts.policy.telemetry_interval_s)
            await act()

    async def _keep_measuring(self) -> None:
        """The first state is published once the devices are known, or take too long."""
        await self.parts.instruments.first_look()
        await self._measure()
        await self._tick()
        self.measured.set()
        await self._each_interval(self._measure)

    async def _wake(self, effect: ev.WakeAfter) -> ev.Event:
        await asyncio.sleep(effect.seconds + _CLOCKS_DIFFER_S)
        return ev.Tick(self.parts.clock.now())

    async def _tick(self) -> None:
        self._post(ev.Tick(self.parts.clock.now()))

    async def _measure(self) -> None:
        try:
            devices, host = await self.parts.instruments.measure()
        except Exception as error:
            get_logger().error("the machine cannot be measured", exc_info=error)
            return
        self._post(ev.Measured(self.parts.clock.now(), devices, host))

    async def _end_with(self, owner: ProcessIdentity) -> None:
        await wait_exit(owner)
        get_logger().info("the owner is gone", pid=owner.pid)
        self._stop()

    # -- what the routes ask --------------------------------------------------------------------------------------

    async def _ask(self, event: Callable[[float, int], ev.Event]) -> Any:
        """Give the owner of the state an event with a fresh ticket, and wait for its answer."""
        if self._running is None or self._running.done():
            raise _ended()
        self._last_ticket += 1
        ticket = self._last_ticket
        future = self._tickets[ticket] = asyncio.get_running_loop().create_future()
        self._post(event(self.parts.clock.now(), ticket))
        try:
            return await future
        finally:
            del self._tickets[ticket]

    def telemetry(self) -> HiveTelemetry | None:
        sample = self.parts.registry.telemetry(self.parts.clock.now())
        return sample and sample.model_copy(update={"notices": self.parts.notices.rows()})

    async def spawn(self, request: SpawnRequest) -> SpawnedWorker:
        """Start a worker. Raises RbeeError as the catalog, the devices and the placement do, or DRAINING."""
        worker_id, key = new_worker_id(), new_key("worker")
        try:
            spawned: SpawnedWorker = await self._ask(
                lambda at, ticket: ev.SpawnAsked(at, ticket, worker_id, key, request)
            )
        except RbeeError as error:
            self.metrics.spawned(error.code.value)
            raise
        self.metrics.spawned("started")
        return spawned

    async def ready(self, callback: ReadyCallback, key: str) -> None:
        """Take a ready callback. Raises RbeeError(ROLE_FORBIDDEN) when it comes with another worker's key."""
        if self.parts.registry.worker_of_key(key) != callback.id:
            raise RbeeError(Code.ROLE_FORBIDDEN, f"this key is not the one of worker {callback.id!a}")
        await self._ask(lambda at, ticket: ev.ReadyReported(at, ticket, callback))

    async def workers(self) -> list[HiveWorker]:
        """Rows of all workers as last known."""
        rows: list[HiveWorker] = await self._ask(ev.WorkersAsked)
        return rows

    async def workers_asked_now(self) -> list[HiveWorker]:
        """Rows of all workers, each asked now; one that is slow to answer keeps its last row."""
        asking = [asyncio.create_task(self._refresh(row.id)) for row in await self.workers()]
        if asking:
            _, slow = await asyncio.wait(asking, timeout=LIST_WAIT_S)
            for task in slow:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return await self.workers()

    async def _refresh(self, worker_id: str) -> None:
        event = await self.parts.workers.ask_stats(worker_id)
        if event is not None:
            self._post(event)

    async def health(self) -> list[WorkerHealth]:
        """Every worker asked now, with the time its answer took."""
        rows = await self.workers()
        return list(await asyncio.gather(*(self.parts.workers.health(row) for row in rows)))

    async def stop_worker(self, worker_id: str, drain_s: float | None) -> HiveWorker:
        """Drain and end one worker; returns its last row when it is gone. Raises RbeeError(WORKER_NOT_FOUND)."""
        row: HiveWorker = await self._ask(lambda at, ticket: ev.StopAsked(at, ticket, worker_id, drain_s))
        return row

    async def exit_of(self, worker_id: str) -> WorkerExit:
        """How one worker ended; waits a moment for one that is just dying.

        Raises RbeeError: WORKER_NOT_FOUND, also when it goes on living.
        """
        try:
            async with asyncio.timeout(EXIT_WAIT_S):
                found: WorkerExit = await self._ask(lambda at, ticket: ev.ExitAsked(at, ticket, worker_id))
                return found
        except TimeoutError:
            raise RbeeError(
                Code.WORKER_NOT_FOUND, f"worker {worker_id} has not ended", details={"worker": worker_id}
            ) from None
        except RbeeError as error:
            earlier = await self.parts.store.exits(worker_id=worker_id, limit=1)
            if not earlier:
                raise error
            return earlier[0]

    def shut_down(self, request: DrainRequest) -> None:
        """End the hive as SIGTERM would; `workers` false keeps the workers for the next hive."""
        self._shutdown = request
        self._stop()


def _ended() -> RbeeError:
    return RbeeError(Code.DRAINING, "the hive is ending", details={"retry_after_s": 5})
