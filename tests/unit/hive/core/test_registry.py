"""From events to effects: each step of a worker's life, and what holds in every order of events."""

from typing import Any, TypeVar

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.telemetry import Device
from daemons.contracts.workers import (
    ExitReason,
    HiveWorker,
    ReadyCallback,
    SpawnedWorker,
    SpawnRequest,
    WorkerExit,
    WorkerState,
)
from daemons.hive.core import events as ev
from daemons.hive.core.exits import ProcessEnd
from daemons.hive.core.placement import Defaults
from daemons.hive.core.registry import Registry, Rules
from daemons.kit.policy import Policy
from tests.support.hive_rows import GIB, MIB, cpu, host, model, stats, worker

POLICY = Policy(
    load_base_s=100.0,
    load_per_gib_s=0.0,
    worker_http_s=10.0,
    health_interval_s=30.0,
    health_failures=3,
    idle_worker_s=50.0,
    drain_s=7.0,
    term_s=2.0,
)
WORKER = "w-00000001"
EffectT = TypeVar("EffectT")


def of(effects: list[ev.Effect], kind: type[EffectT]) -> list[EffectT]:
    return [effect for effect in effects if isinstance(effect, kind)]


def only(effects: list[ev.Effect], kind: type[EffectT]) -> EffectT:
    (found,) = of(effects, kind)
    return found


class Hive:
    """A registry and shorthand for what happens to it; `effects` are those of the last event."""

    def __init__(self, *, ephemeral: bool = False, devices: tuple[Device, ...] | None = None) -> None:
        self.registry = Registry(Rules("local", POLICY, Defaults(), ephemeral))
        self.devices = devices or (cpu(),)
        self.effects: list[ev.Effect] = []
        self.ticket = 0

    def happens(self, event: ev.Event) -> list[ev.Effect]:
        self.effects = self.registry.handle(event)
        return self.effects

    def next_ticket(self) -> int:
        self.ticket += 1
        return self.ticket

    def ask_spawn(self, worker_id: str = WORKER, at: float = 100.0, **fields: Any) -> int:
        request = SpawnRequest.model_validate({"model_ref": "demo", **fields})
        ticket = self.next_ticket()
        self.happens(ev.SpawnAsked(at, ticket, worker_id, f"key-of-{worker_id}", request))
        return ticket

    def start(self, worker_id: str = WORKER, at: float = 100.0, weights: int = 100 * MIB, **fields: Any) -> int:
        """As far as a running process; returns the ticket of the spawn."""
        ticket = self.ask_spawn(worker_id, at, **fields)
        self.happens(ev.PreflightDone(at, worker_id, model(weights, ref="demo"), self.devices))
        self.happens(ev.ProcessStarted(at, worker_id, 4711, "http://127.0.0.1:8001", ["worker", "serve"]))
        return ticket

    def ready(self, worker_id: str = WORKER, at: float = 110.0) -> int:
        ticket = self.next_ticket()
        self.happens(ev.ReadyReported(at, ticket, callback(worker_id)))
        return ticket

    def loaded(self, worker_id: str = WORKER, **fields: Any) -> None:
        self.start(worker_id, **fields)
        self.ready(worker_id)

    def stop(self, worker_id: str = WORKER, at: float = 200.0, drain_s: float | None = None) -> int:
        ticket = self.next_ticket()
        self.happens(ev.StopAsked(at, ticket, worker_id, drain_s))
        return ticket

    def end(self, worker_id: str = WORKER, at: float = 210.0, returncode: int | None = 0) -> None:
        successor = (f"{worker_id}-next", f"key-of-{worker_id}-next")
        self.happens(ev.ProcessEnded(at, worker_id, ProcessEnd(returncode, "ended"), successor))

    def row(self, worker_id: str = WORKER) -> HiveWorker:
        return next(row for row in self.registry.workers if row.id == worker_id)


def callback(worker_id: str = WORKER) -> ReadyCallback:
    return ReadyCallback.model_validate(
        {
            "id": worker_id,
            "url": "http://127.0.0.1:8001",
            "model_ref": "demo",
            "backend": "cpu",
            "device": 0,
            "pid": 4711,
            "slots_total": 4,
            "ctx": 2048,
            "load_ms": 12.0,
        }
    )


@pytest.fixture
def hive() -> Hive:
    return Hive()


# -- spawning


def test_a_spawn_is_looked_into_first(hive: Hive) -> None:
    hive.ask_spawn(model_ref="demo")
    assert only(hive.effects, ev.Preflight).request.model_ref == "demo"
    assert hive.registry.workers == []


