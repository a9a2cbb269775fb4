"""What follows from a crash: a wait, a successor, and after too many of them a person's decision."""

from typing import Any

import pytest

from daemons.contracts.errors import Code
from daemons.contracts.workers import Backend, ExitReason, HiveWorker, SpawnedWorker, SpawnRequest, WorkerState
from daemons.hive.core import events as ev
from daemons.hive.core.crashes import Place
from daemons.hive.core.exits import ProcessEnd
from tests.support.hive_rows import GIB, cpu, gpu, host, model, stats, worker
from tests.unit.hive.core.test_registry import WORKER, Hive, of, only

NEXT = f"{WORKER}-next"


@pytest.fixture
def hive() -> Hive:
    return Hive()


def crash(hive: Hive, worker_id: str = WORKER, at: float = 210.0, returncode: int | None = -11) -> None:
    hive.end(worker_id, at, returncode)


def begin(hive: Hive, worker_id: str, at: float) -> None:
    """What the world does with a start whose time has come."""
    hive.happens(ev.PreflightDone(at, worker_id, model(ref="demo"), hive.devices))
    hive.happens(ev.ProcessStarted(at, worker_id, 4712, "http://127.0.0.1:8002", ["worker", "serve"]))


def crash_often(hive: Hive, times: int = 5) -> str:
    """Id of the row that is there after so many crashes."""
    hive.loaded()
    worker_id, at = WORKER, 210.0
    for number in range(1, times + 1):
        crash(hive, worker_id, at)
        worker_id = f"{worker_id}-next"
        if number < times:
            at += 16.0
            hive.happens(ev.Tick(at))
            begin(hive, worker_id, at)
            hive.ready(worker_id, at)
    return worker_id


def test_the_dead_one_is_gone_and_its_successor_waits(hive: Hive) -> None:
    hive.loaded(slots=2)
    crash(hive)
    (row,) = hive.registry.workers
    assert (row.id, row.state, row.pid, row.url, row.restarts) == (NEXT, WorkerState.RESTARTING, 0, "", 1)
    assert row.starts_at == 211.0
    assert "killed" not in row.problem
    assert "ended while it was idle" in row.problem
    assert only(hive.effects, ev.WakeAfter).seconds == 1.0
    assert of(hive.effects, ev.Publish)
    assert hive.registry.worker_of_key(f"key-of-{WORKER}") is None


def test_it_holds_no_memory_and_no_cores(hive: Hive) -> None:
    hive.loaded()
    hive.happens(ev.Measured(111.0, hive.devices, host()))
    crash(hive)
    state = hive.registry.telemetry(210.5)
    assert state is not None
    assert (state.devices[0].threads_free, state.devices[0].memory_free) == (4, hive.devices[0].memory_free)


def test_it_starts_when_its_time_has_come_with_the_same_request(hive: Hive) -> None:
    hive.loaded(slots=2, ctx=512, mmap=False)
    crash(hive)
    assert not of(hive.happens(ev.Tick(210.9)), ev.Preflight)
    begun = only(hive.happens(ev.Tick(211.0)), ev.Preflight)
    assert (begun.worker_id, begun.request.slots, begun.request.ctx, begun.request.mmap) == (NEXT, 2, 512, False)
    assert not of(hive.happens(ev.Tick(211.5)), ev.Preflight), "once"
    begin(hive, NEXT, 212.0)
    assert not of(hive.effects, ev.Reply), "nobody waits for it"
    row = hive.row(NEXT)
    assert (row.state, row.pid, row.restarts, row.key) == (WorkerState.LOADING, 4712, 1, f"key-of-{NEXT}")
    assert hive.registry.worker_of_key(row.key) == NEXT


