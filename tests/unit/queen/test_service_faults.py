"""What a queen does when something in it fails that should not: one task pays, or the daemon ends; nothing hangs."""

import asyncio
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import TASK_CREATE, TASK_LIST, TASK_SHOW
from daemons.contracts.tasks import TaskList, TaskRow, TaskState
from daemons.queen.store import QueenStore
from tests.support.fake_hive import FakeHive
from tests.support.queen_harness import kinds, queen_and_hive, running_queen, until


def _raise(*_: Any) -> Any:
    raise RuntimeError("never thought of")


async def test_rows_that_were_not_stored_are_stored_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        with monkeypatch.context() as broken:
            broken.setattr(QueenStore, "save", _raise)
            assert kinds(await queen.run_task())[-1] == "done"
        rows = (await queen.admin.get(TASK_LIST, TaskList)).tasks
        assert [row.state for row in rows] == [TaskState.COMPLETED]


@pytest.mark.parametrize("effect", ["spawn", "relay"])
async def test_an_effect_that_cannot_be_begun_ends_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effect: str
) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        with monkeypatch.context() as broken:
            broken.setattr(queen.service.actions, effect, _raise)
            async with asyncio.timeout(3):
                events = await queen.run_task()
            assert events[-1].data["code"] == "INTERNAL"
        assert kinds(await queen.run_task())[-1] == "done"


async def test_regular_work_that_fails_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        calls: list[float] = []

        def expire(now: float) -> None:
            calls.append(now)
            _raise()

        monkeypatch.setattr(queen.service.book, "expire", expire)
        await until(lambda: len(calls) >= 2)


async def test_a_queen_whose_owner_fails_ends_and_leaves_nothing(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        assert queen.service._running is not None
        queen.service._running.cancel()
        await until(lambda: hive.stopped == 1)
        assert queen.service.closing.is_set()


@pytest.mark.parametrize("limit_s", [5.0, 0.05])
async def test_a_detached_task_is_answered_once_it_is_stored_but_a_hanging_disk_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_s: float
) -> None:
    monkeypatch.setattr("daemons.queen.http.tasks.STORED_WITHIN_S", limit_s)
    disk = threading.Event()
    async with queen_and_hive(tmp_path) as (queen, _hive):
        hanging = asyncio.create_task(queen.service.store._store._call(lambda _database: disk.wait(10.0)))
        answer = asyncio.create_task(queen.detach())
        await asyncio.wait([answer], timeout=0.5)
        assert answer.done() is (limit_s < 0.5)
        disk.set()
        await hanging
        assert (await answer).startswith("task-")


@pytest.mark.parametrize("detached", [True, False])
async def test_a_task_that_comes_when_nobody_can_take_it_any_more_is_refused(tmp_path: Path, detached: bool) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        queen.service.closing.set()
        with pytest.raises(RbeeError) as caught:
            await (queen.detach() if detached else queen.run_task())
        assert caught.value.code is Code.DRAINING
        assert not list(queen.service.book.live())


async def test_a_restored_task_keeps_its_deadline_and_its_refusal_is_kept(tmp_path: Path) -> None:
    """The first queen is left as a killed one; the second one has another node."""
    async with FakeHive().serving() as hive:
        hive.load_gates = [asyncio.Event()]
        deadline = time.time() + 50
        async with running_queen(tmp_path / "first", {"local": hive}) as queen:
            body = {"model": "demo", "prompt": "Hi", "max_tokens": 3, "node": "local"}
            headers = {"Prefer": "respond-async", "X-Request-Deadline": str(deadline)}
            task_id = (await queen.admin.call(TASK_CREATE, body=body, headers=headers))["id"]
            await queen.admin.call(TASK_LIST)  # reads behind all writes
            for name in ("second", "third"):
                await asyncio.to_thread(shutil.copytree, tmp_path / "first", tmp_path / name)
            await queen.admin.call(TASK_SHOW, path={"id": task_id})
            queen.service.shut_down(queen.service._shutdown.model_copy(update={"drain_s": 0.0}))
        async with running_queen(tmp_path / "second", {"local": hive}) as queen:
            await queen.admin.call(TASK_LIST)  # answered when it has started
            assert queen.service.book.get(task_id).deadline == pytest.approx(deadline, abs=0.01)
            queen.service.shut_down(queen.service._shutdown.model_copy(update={"drain_s": 0.0}))
        async with running_queen(tmp_path / "third", {"other": hive}) as queen:
            assert (await queen.follow(task_id))[-1].data["code"] == "NODE_NOT_FOUND"
            row = await queen.admin.get(TASK_SHOW, TaskRow, path={"id": task_id})
            assert row.state is TaskState.FAILED
        async with running_queen(tmp_path / "third", {"local": hive}) as queen:
            assert (await queen.follow(task_id))[-1].data["code"] == "NODE_NOT_FOUND"


async def test_a_past_task_without_an_end_is_told_with_an_end(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        await queen.run_task()
        (row,) = (await queen.admin.get(TASK_LIST, TaskList)).tasks
        changes = {"id": "task-00000000000a", "state": TaskState.QUEUED, "usage": None}
        queen.service.store.save([(row.model_copy(update=changes), None)])
        (event,) = await queen.follow("task-00000000000a")
        assert event.data["code"] == Code.QUEEN_RESTARTED