def test_then_placed_and_started_with_what_was_chosen(hive: Hive) -> None:
    hive.ask_spawn(slots=2, mmap=False)
    hive.happens(ev.PreflightDone(101.0, WORKER, model(), hive.devices))
    start = only(hive.effects, ev.StartProcess)
    assert (start.row.slots_total, start.row.ctx, start.row.threads, start.mmap) == (2, 2048, 2, False)
    assert start.device_name == "", "llama.cpp's own name is for accelerators"
    assert start.load_limit_s == 100.0
    assert hive.registry.workers == [], "no process yet"
    assert hive.registry.worker_keys == [f"key-of-{WORKER}"], "it may call back before we know its pid"


def test_then_answered_with_the_row_and_what_was_decided(hive: Hive) -> None:
    ticket = hive.start()
    reply = only(hive.effects, ev.Reply)
    assert reply.ticket == ticket
    assert isinstance(reply.answer, SpawnedWorker)
    assert (reply.answer.state, reply.answer.pid, reply.answer.url) == (
        WorkerState.LOADING,
        4711,
        "http://127.0.0.1:8001",
    )
    assert [said.actor for said in reply.answer.narration] == ["hive local"] * 3
    assert only(hive.effects, ev.Watch).worker_id == WORKER
    assert of(hive.effects, ev.Publish)


def test_a_model_that_cannot_be_used_is_refused(hive: Hive) -> None:
    ticket = hive.ask_spawn()
    error = RbeeError(Code.MODEL_NOT_FOUND, "nothing there")
    hive.happens(ev.SpawnFailed(101.0, WORKER, error))
    assert only(hive.effects, ev.Refuse) == ev.Refuse(ticket, error)


def test_a_placement_that_fails_is_refused_and_promises_nothing(hive: Hive) -> None:
    ticket = hive.ask_spawn()
    hive.happens(ev.PreflightDone(101.0, WORKER, model(9 * GIB), hive.devices))
    refused = only(hive.effects, ev.Refuse)
    assert (refused.ticket, refused.error.code) == (ticket, Code.RAM_INSUFFICIENT)
    assert hive.registry.worker_keys == []


def test_a_process_that_cannot_be_started_frees_what_was_promised(hive: Hive) -> None:
    ticket = hive.ask_spawn()
    hive.happens(ev.PreflightDone(101.0, WORKER, model(), hive.devices))
    hive.happens(ev.SpawnFailed(102.0, WORKER, RbeeError(Code.WORKER_RUNTIME_MISSING, "no program")))
    assert only(hive.effects, ev.Refuse).ticket == ticket
    hive.happens(ev.Measured(103.0, hive.devices, host()))
    state = hive.registry.telemetry(103.0)
    assert state is not None
    assert state.devices[0].threads_free == 4


def test_a_load_in_flight_is_promised_and_a_second_that_does_not_fit_beside_it_is_refused(hive: Hive) -> None:
    hive.devices = (cpu(free=GIB),)
    hive.start(weights=600 * MIB)
    hive.ask_spawn("w-00000002")
    hive.happens(ev.PreflightDone(101.0, "w-00000002", model(600 * MIB), hive.devices))
    assert only(hive.effects, ev.Refuse).error.code is Code.RAM_INSUFFICIENT
    hive.end(returncode=1)
    hive.ask_spawn("w-00000003")
    hive.happens(ev.PreflightDone(220.0, "w-00000003", model(600 * MIB), hive.devices))
    assert of(hive.effects, ev.StartProcess)


# -- ready, stats


def test_a_ready_callback_makes_it_idle(hive: Hive) -> None:
    hive.start()
    ticket = hive.ready()
    assert only(hive.effects, ev.Reply).ticket == ticket
    assert (hive.row().state, hive.row().slots_available, hive.row().progress) == (WorkerState.IDLE, 4, 1.0)
    said = only(hive.effects, ev.Say)
    assert "callback" not in said.fields
    assert {"id", "url", "model_ref", "backend", "device", "pid"} <= set(said.fields)


def test_the_same_callback_again_changes_nothing(hive: Hive) -> None:
    hive.loaded()
    hive.happens(ev.StatsSeen(111.0, WORKER, stats(state=WorkerState.BUSY)))
    ticket = hive.ready(at=112.0)
    assert only(hive.effects, ev.Reply).ticket == ticket
    assert hive.row().state is WorkerState.BUSY