def test_waits_double_until_it_is_over(hive: Hive) -> None:
    hive.loaded()
    worker_id, at, waits = WORKER, 210.0, []
    for _ in range(4):
        crash(hive, worker_id, at)
        worker_id = f"{worker_id}-next"
        waits.append(hive.row(worker_id).starts_at - at)
        at = hive.row(worker_id).starts_at
        hive.happens(ev.Tick(at))
        begin(hive, worker_id, at)
        hive.ready(worker_id, at)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    crash(hive, worker_id, at)
    (row,) = hive.registry.workers
    assert (row.state, row.restarts, row.pid, row.starts_at) == (WorkerState.FAILED, 5, 0, 0.0)
    assert "crashed 5 times within 10 minutes" in row.problem
    assert f"rbee workers shutdown --id {row.id}" in row.problem
    assert not of(hive.effects, ev.WakeAfter)
    assert not of(hive.happens(ev.Tick(at + 1e4)), ev.Preflight)


def test_crashes_long_ago_do_not_count(hive: Hive) -> None:
    crash_often(hive, times=4)
    row = hive.registry.workers[0]
    hive.happens(ev.Tick(row.starts_at))
    begin(hive, row.id, row.starts_at)
    hive.ready(row.id, row.starts_at)
    crash(hive, row.id, 5000.0)
    assert (hive.registry.workers[0].state, hive.registry.workers[0].restarts) == (WorkerState.RESTARTING, 1)


@pytest.mark.parametrize("returncode", [1, -9, -11, None])
def test_a_start_that_fails_is_not_tried_again(hive: Hive, returncode: int | None) -> None:
    hive.start()
    crash(hive, returncode=returncode)
    assert hive.registry.workers == []
    assert not of(hive.effects, ev.WakeAfter)


def test_nor_a_successor_that_cannot_load(hive: Hive) -> None:
    hive.loaded()
    crash(hive)
    hive.happens(ev.Tick(211.0))
    begin(hive, NEXT, 211.0)
    crash(hive, NEXT, 212.0, returncode=1)
    assert hive.registry.workers == []


def test_what_was_wanted_is_no_crash(hive: Hive) -> None:
    hive.loaded()
    hive.stop()
    crash(hive, returncode=-9)
    assert hive.registry.workers == []


def test_an_unhealthy_one_that_a_person_shut_down_stays_down(hive: Hive) -> None:
    hive.loaded(keep_alive_s=-1.0)
    for at in (150.0, 180.0, 210.0):
        hive.happens(ev.StatsMissed(at, WORKER, "timed out"))
    hive.stop(at=211.0)
    crash(hive, at=212.0, returncode=-9)
    assert hive.registry.workers == []


def test_one_that_hangs_is_started_again(hive: Hive) -> None:
    hive.loaded(keep_alive_s=-1.0)
    for at in (150.0, 180.0, 210.0):
        hive.happens(ev.StatsMissed(at, WORKER, "timed out"))
    crash(hive, at=215.0, returncode=-9)
    assert only(hive.effects, ev.Bury).exit.reason is ExitReason.UNHEALTHY
    assert hive.row(NEXT).state is WorkerState.RESTARTING
    assert "no longer answered" in hive.row(NEXT).problem


def test_one_that_ended_in_order_by_itself_is_let_go(hive: Hive) -> None:
    hive.loaded()
    crash(hive, returncode=0)
    assert hive.registry.workers == []


def test_an_adopted_one_is_restarted_with_its_first_request(hive: Hive) -> None:
    request = SpawnRequest(model_ref="demo", slots=3, ctx=256)
    hive.happens(ev.Adopted(100.0, worker(), request, 100.0, stats()))
    crash(hive, returncode=None)
    assert only(hive.happens(ev.Tick(211.0)), ev.Preflight).request == request


def test_an_adopted_one_that_ended_in_order_is_no_crash(hive: Hive) -> None:
    hive.happens(ev.Adopted(100.0, worker(), SpawnRequest(model_ref="demo"), 100.0, stats()))
    end = ProcessEnd(None, "ended", ("INFO draining limit_s=30", "INFO ended in order", "printed"))
    hive.happens(ev.ProcessEnded(210.0, WORKER, end, (NEXT, "key")))
    assert only(hive.effects, ev.Bury).exit.reason is ExitReason.ENDED
    assert hive.registry.workers == []


# -- who asks for the model meanwhile


