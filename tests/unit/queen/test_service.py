"""Tasks from their arrival to their end, through the real routes, with a fake hive behind the queen."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import TASK_CANCEL, TASK_CREATE, TASK_EVENTS, TASK_LIST, TASK_SHOW
from daemons.contracts.tasks import TaskList, TaskRow, TaskState
from daemons.contracts.workers import WorkerState
from daemons.kit.client import DaemonClient, Event
from daemons.queen.core.state import Limits
from tests.support.fake_hive import FakeHive, FakeWorker
from tests.support.queen_core import no_memory
from tests.support.queen_harness import (
    FAST,
    QueenUnderTest,
    kinds,
    queen_and_hive,
    running_queen,
    sentences,
    text_of,
    until,
)


async def _row(queen: QueenUnderTest, task_id: str) -> TaskRow:
    return await queen.admin.get(TASK_SHOW, TaskRow, path={"id": task_id})


async def _running(queen: QueenUnderTest, worker: FakeWorker, **body: Any) -> str:
    """A detached task that has begun."""
    task_id = await queen.detach(**body)
    await until(lambda: any(request.id == task_id for request in worker.requests))
    return task_id


async def _first_token(events: AsyncIterator[Event]) -> None:
    """Read up to the first token."""
    async for event in events:
        if event.type == "token":
            return


async def test_a_cold_task_narrates_every_step_and_ends_with_done(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        events = await queen.run_task()
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert text_of(events) == "t0 t1 t2 "
        assert kinds(events).count("done") == 1
        assert events[-1].type == "done"
        assert events[-1].data["usage"]["completion_tokens"] == 3
        said = "\n".join(sentences(events))
        for part in (
            "taken: demo",
            "asking node local",
            "[hive local] demo goes to CPU",
            "is loaded: 2 slots",
            "Using",
        ):
            assert part in said
        assert "progress" in kinds(events)
        assert len(hive.spawn_requests) == 1
        (worker,) = hive.workers.values()
        assert worker.running == 0
        assert queen.service.state.workers[worker.row.id].leases == set()


async def test_a_warm_task_uses_the_loaded_worker(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        events = await queen.run_task()
        assert hive.spawn_requests == []
        assert kinds(events)[-1] == "done"
        assert "progress" not in kinds(events)


async def test_the_worker_gets_the_generation_the_request_id_and_the_deadline(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        body = {"model": "demo", "prompt": "Hi", "max_tokens": 1, "seed": 7, "stop": ["x"], "timeout_s": 30.0}
        async with queen.admin.stream(TASK_CREATE, body=body, headers={"X-Request-Id": "req-abc"}) as events:
            _ = [event async for event in events]
        (request,), (headers,) = worker.requests, worker.headers
        assert (request.prompt, request.max_tokens, request.seed, request.stop) == ("Hi", 1, 7, ["x"])
        assert headers["x-request-id"] == "req-abc"
        assert time.time() + 25 < float(headers["x-request-deadline"]) <= time.time() + 30


async def test_the_first_token_is_read_before_the_last_is_generated(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        body = {"model": "demo", "prompt": "Hi", "max_tokens": 2}
        async with queen.admin.stream(TASK_CREATE, body=body) as events:
            worker.step()
            await _first_token(events)
            assert worker.running == 1
            worker.step()
            assert [event.type async for event in events][-1] == "done"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"node": "mars"}, Code.NODE_NOT_FOUND),
        ({"model": "gpt-4"}, Code.INVALID_MODEL_REF),
        ({"model": "file://relative.gguf"}, Code.INVALID_MODEL_REF),
        ({"temperature": 9.0, "top_p": 0.0, "colour": "red"}, Code.INVALID_REQUEST),
    ],
)
async def test_what_cannot_be_right_is_refused_before_anything_happens(
    tmp_path: Path, body: dict[str, Any], code: Code
) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        with pytest.raises(RbeeError) as caught:
            await queen.run_task(**body)
        assert caught.value.code is code
        assert hive.spawn_requests == []
        assert list(queen.service.book.live()) == []
        assert (await queen.admin.get(TASK_LIST, TaskList)).tasks == []


async def test_an_unknown_node_is_answered_with_the_command_that_adds_it(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        with pytest.raises(RbeeError) as caught:
            await queen.run_task(node="mars")
        assert "rbee setup add-node --name mars" in caught.value.hint


async def test_all_faulty_fields_are_named_at_once(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        with pytest.raises(RbeeError) as caught:
            await queen.run_task(temperature=9.0, top_p="x", colour="red")
        named = {row["field"] for row in caught.value.details["fields"]}
        assert named == {"temperature", "top_p", "colour"}


async def test_a_full_worker_makes_the_next_task_wait_in_the_queue(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated, hive.slots = True, 1
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        first = await _running(queen, worker)
        second = await queen.detach()
        row = await _row(queen, second)
        assert (row.state, row.queue_position) == (TaskState.QUEUED, 1)
        worker.flow()
        assert kinds(await queen.follow(second))[-1] == "done"
        assert (await _row(queen, first)).state is TaskState.COMPLETED
        assert [request.id for request in worker.requests] == [first, second]


async def test_a_full_queue_answers_503_with_retry_after_and_figures(tmp_path: Path) -> None:
    limits = Limits(queue_limit=1, default_slots=1)
    async with queen_and_hive(tmp_path, limits=limits) as (queen, hive):
        hive.gated, hive.slots = True, 1
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        await _running(queen, worker)
        await queen.detach()
        with pytest.raises(RbeeError) as caught:
            await queen.run_task()
        error = caught.value
        assert (error.code, error.status, error.retry_after) == (Code.QUEUE_FULL, 503, 1.0)
        assert (error.details["position"], error.details["limit"]) == (2, 1)
        assert (error.details["slots_total"], error.details["slots_busy"]) == (1, 1)
        worker.flow()


async def test_with_the_queue_off_a_busy_fleet_answers_503_at_once(tmp_path: Path) -> None:
    limits = Limits(queue_limit=0, default_slots=1)
    async with queen_and_hive(tmp_path, limits=limits) as (queen, hive):
        hive.gated, hive.slots = True, 1
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        await _running(queen, worker)
        with pytest.raises(RbeeError) as caught:
            await queen.run_task()
        assert caught.value.code is Code.QUEUE_FULL
        worker.flow()


async def test_one_load_serves_everybody_who_waits_for_it(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        gate = asyncio.Event()
        hive.load_gates = [gate]
        tasks = [asyncio.create_task(queen.run_task()) for _ in range(2)]
        await until(lambda: hive.workers)
        await until(lambda: len(queen.service.state.tasks) == 2)
        gate.set()
        for events in await asyncio.gather(*tasks):
            assert kinds(events)[-1] == "done"
        assert len(hive.spawn_requests) == 1


async def test_a_client_that_vanishes_takes_its_attached_task_with_it(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        body = {"model": "demo", "prompt": "Hi", "max_tokens": 50}
        async with queen.admin.stream(TASK_CREATE, body=body) as events:
            worker.step()
            await _first_token(events)
        await until(lambda: worker.running == 0, limit_s=1.0)
        await until(lambda: not queen.service.state.tasks, limit_s=1.0)
        task_id = worker.requests[0].id
        assert task_id in worker.cancelled
        assert (await _row(queen, task_id)).state is TaskState.CANCELLED
        assert queen.service.state.workers[worker.row.id].leases == set()


async def test_a_client_that_vanishes_while_it_waits_never_starts(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated, hive.slots = True, 1
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        await _running(queen, worker)
        async with queen.admin.stream(TASK_CREATE, body={"model": "demo", "prompt": "Hi", "max_tokens": 5}) as events:
            async for event in events:
                if "Waiting at position 1" in str(event.data):
                    break
        await until(lambda: len(queen.service.state.queue) == 0, limit_s=1.0)
        worker.flow()
        await until(lambda: not queen.service.state.tasks)
        assert len(worker.requests) == 1


async def test_a_detached_task_goes_on_without_readers_and_is_resumed_without_gap_or_double(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        task_id = await _running(queen, worker, max_tokens=20)
        worker.step(5)
        seen = []
        async with queen.admin.stream(TASK_EVENTS, path={"id": task_id}) as events:
            async for event in events:
                seen.append(event)
                if event.type == "token" and event.data["index"] == 4:
                    break
        await asyncio.sleep(0.05)
        assert worker.running == 1, "nobody reads, and it goes on"
        worker.flow()
        rest = await queen.follow(task_id, seen[-1].number)
        assert [e.number for e in [*seen, *rest]] == list(range(1, len(seen) + len(rest) + 1))
        assert text_of([*seen, *rest]) == "".join(f"t{index} " for index in range(20))


async def test_cancelling_twice_is_fine_and_an_unknown_task_is_404(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        task_id = await _running(queen, worker)
        for _ in range(2):
            assert await queen.admin.call(TASK_CANCEL, path={"id": task_id}) is None
        events = await queen.follow(task_id)
        assert events[-1].data["code"] == "CANCELLED"
        assert await queen.admin.call(TASK_CANCEL, path={"id": task_id}) is None
        assert worker.cancelled
        for route in (TASK_CANCEL, TASK_SHOW, TASK_EVENTS):
            with pytest.raises(RbeeError) as caught:
                await queen.admin.call(route, path={"id": "task-000000000000"})
            assert caught.value.code is Code.TASK_NOT_FOUND


async def test_many_cancels_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated, hive.slots = True, 4
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        ids = [await queen.detach() for _ in range(12)]
        await until(lambda: worker.running == 4)
        await asyncio.gather(*(queen.admin.call(TASK_CANCEL, path={"id": task_id}) for task_id in ids))
        await until(lambda: not queen.service.state.tasks)
        await until(lambda: worker.running == 0)
        assert queen.service.state.workers[worker.row.id].leases == set()
        rows = (await queen.admin.get(TASK_LIST, TaskList)).tasks
        assert {row.state for row in rows} == {TaskState.CANCELLED}


async def test_cancel_while_the_model_loads_lets_the_load_go_on(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        gate = asyncio.Event()
        hive.load_gates = [gate]
        task_id = await queen.detach()
        await until(lambda: hive.workers)
        await queen.admin.call(TASK_CANCEL, path={"id": task_id})
        assert (await queen.follow(task_id))[-1].data["code"] == "CANCELLED"
        gate.set()
        (worker,) = hive.workers.values()
        await until(lambda: queen.service.state.workers[worker.row.id].row.state is WorkerState.IDLE)
        assert worker.requests == []


async def test_a_deadline_ends_the_task_and_frees_the_slot(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        events = await queen.run_task(timeout_s=0.2)
        assert events[-1].data["code"] == "DEADLINE_EXCEEDED"
        await until(lambda: worker.running == 0)
        assert worker.cancelled


async def test_a_worker_that_dies_before_its_first_token_is_replaced(tmp_path: Path) -> None:
    """The client sees one stream, with its tokens once."""
    async with queen_and_hive(tmp_path) as (queen, hive):
        first = await hive.add_worker()
        first.crash_after = 0
        await until(lambda: queen.service.state.workers)
        second = await hive.add_worker(state=WorkerState.IDLE)
        await until(lambda: len(queen.service.state.workers) == 2)
        events = await queen.run_task()
        assert text_of(events) == "t0 t1 t2 "
        assert any("lost before its first token" in sentence for sentence in sentences(events))
        assert len(second.requests) == 1


async def test_a_worker_that_dies_in_the_middle_ends_the_task_with_what_it_had(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        task_id = await _running(queen, worker, max_tokens=9)
        worker.step(2)
        await until(lambda: queen.service.book.get(task_id).events.tokens == 2)
        hive.kill_worker(worker)
        events = await queen.follow(task_id)
        assert text_of(events) == "t0 t1 "
        error = events[-1].data
        assert error["code"] == "WORKER_CRASHED"
        assert (error["details"]["tokens_done"], error["details"]["tokens_asked"]) == (2, 9)
        assert "killed by SIGKILL" in error["message"]
        await until(lambda: not queen.service.state.workers)
        row = await _row(queen, task_id)
        assert (row.state, row.tokens) == (TaskState.FAILED, 2)


async def test_a_worker_that_stalls_ends_the_task_and_is_told_to_stop(tmp_path: Path) -> None:
    policy = FAST.model_copy(update={"inference_stall_s": 0.3})
    async with queen_and_hive(tmp_path, policy=policy) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        task_id = await _running(queen, worker)
        worker.step(1)
        events = await queen.follow(task_id)
        assert text_of(events) == "t0 "
        assert events[-1].data["code"] == "INFERENCE_STALLED"
        assert task_id in worker.cancelled


async def test_a_workers_own_failure_is_passed_on(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        worker = await hive.add_worker()
        worker.end_with = RbeeError(Code.ENGINE_FAILED, "decode said -3")
        await until(lambda: queen.service.state.workers)
        events = await queen.run_task()
        assert events[-1].data["code"] == "ENGINE_FAILED"
        assert events[-1].data["request_id"]


async def test_a_refused_prompt_is_not_tried_elsewhere(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        worker = await hive.add_worker()
        worker.refuse_with = RbeeError(Code.CONTEXT_OVERFLOW, "prompt 9000 + 100 tokens, context 2048")
        await until(lambda: queen.service.state.workers)
        events = await queen.run_task()
        assert events[-1].data["code"] == "CONTEXT_OVERFLOW"
        assert len(worker.requests) == 1


async def test_a_busy_worker_is_tried_again_without_the_client_noticing(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        worker = await hive.add_worker()
        worker.refuse_with = RbeeError(Code.ALL_SLOTS_BUSY, "4 of 4", details={"retry_after_s": 1})
        await until(lambda: queen.service.state.workers)
        task = asyncio.create_task(queen.run_task())
        await until(lambda: len(worker.requests) >= 2)
        worker.refuse_with = None
        assert kinds(await task)[-1] == "done"


async def test_memory_is_made_by_evicting_the_idle_worker(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        other = await hive.add_worker("file:///other.gguf")
        await until(lambda: queen.service.state.workers)
        hive.spawn_errors = [no_memory()]
        events = await queen.run_task()
        assert kinds(events)[-1] == "done"
        assert hive.evicted == [other.row.id]
        assert any("to make room for demo" in sentence for sentence in sentences(events))


async def test_what_does_not_fit_at_all_ends_with_the_hives_figures(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.spawn_errors = [no_memory(needed=8, available=2)]
        events = await queen.run_task()
        assert events[-1].data["code"] == "RAM_INSUFFICIENT"
        assert events[-1].data["details"] == {"needed": 8, "available": 2}


async def test_a_failed_load_is_told_in_the_hives_words(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.load_gates = [asyncio.Event()]
        task_id = await queen.detach()
        await until(lambda: hive.workers)
        (worker,) = hive.workers.values()
        hive.kill_worker(worker, error=RbeeError(Code.WORKER_OOM, "out of memory", details={"log": ["last line"]}))
        error = (await queen.follow(task_id))[-1].data
        assert error["code"] == "WORKER_OOM"
        assert error["details"]["log"] == ["last line"]


async def test_a_stopped_hive_is_started_when_it_is_needed(tmp_path: Path) -> None:
    async with (
        FakeHive(started=False).serving() as hive,
        running_queen(tmp_path, {"local": hive}, start_hives=False) as queen,
    ):
        assert hive.ensured == 0
        events = await queen.run_task()
        assert kinds(events)[-1] == "done"
        assert hive.ensured == 1
        assert any("Node local: starting the hive" in sentence for sentence in sentences(events))
        hive.die()
        await until(lambda: queen.service.state.nodes["local"].status.value == "stopped")
        assert kinds(await queen.run_task())[-1] == "done"
        assert hive.ensured == 2


async def test_a_hive_that_cannot_be_started_ends_the_task_with_the_reason(tmp_path: Path) -> None:
    async with FakeHive(started=False).serving() as hive:
        hive.ensure_error = RbeeError(Code.DAEMON_START_FAILED, "the port is taken")
        async with running_queen(tmp_path, {"local": hive}, start_hives=False) as queen:
            events = await queen.run_task()
            assert events[-1].data["code"] == "DAEMON_START_FAILED"
            assert events[-1].data["message"] == "the port is taken"


async def test_draining_refuses_new_tasks_and_lets_running_ones_finish(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        running = asyncio.create_task(queen.run_task())
        await until(lambda: worker.running == 1)
        queen.service.stop()
        await until(lambda: queen.service.state.draining)
        with pytest.raises(RbeeError) as caught:
            await queen.run_task()
        assert caught.value.code is Code.DRAINING
        worker.flow()
        assert kinds(await running)[-1] == "done"


async def test_an_inference_key_sees_and_cancels_only_its_own_tasks(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        task_id = await queen.detach(queen.infer)
        await until(lambda: worker.running == 1)
        for route in (TASK_SHOW, TASK_CANCEL, TASK_EVENTS):
            with pytest.raises(RbeeError) as caught:
                await queen.other.call(route, path={"id": task_id})
            assert caught.value.code is Code.TASK_NOT_FOUND
        assert await _ids(queen.other) == []
        assert await _ids(queen.infer) == await _ids(queen.admin) == [task_id]
        await queen.infer.call(TASK_CANCEL, path={"id": task_id})
        await until(lambda: not queen.service.state.tasks)
        with pytest.raises(RbeeError) as caught:
            await queen.other.call(TASK_SHOW, path={"id": task_id})
        assert caught.value.code is Code.TASK_NOT_FOUND


async def _ids(client: DaemonClient) -> list[str]:
    return [row.id for row in (await client.get(TASK_LIST, TaskList)).tasks]


async def test_a_restarted_queen_fails_what_ran_and_queues_again_what_waited(tmp_path: Path) -> None:
    """The second queen finds the database as a killed one leaves it."""
    async with FakeHive().serving() as hive:
        hive.gated, hive.slots = True, 1
        worker = await hive.add_worker()
        async with running_queen(tmp_path / "first", {"local": hive}) as queen:
            await until(lambda: queen.service.state.workers)
            ran = await _running(queen, worker, max_tokens=9)
            worker.step(3)
            await until(lambda: queen.service.book.get(ran).checkpoint == 3)
            waited = await queen.detach()
            assert (await _row(queen, waited)).state is TaskState.QUEUED
            await queen.admin.call(TASK_LIST)  # reads behind all writes
            await asyncio.to_thread(shutil.copytree, tmp_path / "first", tmp_path / "second")
            worker.flow()
        async with running_queen(tmp_path / "second", {"local": hive}) as queen:
            row = await _row(queen, ran)
            assert (row.state, row.tokens) == (TaskState.FAILED, 3)
            assert row.error is not None
            assert row.error["code"] == "QUEEN_RESTARTED"
            events = await queen.follow(ran)
            assert kinds(events) == ["snapshot", "error"]
            assert text_of(events) == "t0 t1 t2 "
            events = await queen.follow(waited)
            assert kinds(events)[-1] == "done"
            assert any("again after a restart" in sentence for sentence in sentences(events))
            seen_of_the_first = 4
            assert text_of(await queen.follow(waited, seen_of_the_first)) == text_of(events) != ""


async def test_a_stopped_queen_ends_attached_tasks_and_leaves_waiting_detached_ones_to_the_next(tmp_path: Path) -> None:
    policy = FAST.model_copy(update={"drain_s": 0.2})
    async with FakeHive().serving() as hive:
        hive.gated, hive.slots = True, 1
        worker = await hive.add_worker()
        async with running_queen(tmp_path, {"local": hive}, policy=policy) as queen:
            await until(lambda: queen.service.state.workers)
            ran = asyncio.create_task(queen.run_task())
            await until(lambda: worker.running == 1)
            attached = asyncio.create_task(queen.run_task())
            await until(lambda: len(queen.service.state.queue) == 1)
            waiting = await queen.detach()
            following = asyncio.create_task(queen.follow(waiting))
            await until(lambda: queen.service.book.get(waiting).events.readers == 1)
            queen.service.stop()
            for events in await asyncio.gather(ran, attached):
                assert events[-1].data["code"] == "DRAINING"
            assert kinds(await following)[-1] == "narration"  # the stream is closed, and the task is not over
        worker.flow()
        async with running_queen(tmp_path, {"local": hive}) as queen:
            assert kinds(await queen.follow(waiting))[-1] == "done"
            states = {row.id: row.state.value for row in (await queen.admin.get(TASK_LIST, TaskList)).tasks}
            assert sorted(states.values()) == ["completed", "failed", "failed"]