def test_a_callback_of_an_unknown_worker_is_refused(hive: Hive) -> None:
    hive.ready("w-0000ffff")
    assert only(hive.effects, ev.Refuse).error.code is Code.WORKER_NOT_FOUND


def test_stats_move_it_between_idle_and_busy_and_are_published_at_once(hive: Hive) -> None:
    hive.loaded()
    assert of(hive.happens(ev.StatsSeen(111.0, WORKER, stats(state=WorkerState.BUSY))), ev.Publish)
    assert (hive.row().state, hive.row().slots_available) == (WorkerState.BUSY, 3)
    assert of(hive.happens(ev.StatsSeen(112.0, WORKER, stats())), ev.Publish)
    assert hive.row().state is WorkerState.IDLE
    assert not of(hive.happens(ev.StatsSeen(113.0, WORKER, stats())), ev.Publish), "nothing changed"


def test_stats_alone_tell_that_it_is_loaded(hive: Hive) -> None:
    hive.start()
    hive.happens(ev.StatsSeen(105.0, WORKER, stats(state=WorkerState.LOADING)))
    assert (hive.row().state, hive.row().progress) == (WorkerState.LOADING, 0.5)
    hive.happens(ev.StatsSeen(106.0, WORKER, stats()))
    assert hive.row().state is WorkerState.IDLE
    assert hive.row().last_active_at == 106.0, "its idle time begins now"


def test_an_answer_that_the_ready_callback_overtook_is_not_believed(hive: Hive) -> None:
    hive.loaded()
    hive.happens(ev.StatsSeen(111.0, WORKER, stats(state=WorkerState.LOADING, slots_available=0)))
    assert (hive.row().state, hive.row().slots_available, hive.row().progress) == (WorkerState.IDLE, 4, 1.0)


def test_answers_about_workers_that_are_gone_are_ignored(hive: Hive) -> None:
    hive.loaded()
    hive.end()
    assert hive.happens(ev.StatsSeen(220.0, WORKER, stats())) == []
    assert hive.happens(ev.StatsMissed(220.0, WORKER, "gone")) == []


def test_each_tick_asks_each_worker_once_at_a_time(hive: Hive) -> None:
    hive.loaded()
    assert only(hive.happens(ev.Tick(111.0)), ev.AskStats).worker_id == WORKER
    assert not of(hive.happens(ev.Tick(112.0)), ev.AskStats), "the first question is still open"
    hive.happens(ev.StatsSeen(112.5, WORKER, stats()))
    assert of(hive.happens(ev.Tick(113.0)), ev.AskStats)


# -- time


def test_a_load_beyond_its_limit_is_ended_without_patience(hive: Hive) -> None:
    hive.start(at=100.0)
    hive.happens(ev.StatsSeen(105.0, WORKER, stats(state=WorkerState.LOADING)))
    assert not of(hive.happens(ev.Tick(199.9)), ev.StopProcess)
    stop = only(hive.happens(ev.Tick(200.0)), ev.StopProcess)
    assert (stop.drain_s, stop.reason) == (0.0, ExitReason.LOADING_TIMEOUT)
    assert hive.row().state is WorkerState.FAILED
    hive.end(returncode=-15)
    found = only(hive.effects, ev.Bury).exit
    assert found.error is not None
    assert found.error["code"] == Code.LOADING_TIMEOUT
    assert found.error["details"]["progress"] == 0.5


def test_http_that_never_answers_is_ended_earlier(hive: Hive) -> None:
    hive.start(at=100.0)
    hive.happens(ev.StatsMissed(109.0, WORKER, "no answer"))
    assert not of(hive.happens(ev.Tick(109.9)), ev.StopProcess)
    assert only(hive.happens(ev.Tick(110.0)), ev.StopProcess).reason is ExitReason.LOADING_TIMEOUT


def test_limits_count_from_the_start_of_the_process(hive: Hive) -> None:
    hive.ask_spawn(at=100.0)
    hive.happens(ev.PreflightDone(100.0, WORKER, model(), hive.devices))
    hive.happens(ev.ProcessStarted(105.0, WORKER, 4711, "http://127.0.0.1:8001", []))
    assert not of(hive.happens(ev.Tick(114.9)), ev.StopProcess)
    assert of(hive.happens(ev.Tick(115.0)), ev.StopProcess)