def test_a_client_takes_the_coming_one_over_and_is_told_why_it_waits(hive: Hive) -> None:
    hive.loaded()
    crash(hive)
    ticket = hive.ask_spawn("w-00000002", 210.2, slots=2)
    hive.happens(ev.PreflightDone(210.4, "w-00000002", model(ref="demo"), hive.devices))
    assert not of(hive.effects, ev.Reply) + of(hive.effects, ev.StartProcess)
    assert [row.id for row in hive.registry.workers] == [NEXT], "one start, not two"
    assert only(hive.happens(ev.Tick(211.0)), ev.Preflight).worker_id == NEXT
    begin(hive, NEXT, 211.1)
    reply = only(hive.effects, ev.Reply)
    assert isinstance(reply.answer, SpawnedWorker)
    assert (reply.ticket, reply.answer.id, reply.answer.slots_total) == (ticket, NEXT, 2), "with the client's wishes"
    assert "demo on cpu 0 crashed: ended while it was idle; it is started again in 0.6 s" in [
        said.text for said in reply.answer.narration
    ]


def test_a_second_client_gets_a_worker_of_its_own_not_before_that_time(hive: Hive) -> None:
    hive.loaded()
    crash(hive)
    for worker_id in ("w-00000002", "w-00000003"):
        hive.ask_spawn(worker_id, 210.2)
        hive.happens(ev.PreflightDone(210.4, worker_id, model(ref="demo"), hive.devices))
    assert only(hive.effects, ev.WakeAfter).seconds == pytest.approx(0.6)
    assert [row.id for row in hive.registry.workers] == [NEXT, "w-00000003"]
    assert [begun.worker_id for begun in of(hive.happens(ev.Tick(211.0)), ev.Preflight)] == [NEXT, "w-00000003"]


def test_another_model_or_device_does_not_wait() -> None:
    hive = Hive(devices=(cpu(), gpu(0), gpu(1)))
    hive.loaded(backend="cuda", device=0)
    crash(hive)
    hive.ask_spawn("w-00000002", 210.2, backend="cuda", device=1)
    hive.happens(ev.PreflightDone(210.3, "w-00000002", model(ref="demo"), hive.devices))
    assert only(hive.effects, ev.StartProcess).row.device == 1
    hive.ask_spawn("w-00000003", 210.2, model_ref="other", backend="cuda", device=0)
    hive.happens(ev.PreflightDone(210.3, "w-00000003", model(ref="other"), hive.devices))
    assert only(hive.effects, ev.StartProcess).row.device == 0


def test_a_restart_that_no_longer_fits_is_refused_to_who_waits(hive: Hive) -> None:
    hive.loaded()
    crash(hive)
    ticket = hive.ask_spawn("w-00000002", 210.2)
    hive.happens(ev.PreflightDone(210.4, "w-00000002", model(ref="demo"), hive.devices))
    hive.happens(ev.Tick(211.0))
    hive.happens(ev.PreflightDone(211.1, NEXT, model(9 * GIB, ref="demo"), hive.devices))
    refused = only(hive.effects, ev.Refuse)
    assert (refused.ticket, refused.error.code) == (ticket, Code.RAM_INSUFFICIENT)
    assert hive.registry.workers == []


# -- too many


def ask_again(hive: Hive, **fields: Any) -> int:
    ticket = hive.ask_spawn("w-0000000a", 400.0, **fields)
    hive.happens(ev.PreflightDone(400.1, "w-0000000a", model(ref="demo"), hive.devices))
    return ticket


def test_a_model_that_crashed_too_often_is_refused_until_a_person_clears_it(hive: Hive) -> None:
    row_id = crash_often(hive)
    ticket = ask_again(hive)
    refused = only(hive.effects, ev.Refuse)
    assert (refused.ticket, refused.error.code) == (ticket, Code.WORKER_CRASH_LOOP)
    assert not refused.error.spec.retryable
    assert "crashed 5 times within 10 minutes" in refused.error.message
    assert refused.error.hint == f"rbee workers shutdown --id {row_id}"
    assert (refused.error.details["crashes"], refused.error.details["window_s"]) == (5, 600.0)
    assert refused.error.details["last"]["code"] == Code.WORKER_CRASHED
    cleared = hive.stop(row_id)
    reply = only(hive.effects, ev.Reply)
    assert (reply.ticket, reply.answer.id) == (cleared, row_id)
    assert hive.registry.workers == []
    ask_again(hive)
    assert of(hive.effects, ev.StartProcess), "at once"


