"""Routes of workers over all nodes: list, health, start, shutdown."""

import asyncio
from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import WORKER_HEALTH, WORKER_LIST, WORKER_SHUTDOWN, WORKER_START
from daemons.contracts.workers import WorkerHealthList, WorkerList, WorkerRow
from daemons.kit.client import Event
from tests.support.fake_hive import WORKER_KEY, FakeHive
from tests.support.queen_core import no_memory
from tests.support.queen_harness import QueenUnderTest, kinds, queen_and_hive, running_queen, sentences, until


async def _start(queen: QueenUnderTest, **body: object) -> list[Event]:
    async with queen.admin.stream(WORKER_START, body={"model_ref": "demo", **body}) as events:
        return [event async for event in events]


async def test_without_workers_the_list_is_empty(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        assert (await queen.admin.get(WORKER_LIST, WorkerList)).workers == []


async def test_workers_are_listed_without_their_keys(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        rows = (await queen.admin.get(WORKER_LIST, WorkerList)).workers
        assert [(row.id, row.node, row.slots_total) for row in rows] == [(worker.row.id, "local", 2)]
        assert WORKER_KEY not in str(await queen.admin.call(WORKER_LIST))


async def test_a_lease_is_shown_at_once(tmp_path: Path) -> None:
    """The hive's own figures are up to a sample old."""
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        await queen.detach()
        await until(lambda: worker.running)
        (row,) = (await queen.admin.get(WORKER_LIST, WorkerList)).workers
        assert (row.state.value, row.slots_available) == ("busy", 1)
        worker.flow()
        await until(lambda: not queen.service.state.tasks)
        (row,) = (await queen.admin.get(WORKER_LIST, WorkerList)).workers
        assert (row.state.value, row.slots_available) == ("idle", 2)


async def test_health_asks_the_hive_of_the_named_node(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        worker = await hive.add_worker()
        for query in ({}, {"node": "local"}):
            rows = (await queen.admin.get(WORKER_HEALTH, WorkerHealthList, query=query)).workers
            assert [(row.id, row.node, row.healthy) for row in rows] == [(worker.row.id, "local", True)]
        with pytest.raises(RbeeError) as caught:
            await queen.admin.call(WORKER_HEALTH, query={"node": "mars"})
        assert caught.value.code is Code.NODE_NOT_FOUND


async def test_health_of_a_node_that_is_down_says_so(tmp_path: Path) -> None:
    async with (
        FakeHive(started=False).serving() as hive,
        running_queen(tmp_path, {"local": hive}, start_hives=False) as queen,
    ):
        assert (await queen.admin.get(WORKER_HEALTH, WorkerHealthList)).workers == []
        with pytest.raises(RbeeError) as caught:
            await queen.admin.call(WORKER_HEALTH, query={"node": "local"})
        assert caught.value.code is Code.HIVE_UNREACHABLE


async def test_start_loads_a_model_and_ends_with_the_worker(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        events = await _start(queen, slots=2, keep_alive_s=-1.0)
        assert kinds(events)[-2:] == ["worker", "done"]
        row = WorkerRow.model_validate(events[-1].data["worker"])
        assert (row.id, row.state.value) == (next(iter(hive.workers)), "idle")
        assert events[-2].data["id"] == row.id
        assert any("is loaded" in sentence for sentence in sentences(events))
        assert hive.spawn_requests[0].keep_alive_s == -1.0
        assert queen.service.book.rows() == [], "it is no task"


async def test_each_start_makes_a_worker_of_its_own(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        await asyncio.gather(_start(queen), _start(queen))
        assert len(hive.workers) == 2


async def test_a_start_that_fails_ends_with_the_reason(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.spawn_errors = [no_memory(needed=8)]
        events = await _start(queen)
        assert events[-1].data["code"] == "RAM_INSUFFICIENT"
        with pytest.raises(RbeeError) as caught:
            await _start(queen, node="mars")
        assert caught.value.code is Code.NODE_NOT_FOUND
        with pytest.raises(RbeeError) as caught:
            await _start(queen, model_ref="../../etc/passwd")
        assert caught.value.code is Code.INVALID_MODEL_REF


async def test_shutdown_ends_a_worker_wherever_it_is(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        row = await queen.admin.get(WORKER_SHUTDOWN, WorkerRow, body={"id": worker.row.id})
        assert row.id == worker.row.id
        assert hive.evicted == [worker.row.id]
        await until(lambda: not queen.service.state.workers)
        with pytest.raises(RbeeError) as caught:
            await queen.admin.call(WORKER_SHUTDOWN, body={"id": worker.row.id})
        assert caught.value.code is Code.WORKER_NOT_FOUND