def test_an_idle_worker_is_ended_after_its_limit(hive: Hive) -> None:
    hive.loaded()
    assert not of(hive.happens(ev.Tick(159.9)), ev.StopProcess)
    stop = only(hive.happens(ev.Tick(160.0)), ev.StopProcess)
    assert (stop.drain_s, stop.reason) == (7.0, ExitReason.IDLE)
    assert hive.row().state is WorkerState.DRAINING


def test_work_starts_the_idle_time_anew(hive: Hive) -> None:
    hive.loaded()
    hive.happens(ev.StatsSeen(150.0, WORKER, stats(last_active_at=149.0)))
    assert not of(hive.happens(ev.Tick(198.0)), ev.StopProcess)
    assert of(hive.happens(ev.Tick(199.0)), ev.StopProcess)


def test_a_busy_or_a_pinned_worker_is_never_idle() -> None:
    busy, pinned = Hive(), Hive()
    busy.loaded()
    busy.happens(ev.StatsSeen(111.0, WORKER, stats(state=WorkerState.BUSY)))
    pinned.loaded(keep_alive_s=-1.0)
    assert not of(busy.happens(ev.Tick(1e6)), ev.StopProcess)
    assert not of(pinned.happens(ev.Tick(1e6)), ev.StopProcess)


def test_a_keep_alive_of_its_own(hive: Hive) -> None:
    hive.loaded(keep_alive_s=3.0)
    assert hive.row().idle_limit_s == 3.0
    assert of(hive.happens(ev.Tick(113.0)), ev.StopProcess)


def test_three_missed_health_checks_end_it(hive: Hive) -> None:
    hive.loaded(keep_alive_s=-1.0)
    hive.happens(ev.StatsSeen(111.0, WORKER, stats()))
    for at, misses in ((112.0, 0), (141.0, 1), (142.0, 1), (171.0, 2), (200.0, 2)):
        hive.happens(ev.StatsMissed(at, WORKER, "timed out"))
        assert len(of(hive.effects, ev.Say)) == (1 if at in (141.0, 171.0) else 0), (at, misses)
        assert hive.row().state is WorkerState.IDLE
    hive.happens(ev.StatsMissed(201.0, WORKER, "timed out"))
    assert only(hive.effects, ev.StopProcess).reason is ExitReason.UNHEALTHY
    assert hive.row().state is WorkerState.UNHEALTHY
    hive.end(returncode=-9)
    assert WORKER not in {row.id for row in hive.registry.workers}
    found = only(hive.effects, ev.Bury).exit
    assert found.error is not None
    assert "missed 3 health checks" in found.error["message"]


def test_one_answer_forgives_all_misses(hive: Hive) -> None:
    hive.loaded(keep_alive_s=-1.0)
    for at in (141.0, 171.0):
        hive.happens(ev.StatsMissed(at, WORKER, "timed out"))
    hive.happens(ev.StatsSeen(172.0, WORKER, stats()))
    for at in (203.0, 234.0):
        hive.happens(ev.StatsMissed(at, WORKER, "timed out"))
        assert hive.row().state is WorkerState.IDLE


def test_a_loading_worker_has_no_health_to_lose(hive: Hive) -> None:
    hive.start()
    for at in (110.0, 140.0, 170.0, 199.0):
        hive.happens(ev.StatsMissed(at, WORKER, "busy loading"))
    assert hive.row().state is WorkerState.LOADING


def test_a_worker_that_says_it_is_broken_is_ended(hive: Hive) -> None:
    hive.loaded()
    hive.happens(ev.StatsSeen(120.0, WORKER, stats(state=WorkerState.FAILED)))
    assert only(hive.effects, ev.StopProcess).reason is ExitReason.UNHEALTHY


def test_a_worker_that_could_not_load_gets_a_moment_to_say_why(hive: Hive) -> None:
    hive.start()
    hive.happens(ev.StatsSeen(105.0, WORKER, stats(state=WorkerState.FAILED)))
    stop = only(hive.effects, ev.StopProcess)
    assert (stop.reason, stop.drain_s) == (ExitReason.START_FAILED, POLICY.term_s)
    hive.end(returncode=1)
    found = only(hive.effects, ev.Bury).exit
    assert (found.reason, found.error and found.error["code"]) == (
        ExitReason.START_FAILED,
        Code.WORKER_START_FAILED.value,
    )


def test_a_worker_that_drains_by_itself_is_left_alone(hive: Hive) -> None:
    hive.loaded()
    hive.happens(ev.StatsSeen(120.0, WORKER, stats(state=WorkerState.DRAINING)))
    assert hive.row().state is WorkerState.DRAINING
    assert not of(hive.effects, ev.StopProcess)
    hive.end()
    assert only(hive.effects, ev.Bury).exit.reason is ExitReason.ENDED


