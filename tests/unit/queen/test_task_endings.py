"""Tasks that end before they are done, in each of their states, through the real routes with a fake hive."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import OPENAI_CHAT, TASK_CANCEL, TASK_CREATE
from daemons.kit.deadline import DEADLINE_HEADER
from daemons.queen.core.state import Limits
from daemons.queen.performer import latest_deadline
from tests.support.fake_hive import FakeHive
from tests.support.queen_harness import QueenUnderTest, queen_and_hive, sentences, until

CHAT: Mapping[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}
STATES = ["queued", "placing", "running"]


async def _prepare(hive: FakeHive, queen: QueenUnderTest, state: str) -> None:
    """Make that the next task comes to be, and stays, in that state."""
    if state == "placing":
        hive.load_gates = [asyncio.Event()]
        return
    hive.gated, hive.slots = True, 1
    worker = await hive.add_worker()
    await until(lambda: queen.service.state.workers)
    if state == "queued":
        await queen.detach()
        await until(lambda: worker.running == 1)


def _in_state(queen: QueenUnderTest, state: str) -> bool:
    newest = max(queen.service.book.live(), key=lambda record: record.row.created_at, default=None)
    return newest is not None and newest.row.state.value == state and (state != "running" or newest.relay is not None)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_of_openais_that_vanishes_takes_its_task_along_within_a_second(
    tmp_path: Path, state: str, stream: bool
) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        await _prepare(hive, queen, state)
        before = {record.id for record in queen.service.book.live()}
        asking = asyncio.create_task(queen.infer.call(OPENAI_CHAT, body={**CHAT, "stream": stream}, timeout_s=30))
        await until(lambda: _in_state(queen, state))
        (mine,) = {record.id for record in queen.service.book.live()} - before
        asking.cancel()
        left_at = time.monotonic()
        await until(lambda: queen.service.book.get(mine).ended, limit_s=1.0)
        assert time.monotonic() - left_at < 1.0
        assert queen.service.book.get(mine).row.state.value == "cancelled"
        assert set(queen.service.state.tasks) == before
        if state == "running":
            (worker,) = hive.workers.values()
            await until(lambda: worker.running == 0, limit_s=1.0)


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ("queued", "it still waited for a free slot"),
        ("placing", "its model was still being loaded"),
        ("running", "2 of 50 tokens had come"),
    ],
)
async def test_a_deadline_says_what_the_task_was_waiting_for(tmp_path: Path, state: str, where: str) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        await _prepare(hive, queen, state)
        asking = asyncio.create_task(queen.run_task(timeout_s=0.5, max_tokens=50))
        await until(lambda: _in_state(queen, state))
        if state == "running":
            next(iter(hive.workers.values())).step(2)
        error = (await asking)[-1].data
        assert (error["code"], error["message"]) == (
            "DEADLINE_EXCEEDED", f"the task was not done within 0.5 s: {where}",
        )  # fmt: skip
        assert error["details"]["state"] == state


async def test_openais_clients_get_408_for_a_deadline(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        await _prepare(hive, queen, "running")
        deadline = {DEADLINE_HEADER: str(time.time() + 0.3)}
        with pytest.raises(RbeeError, match="had come") as caught:
            await queen.infer.call(OPENAI_CHAT, body=CHAT, headers=deadline, timeout_s=10)
        assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_a_deadline_that_has_passed_is_refused_at_the_door(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        await hive.add_worker()
        body, passed = {"model": "demo", "prompt": "x"}, {DEADLINE_HEADER: str(time.time() - 1)}
        with pytest.raises(RbeeError, match="before the queen got the request") as caught:
            await queen.admin.call(TASK_CREATE, body=body, headers=passed)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert list(queen.service.book.live()) == []


async def test_a_deadline_reaches_hive_and_worker_unchanged_and_no_time_limit_moves_it_on(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        deadline = str(time.time() + 20.0625)
        body = {"model": "demo", "prompt": "x", "max_tokens": 2, "timeout_s": 3600.0}
        async with queen.admin.stream(TASK_CREATE, body=body, headers={DEADLINE_HEADER: deadline}) as events:
            assert [event async for event in events][-1].type == "done"
        (worker,) = hive.workers.values()
        name = DEADLINE_HEADER.lower()
        assert [hop[0][name] for hop in (hive.spawn_headers, worker.headers)] == [deadline, deadline]


@pytest.mark.parametrize(
    ("deadlines", "expected"), [([], None), ([3.0], 3.0), ([3.0, 5.0], 5.0), ([3.0, None], None), ([None], None)]
)
def test_a_load_is_wanted_until_the_last_of_its_waiters_gives_up(
    deadlines: list[float | None], expected: float | None
) -> None:
    assert latest_deadline(deadlines) == expected


@pytest.mark.parametrize("finish", [True, False])
async def test_a_load_that_nobody_waits_for_ends_only_when_that_is_configured(tmp_path: Path, finish: bool) -> None:
    async with queen_and_hive(tmp_path, limits=Limits(default_slots=2, finish_loads=finish)) as (queen, hive):
        hive.load_gates = [asyncio.Event()]
        task_id = await queen.detach()
        await until(lambda: queen.service.state.workers)
        (worker_id,) = hive.workers
        await queen.admin.call(TASK_CANCEL, path={"id": task_id})
        told = " ".join(sentences(await queen.follow(task_id)))
        if finish:
            assert "loading it goes on" in told
            await _still(lambda: hive.evicted == [])
        else:
            assert "loading it is stopped" in told
            await until(lambda: hive.evicted == [worker_id])
            await until(lambda: not queen.service.state.workers)


async def _still(condition: Any) -> None:
    """Whether something goes on to hold, as far as a test can wait."""
    for _ in range(10):
        assert condition()
        await asyncio.sleep(0.01)


async def test_all_attached_readers_may_leave_at_once(tmp_path: Path) -> None:
    """C06 for clients that vanish: forty at once, four of them running."""
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated, hive.slots = True, 4
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        readers = [asyncio.create_task(queen.run_task(max_tokens=50)) for _ in range(40)]
        await until(lambda: worker.running == 4 and len(queen.service.state.queue) == 36)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await until(lambda: not queen.service.state.tasks and worker.running == 0, limit_s=2.0)
        assert queen.service.state.workers[worker.row.id].leases == set()
