"""All workers of a hive, and what follows from each event. One task owns a Registry; nothing in it waits."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Narration
from daemons.contracts.fleet import Accepted
from daemons.contracts.telemetry import Device, HiveTelemetry, HostSample
from daemons.contracts.workers import (
    ExitReason,
    HiveWorker,
    SpawnedWorker,
    SpawnRequest,
    WorkerExit,
    WorkerState,
    WorkerStats,
)
from daemons.hive.core import events as ev
from daemons.hive.core.crashes import Place
from daemons.hive.core.exits import counts_as_crash, describe_end
from daemons.hive.core.placement import Defaults, Placement, is_cpu, place, sentences
from daemons.hive.core.room import rooms
from daemons.hive.core.starts import Effects, Start, Starts
from daemons.hive.core.worker import LIVE, SERVING, Step, WorkerRecord
from daemons.kit.policy import Policy
from daemons.models.fit import readable

RECENT_EXITS = 64


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers that decisions follow. An ephemeral hive keeps no log of a worker that ended well."""

    node: str
    policy: Policy
    defaults: Defaults
    ephemeral: bool = False


class Registry:
    """State of a hive; `handle` changes it and returns what is to be done."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._records: dict[str, WorkerRecord] = {}
        self._starts = Starts(rules.node, rules.policy)
        self._asking: set[str] = set()
        self._exits: deque[WorkerExit] = deque(maxlen=RECENT_EXITS)
        self._all_gone_waiters: list[int] = []
        self._devices: Sequence[Device] = ()
        self._host: HostSample | None = None
        self.draining = False
        self._handlers: Mapping[type[Any], Callable[[Any], Effects]] = {
            ev.SpawnAsked: self._spawn_asked,
            ev.PreflightDone: self._preflight_done,
            ev.SpawnFailed: self._spawn_failed,
            ev.ProcessStarted: self._process_started,
            ev.Adopted: self._adopted,
            ev.ReadyReported: self._ready_reported,
            ev.StatsSeen: self._stats_seen,
            ev.StatsMissed: self._stats_missed,
            ev.StopAsked: self._stop_asked,
            ev.ExitAsked: self._exit_asked,
            ev.WorkersAsked: lambda event: [ev.Reply(event.ticket, self.workers)],
            ev.DrainBegun: self._drain_begun,
            ev.StopAllAsked: self._stop_all_asked,
            ev.ProcessEnded: self._process_ended,
            ev.Measured: self._measured,
            ev.Tick: self._tick,
        }

    def handle(self, event: ev.Event) -> Effects:
        """Take one event in. Raises IllegalTransition on a defect."""
        return self._handlers[type(event)](event)

    # -- what others see ------------------------------------------------------------------------------------------

    @property
    def workers(self) -> list[HiveWorker]:
        """Rows of the workers that have a process, oldest first; then of those that wait after a crash, or failed."""
        return [record.row for record in self._records.values() if record.has_process] + self._starts.rows

    @property
    def worker_keys(self) -> list[str]:
        return [record.row.key for record in self._records.values()]

    def worker_of_key(self, key: str) -> str | None:
        """Id of the worker that was given this key."""
        return next((record.id for record in self._records.values() if record.row.key == key), None)

    def telemetry(self, at: float) -> HiveTelemetry | None:
        """The figures as last measured, with what workers hold taken off; None before the first look."""
        if self._host is None:
            return None
        left = [room.device for room in rooms(self._devices, self._all_rows())]
        return HiveTelemetry(at=at, devices=left, host=self._host, workers=self.workers)

    def _all_rows(self) -> list[HiveWorker]:
        return [record.row for record in self._records.values()]

    # -- spawning -------------------------------------------------------------------------------------------------

    def _spawn_asked(self, event: ev.SpawnAsked) -> Effects:
        if self.draining:
            return [ev.Refuse(event.ticket, _draining())]
        return self._starts.asked(event)

    def _preflight_done(self, event: ev.PreflightDone) -> Effects:
        start = self._starts.get(event.worker_id)
        if start is None:
            return []  # shut down meanwhile
        self._devices = event.devices
        try:
            if self.draining:
                raise _draining()
            placement = self._place(start.request, event)
        except RbeeError as refusal:
            return self._give_up(event.worker_id, refusal)
        record = self._new_record(event, start, placement)
        put_off = self._starts.put_off(start, record.row, event.at)
        return put_off or self._start(event, start, record, placement)

    def _place(self, request: SpawnRequest, event: ev.PreflightDone) -> Placement:
        """Where it goes; places where its model crashed too often are left out. Raises RbeeError."""
        failed = self._starts.failed(event.model.ref)
        barred = {(place.backend, place.device) for place in failed}
        free = rooms(event.devices, self._all_rows())
        usable = [room for room in free if (room.device.backend, room.device.index) not in barred]
        try:
            return place(request, event.model, usable, self._rules.defaults)
        except RbeeError:
            wanted = next((place for place in failed if place.suits(request)), None)
            if wanted is None:
                raise
            raise self._starts.refusal(wanted) from None

    def _start(self, event: ev.PreflightDone, spawn: Start, record: WorkerRecord, placement: Placement) -> Effects:
        self._records[record.id] = record
        said = sentences(placement, event.model)
        spawn.said += [Narration(actor=f"hive {self._rules.node}", text=text, fields=figures) for text, figures in said]
        start = ev.StartProcess(
            row=record.row,
            request=spawn.request,
            model=event.model,
            device_name="" if is_cpu(placement.device) else placement.device.name,
            batch=placement.batch,
            mmap=spawn.request.mmap,
            load_limit_s=self._rules.policy.load_limit_s(event.model.header.file_bytes),
        )
        return [start, *(ev.Say(text, figures) for text, figures in said)]

    def _new_record(self, event: ev.PreflightDone, spawn: Start, placement: Placement) -> WorkerRecord:
        policy, keep, device = self._rules.policy, spawn.request.keep_alive_s, placement.device
        row = HiveWorker(
            id=event.worker_id,
            node=self._rules.node,
            url="",
            model_ref=event.model.ref,
            backend=device.backend,
            device=device.index,
            device_name=device.name,
            state=WorkerState.LOADING,
            slots_total=placement.slots,
            slots_available=0,
            pid=0,
            ctx=placement.context.ctx,
            threads=placement.threads,
            memory_bytes=placement.promised_bytes,
            progress=0.0,
            started_at=event.at,
            last_active_at=event.at,
            idle_limit_s=policy.idle_worker_s if keep is None else keep,
            restarts=self._starts.crashes_at(Place(event.model.ref, device.backend, device.index), event.at),
            key=spawn.key,
        )
        limit_s = policy.load_limit_s(event.model.header.file_bytes)
        return self._record_of(row, spawn.request, event.at, limit_s, "spawned")

    def _record_of(
        self, row: HiveWorker, request: SpawnRequest, at: float, load_limit_s: float, why: str
    ) -> WorkerRecord:
        policy = self._rules.policy
        return WorkerRecord(
            row=row,
            request=request,
            load_deadline=row.started_at + load_limit_s,
            http_deadline=row.started_at + policy.worker_http_s,
            check_due_at=at + policy.health_interval_s,
            history=(Step(at, row.state, why),),
        )

    def _spawn_failed(self, event: ev.SpawnFailed) -> Effects:
        record = self._records.pop(event.worker_id, None)
        effects = self._give_up(event.worker_id, event.error)
        for ticket in (*record.stop_waiters, *record.exit_waiters) if record else ():
            effects.append(ev.Refuse(ticket, event.error))
        return [*effects, *self._all_gone()]

    def _give_up(self, worker_id: str, error: RbeeError) -> Effects:
        start = self._starts.get(worker_id)
        if start is None:
            return []  # shut down meanwhile
        self._starts.pop(worker_id)
        said = ev.Say(f"no worker for {start.request.model_ref}: {error.message}", {"code": error.code.value})
        return [*start.refused(error), said, *self._all_gone(), ev.Publish()]

    def _process_started(self, event: ev.ProcessStarted) -> Effects:
        spawn = self._starts.pop(event.worker_id)
        record = self._records[event.worker_id].with_row(url=event.url, pid=event.pid, command=list(event.command))
        record = replace(
            record,
            # The limits count from when the process began, not from when it was decided.
            load_deadline=record.load_deadline + event.at - record.row.started_at,
            http_deadline=record.http_deadline + event.at - record.row.started_at,
        ).with_row(started_at=event.at)
        self._records[record.id] = record
        text, fields = f"started {record.id} as pid {event.pid} at {event.url}", {"worker": record.id, "pid": event.pid}
        spawn.said.append(Narration(actor=f"hive {self._rules.node}", text=text, fields=fields))
        effects: Effects = [ev.Watch(record.id), ev.Say(text, fields)]
        if record.ending is not None:
            effects.append(ev.StopProcess(record.id, record.drain_s, record.ending))
        if spawn.ticket is not None:
            answer = SpawnedWorker(**record.row.model_dump(), narration=spawn.said)
            effects.append(ev.Reply(spawn.ticket, answer))
        return [*effects, ev.Publish()]

    def _adopted(self, event: ev.Adopted) -> Effects:
        state = event.stats.state
        row = event.row.model_copy(update={"state": state})
        record = self._record_of(row, event.request, event.at, event.load_limit_s, "adopted")
        drained_by = self._drained_by(event.at) if state is WorkerState.DRAINING else None
        self._records[record.id] = replace(_updated(record, event.stats), answered=True, drained_by=drained_by)
        said = ev.Say(f"found {record.id} (pid {record.row.pid}), {state.value}", {"worker": record.id})
        effects: Effects = [ev.Watch(record.id), said, ev.Publish()]
        if state in (WorkerState.UNHEALTHY, WorkerState.FAILED):
            effects += self._end(record.id, ExitReason.UNHEALTHY, 0.0, event.at)
        return effects

    # -- what workers report --------------------------------------------------------------------------------------

    def _ready_reported(self, event: ev.ReadyReported) -> Effects:
        callback = event.callback
        record = self._records.get(callback.id)
        if record is None:
            return [ev.Refuse(event.ticket, _unknown(callback.id))]
        figures = callback.model_dump(mode="json")
        said = ev.Say(f"{record.id} calls back: loaded after {callback.load_ms / 1000:.1f} s", figures)
        effects: Effects = [ev.Reply(event.ticket, Accepted()), said]
        if record.state is not WorkerState.LOADING:
            return effects
        record = record.to(WorkerState.IDLE, event.at, "ready").with_row(
            ctx=callback.ctx,
            slots_total=callback.slots_total,
            slots_available=callback.slots_total,
            progress=1.0,
            last_active_at=event.at,
        )
        self._records[record.id] = replace(record, answered=True)
        return [*effects, ev.Publish()]

    def _stats_seen(self, event: ev.StatsSeen) -> Effects:
        self._asking.discard(event.worker_id)
        before = self._records.get(event.worker_id)
        if before is None or (event.stats.state is WorkerState.LOADING and before.state is not WorkerState.LOADING):
            return []  # gone meanwhile, or an answer that its ready callback overtook
        record = replace(
            _updated(before, event.stats),
            answered=True,
            misses=0,
            check_due_at=event.at + self._rules.policy.health_interval_s,
        )
        reported = event.stats.state
        if before.state is WorkerState.LOADING and reported in SERVING:
            record = record.with_row(last_active_at=max(event.at, record.row.last_active_at))
        if before.state in LIVE and reported in SERVING:
            record = record.to(reported, event.at, "reported")
        self._records[record.id] = record
        if before.state in LIVE and reported not in LIVE:
            return self._left_live(record, reported, event.at)
        changed = (record.state, record.row.slots_available) != (before.state, before.row.slots_available)
        return [ev.Publish()] if changed else []

    def _left_live(self, record: WorkerRecord, reported: WorkerState, at: float) -> Effects:
        """A worker ends by itself (its own SIGTERM, no contact), or says that it is broken."""
        if reported is WorkerState.DRAINING:
            record = replace(record.to(WorkerState.DRAINING, at, "reported"), drained_by=self._drained_by(at))
            self._records[record.id] = record
            return [ev.Say(f"{record.id} drains by itself", {"worker": record.id}), ev.Publish()]
        if record.state is WorkerState.LOADING:
            # It ends by itself once its readers know why; this is for one that does not.
            return self._end(record.id, ExitReason.START_FAILED, self._rules.policy.term_s, at)
        return self._end(record.id, ExitReason.UNHEALTHY, 0.0, at)

    def _drained_by(self, at: float) -> float:
        """When a worker that drains by itself has had the time that a hive would give it."""
        return at + self._rules.policy.drain_s + self._rules.policy.term_s

    def _stats_missed(self, event: ev.StatsMissed) -> Effects:
        self._asking.discard(event.worker_id)
        record = self._records.get(event.worker_id)
        if record is None or record.state not in SERVING or event.at < record.check_due_at:
            return []
        policy = self._rules.policy
        record = replace(record, misses=record.misses + 1, check_due_at=event.at + policy.health_interval_s)
        self._records[record.id] = record
        text = f"{record.id} missed health check {record.misses} of {policy.health_failures}: {event.why}"
        said = ev.Say(text, {"worker": record.id, "misses": record.misses})
        if record.misses < policy.health_failures:
            return [said]
        return [said, *self._end(record.id, ExitReason.UNHEALTHY, 0.0, event.at)]

    # -- ending ---------------------------------------------------------------------------------------------------

    def _stop_asked(self, event: ev.StopAsked) -> Effects:
        record = self._records.get(event.worker_id)
        if record is None:
            cleared = self._starts.shut_down(event.worker_id, event.ticket)
            if cleared is None:
                return [ev.Refuse(event.ticket, _unknown(event.worker_id))]
            return [*cleared, *self._all_gone()]
        self._records[record.id] = replace(record, stop_waiters=(*record.stop_waiters, event.ticket))
        return self._end(record.id, ExitReason.STOPPED, self._drain_s(event.drain_s), event.at)

    def _drain_s(self, asked: float | None) -> float:
        return self._rules.policy.drain_s if asked is None else asked

    def _end(self, worker_id: str, reason: ExitReason, drain_s: float, at: float) -> Effects:
        """Begin to end a worker. One that is being ended already is only hurried, when this leaves it less time."""
        record = self._records[worker_id]
        hurried = record.ending is not None and drain_s < record.drain_s
        if record.ending is not None and not hurried:
            return []
        if record.ending is None:
            record = replace(_leaving(record, reason, at), ending=reason)
        record = replace(record, drain_s=drain_s)
        self._records[worker_id] = record
        assert record.ending is not None
        said = ev.Say(f"ending {worker_id}: {record.ending.value}", {"worker": worker_id, "drain_s": drain_s})
        if not record.has_process:
            return [said]
        return [said, ev.StopProcess(worker_id, drain_s, record.ending), ev.Publish()]

    def _exit_asked(self, event: ev.ExitAsked) -> Effects:
        record = self._records.get(event.worker_id)
        if record is not None:
            self._records[record.id] = replace(record, exit_waiters=(*record.exit_waiters, event.ticket))
            return []
        known = next((found for found in reversed(self._exits) if found.id == event.worker_id), None)
        if known is None:
            return [ev.Refuse(event.ticket, _unknown(event.worker_id))]
        return [ev.Reply(event.ticket, known)]

    def _drain_begun(self, _event: ev.DrainBegun) -> Effects:
        self.draining = True
        return [*self._starts.drop_waiting(_draining()), ev.Publish()]

    def _stop_all_asked(self, event: ev.StopAllAsked) -> Effects:
        self.draining = True
        self._all_gone_waiters.append(event.ticket)
        drain_s = self._drain_s(event.drain_s)
        effects = [
            effect
            for worker_id in list(self._records)
            for effect in self._end(worker_id, ExitReason.HIVE_SHUTDOWN, drain_s, event.at)
        ]
        return [*effects, *self._starts.drop_waiting(_draining()), *self._all_gone()]

    def _all_gone(self) -> Effects:
        if self._records or self._starts:
            return []
        waiters, self._all_gone_waiters = self._all_gone_waiters, []
        return [ev.Reply(ticket, Accepted()) for ticket in waiters]

    def _process_ended(self, event: ev.ProcessEnded) -> Effects:
        record = self._records.pop(event.worker_id)
        self._asking.discard(record.id)
        exit_ = describe_end(record, event.end, event.at)
        self._exits.append(exit_)
        text = f"{record.id} (pid {record.row.pid}, {record.row.model_ref}) is gone: {exit_.reason.value}, {exit_.how}"
        freed = f"; {readable(record.row.memory_bytes)} are free again on {record.row.device_name}"
        failed = {} if exit_.error is None else {"code": exit_.error["code"]}
        effects: Effects = [
            ev.Bury(exit_, keep_log=not (self._rules.ephemeral and exit_.returncode == 0)),
            ev.Say(text + freed, {"worker": record.id, **failed}),
            ev.Publish(),
        ]
        effects += [ev.Reply(ticket, record.row) for ticket in record.stop_waiters]
        effects += [ev.Reply(ticket, exit_) for ticket in record.exit_waiters]
        if counts_as_crash(record, exit_) and not self.draining:
            effects += self._starts.crashed(record, exit_, event.successor)
        return [*effects, *self._all_gone()]

    # -- time -----------------------------------------------------------------------------------------------------

    def _measured(self, event: ev.Measured) -> Effects:
        self._devices, self._host = event.devices, event.host
        return []

    def _tick(self, event: ev.Tick) -> Effects:
        effects: Effects = [ev.Publish(), *self._starts.begin_due(event.at)]
        for record in list(self._records.values()):
            effects += self._due(record, event.at)
            if record.has_process and record.id not in self._asking:
                self._asking.add(record.id)
                effects.append(ev.AskStats(record.id))
        return effects

    def _due(self, record: WorkerRecord, at: float) -> Effects:
        """What time alone has decided about one worker."""
        if not record.has_process or record.ending is not None:
            return []
        if record.state is WorkerState.LOADING:
            late = at >= record.load_deadline or (not record.answered and at >= record.http_deadline)
            return self._end(record.id, ExitReason.LOADING_TIMEOUT, 0.0, at) if late else []
        if record.drained_by is not None:
            late = at >= record.drained_by
            return self._end(record.id, ExitReason.UNHEALTHY, 0.0, at) if late else []
        limit = record.row.idle_limit_s
        idle = record.state is WorkerState.IDLE and record.row.slots_available == record.row.slots_total
        if idle and 0 <= limit <= at - record.row.last_active_at:
            return self._end(record.id, ExitReason.IDLE, self._rules.policy.drain_s, at)
        return []


def _updated(record: WorkerRecord, stats: WorkerStats) -> WorkerRecord:
    """The row with what the worker says of itself; state apart."""
    return record.with_row(
        slots_total=stats.slots_total,
        slots_available=stats.slots_available,
        ctx=stats.ctx or record.row.ctx,
        progress=stats.progress,
        tokens_per_second=stats.tokens_per_second,
        last_active_at=max(stats.last_active_at, record.row.last_active_at),
    )


_LEAVING_TO: Mapping[ExitReason, WorkerState] = {
    ExitReason.UNHEALTHY: WorkerState.UNHEALTHY,
    ExitReason.LOADING_TIMEOUT: WorkerState.FAILED,
    ExitReason.START_FAILED: WorkerState.FAILED,
}


def _leaving(record: WorkerRecord, reason: ExitReason, at: float) -> WorkerRecord:
    """The state that a worker has while it is being ended; one that is on its way out keeps it."""
    if record.state not in LIVE:
        return record
    return record.to(_LEAVING_TO.get(reason, WorkerState.DRAINING), at, reason.value)


def _unknown(worker_id: str) -> RbeeError:
    return RbeeError(Code.WORKER_NOT_FOUND, f"this hive has no worker {worker_id!r}", details={"worker": worker_id})


def _draining() -> RbeeError:
    return RbeeError(Code.DRAINING, "the hive is ending and starts no workers", details={"retry_after_s": 5})