@pytest.mark.parametrize("adopted", [False, True])
def test_a_worker_that_drains_by_itself_has_the_time_that_the_hive_would_give_it(hive: Hive, adopted: bool) -> None:
    draining = stats(state=WorkerState.DRAINING)
    if adopted:
        hive.happens(ev.Adopted(120.0, worker(), SpawnRequest(model_ref="demo"), 100.0, draining))
    else:
        hive.loaded()
        hive.happens(ev.StatsSeen(120.0, WORKER, draining))
    hive.happens(ev.StatsSeen(125.0, WORKER, draining))
    assert not of(hive.happens(ev.Tick(128.9)), ev.StopProcess)
    assert only(hive.happens(ev.Tick(129.0)), ev.StopProcess) == ev.StopProcess(WORKER, 0.0, ExitReason.UNHEALTHY)
    assert not of(hive.happens(ev.Tick(130.0)), ev.StopProcess)
    hive.end(returncode=-9)
    error = only(hive.effects, ev.Bury).exit.error
    assert error is not None
    assert "did not end in time" in error["message"]


# -- ending


def test_a_stop_is_answered_when_the_process_is_gone(hive: Hive) -> None:
    hive.loaded()
    ticket = hive.stop(drain_s=3.0)
    assert only(hive.effects, ev.StopProcess) == ev.StopProcess(WORKER, 3.0, ExitReason.STOPPED)
    assert not of(hive.effects, ev.Reply)
    hive.end()
    reply = only(hive.effects, ev.Reply)
    assert reply.ticket == ticket
    assert (reply.answer.id, reply.answer.state) == (WORKER, WorkerState.DRAINING)
    assert hive.registry.workers == []


def test_several_who_stop_one_worker_are_all_answered_and_only_a_shorter_limit_hurries(hive: Hive) -> None:
    hive.loaded()
    tickets = [hive.stop(drain_s=5.0)]
    tickets.append(hive.stop(drain_s=9.0))
    assert not of(hive.effects, ev.StopProcess)
    tickets.append(hive.stop(drain_s=1.0))
    assert only(hive.effects, ev.StopProcess).drain_s == 1.0
    hive.end()
    assert [reply.ticket for reply in of(hive.effects, ev.Reply)] == tickets


def test_the_drain_limit_is_configured(hive: Hive) -> None:
    hive.loaded()
    hive.stop()
    assert only(hive.effects, ev.StopProcess).drain_s == POLICY.drain_s


def test_unknown_workers_cannot_be_stopped(hive: Hive) -> None:
    hive.stop("w-0000ffff")
    assert only(hive.effects, ev.Refuse).error.code is Code.WORKER_NOT_FOUND


def test_a_stop_before_the_process_runs_takes_effect_when_it_does(hive: Hive) -> None:
    hive.ask_spawn()
    hive.happens(ev.PreflightDone(101.0, WORKER, model(), hive.devices))
    hive.stop(at=101.5)
    assert not of(hive.effects, ev.StopProcess)
    hive.happens(ev.ProcessStarted(102.0, WORKER, 4711, "http://127.0.0.1:8001", []))
    assert only(hive.effects, ev.StopProcess).reason is ExitReason.STOPPED


def test_a_crash_is_published_recorded_and_frees_the_cores(hive: Hive) -> None:
    hive.loaded()
    hive.happens(ev.Measured(111.0, hive.devices, host()))
    hive.end(returncode=-11)
    assert of(hive.effects, ev.Publish)
    bury = only(hive.effects, ev.Bury)
    assert (bury.exit.reason, bury.keep_log) == (ExitReason.CRASHED, True)
    state = hive.registry.telemetry(211.0)
    assert state is not None
    assert (WORKER in {row.id for row in state.workers}, state.devices[0].threads_free) == (False, 4)


@pytest.mark.parametrize(("ephemeral", "returncode", "kept"), [(True, 0, False), (True, 1, True), (False, 0, True)])
def test_logs_of_an_ephemeral_hive(ephemeral: bool, returncode: int, kept: bool) -> None:
    hive = Hive(ephemeral=ephemeral)
    hive.loaded()
    hive.end(returncode=returncode)
    assert only(hive.effects, ev.Bury).keep_log is kept