def test_another_device_takes_it_where_the_client_does_not_mind() -> None:
    hive = Hive(devices=(cpu(), gpu(0, free=20 * GIB), gpu(1)))
    crash_often(hive)
    assert hive.registry.workers[0].device_name == "CUDA0"
    ask_again(hive)
    assert only(hive.effects, ev.StartProcess).row.device_name == "CUDA1"
    hive.ask_spawn("w-0000000b", 400.0, backend="cuda", device=0)
    hive.happens(ev.PreflightDone(400.1, "w-0000000b", model(ref="demo"), hive.devices))
    assert only(hive.effects, ev.Refuse).error.code is Code.WORKER_CRASH_LOOP


def test_who_waits_when_it_was_too_much_is_told_so() -> None:
    hive = Hive(devices=(cpu(cores=16),))
    hive.loaded("w-000000ff", keep_alive_s=-1.0)
    waits_at = 210.0 + 3 * 16
    crash_often(hive, times=4)
    ticket = hive.ask_spawn("w-0000000a", waits_at)
    hive.happens(ev.PreflightDone(waits_at, "w-0000000a", model(ref="demo"), hive.devices))
    crash(hive, "w-000000ff", waits_at + 0.5)
    refused = only(hive.effects, ev.Refuse)
    assert (refused.ticket, refused.error.code) == (ticket, Code.WORKER_CRASH_LOOP)
    assert [row.state for row in hive.registry.workers] == [WorkerState.FAILED]


# -- shutdown and drain


def test_a_person_cancels_a_restart(hive: Hive) -> None:
    hive.loaded()
    crash(hive)
    waiting = hive.ask_spawn("w-00000002", 210.2)
    hive.happens(ev.PreflightDone(210.4, "w-00000002", model(ref="demo"), hive.devices))
    asked = hive.stop(NEXT, at=210.5)
    assert only(hive.effects, ev.Reply).ticket == asked
    refused = only(hive.effects, ev.Refuse)
    assert (refused.ticket, refused.error.code) == (waiting, Code.WORKER_START_FAILED)
    assert hive.registry.workers == []
    assert not of(hive.happens(ev.Tick(300.0)), ev.Preflight)


def test_even_while_its_model_is_being_looked_for(hive: Hive) -> None:
    hive.loaded()
    crash(hive)
    hive.happens(ev.Tick(211.0))
    hive.stop(NEXT, at=211.1)
    assert hive.happens(ev.PreflightDone(211.2, NEXT, model(ref="demo"), hive.devices)) == []
    assert hive.registry.workers == []


def test_a_hive_that_drains_restarts_nothing(hive: Hive) -> None:
    hive.loaded("w-00000001")
    hive.loaded("w-00000002")
    crash(hive, "w-00000001")
    waiting = hive.ask_spawn("w-00000003", 210.2)
    hive.happens(ev.PreflightDone(210.3, "w-00000003", model(ref="demo"), hive.devices))
    hive.happens(ev.DrainBegun(210.5))
    refused = only(hive.effects, ev.Refuse)
    assert (refused.ticket, refused.error.code) == (waiting, Code.DRAINING)
    crash(hive, "w-00000002", 210.6)
    assert hive.registry.workers == []
    assert not of(hive.happens(ev.Tick(300.0)), ev.Preflight)


def test_the_end_of_all_does_not_wait_for_a_restart(hive: Hive) -> None:
    hive.loaded()
    crash(hive)
    assert only(hive.happens(ev.StopAllAsked(210.2, 50, None)), ev.Reply).ticket == 50


def test_places_differ_by_device() -> None:
    row: HiveWorker = worker(backend=Backend.CUDA, device=1)
    place = Place.of(row)
    assert place.suits(SpawnRequest(model_ref="demo"))
    assert place.suits(SpawnRequest(model_ref="demo", backend=Backend.CUDA))
    assert not place.suits(SpawnRequest(model_ref="demo", backend=Backend.CUDA, device=0))
    assert not place.suits(SpawnRequest(model_ref="demo", backend=Backend.CPU))