def test_who_asks_for_an_exit_waits_for_it_or_gets_the_one_that_was(hive: Hive) -> None:
    hive.loaded()
    assert hive.happens(ev.ExitAsked(120.0, 77, WORKER)) == []
    hive.end(returncode=-6)
    reply = only(hive.effects, ev.Reply)
    assert reply.ticket == 77
    assert isinstance(reply.answer, WorkerExit)
    assert only(hive.happens(ev.ExitAsked(300.0, 78, WORKER)), ev.Reply).answer == reply.answer
    assert only(hive.happens(ev.ExitAsked(300.0, 79, "w-0000ffff")), ev.Refuse).error.code is Code.WORKER_NOT_FOUND


def test_a_draining_hive_starts_nothing(hive: Hive) -> None:
    hive.ask_spawn("w-00000002")
    hive.happens(ev.DrainBegun(100.0))
    hive.happens(ev.PreflightDone(101.0, "w-00000002", model(), hive.devices))
    assert only(hive.effects, ev.Refuse).error.code is Code.DRAINING
    hive.ask_spawn("w-00000003")
    assert only(hive.effects, ev.Refuse).error.code is Code.DRAINING


def test_the_end_of_all_is_answered_when_the_last_is_gone() -> None:
    hive = Hive(devices=(cpu(cores=8),))
    hive.loaded("w-00000001")
    hive.loaded("w-00000002")
    hive.happens(ev.StopAllAsked(200.0, 50, None))
    assert sorted(stop.worker_id for stop in of(hive.effects, ev.StopProcess)) == ["w-00000001", "w-00000002"]
    hive.end("w-00000001")
    assert not of(hive.effects, ev.Reply)
    hive.end("w-00000002")
    assert only(hive.effects, ev.Reply).ticket == 50


def test_the_end_of_none_is_answered_at_once(hive: Hive) -> None:
    assert only(hive.happens(ev.StopAllAsked(200.0, 50, None)), ev.Reply).ticket == 50


def test_the_end_of_all_waits_for_a_spawn_that_is_under_way(hive: Hive) -> None:
    hive.ask_spawn()
    assert not of(hive.happens(ev.StopAllAsked(200.0, 50, None)), ev.Reply)
    hive.happens(ev.PreflightDone(201.0, WORKER, model(), hive.devices))
    assert only(hive.effects, ev.Reply).ticket == 50


# -- adoption


@pytest.mark.parametrize("state", [WorkerState.LOADING, WorkerState.IDLE, WorkerState.BUSY, WorkerState.DRAINING])
def test_a_worker_that_answers_is_adopted_in_its_state(hive: Hive, state: WorkerState) -> None:
    row = worker(state=WorkerState.LOADING, started_at=90.0)
    hive.happens(ev.Adopted(100.0, row, SpawnRequest(model_ref="demo"), 100.0, stats(state=state)))
    assert hive.row().state is state
    assert only(hive.effects, ev.Watch).worker_id == WORKER
    assert not of(hive.effects, ev.StopProcess)


def test_an_adopted_load_keeps_its_limit(hive: Hive) -> None:
    row = worker(state=WorkerState.LOADING, started_at=90.0)
    hive.happens(ev.Adopted(150.0, row, SpawnRequest(model_ref="demo"), 100.0, stats(state=WorkerState.LOADING)))
    assert not of(hive.happens(ev.Tick(189.0)), ev.StopProcess)
    assert of(hive.happens(ev.Tick(190.0)), ev.StopProcess)


def test_a_broken_one_is_adopted_to_be_ended(hive: Hive) -> None:
    hive.happens(ev.Adopted(100.0, worker(), SpawnRequest(model_ref="demo"), 100.0, stats(state=WorkerState.FAILED)))
    assert only(hive.effects, ev.StopProcess).reason is ExitReason.UNHEALTHY


# -- what others see


def test_keys_find_their_worker(hive: Hive) -> None:
    hive.start()
    assert hive.registry.worker_of_key(f"key-of-{WORKER}") == WORKER
    assert hive.registry.worker_of_key("another") is None


def test_telemetry_needs_a_first_look_and_shows_what_is_left(hive: Hive) -> None:
    assert hive.registry.telemetry(1.0) is None
    hive.happens(ev.Measured(1.0, hive.devices, host()))
    hive.start()
    state = hive.registry.telemetry(2.0)
    assert state is not None
    assert state.at == 2.0
    assert state.devices[0].threads_free == 2
    assert state.devices[0].memory_free == hive.devices[0].memory_free - hive.row().memory_bytes
    assert [row.id for row in state.workers] == [WORKER]
