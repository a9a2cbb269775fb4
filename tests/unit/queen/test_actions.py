"""Clients of workers: kept between tasks, and not for workers that are gone."""

from daemons.queen.actions import WorkerClients
from tests.support.queen_core import worker_row
from tests.support.queen_harness import FAST


async def test_a_client_is_kept_until_its_worker_is_gone() -> None:
    known = {"w-00000001"}
    clients, worker = WorkerClients(FAST, known.__contains__), worker_row("w-00000001")
    async with clients.use(worker) as first:
        pass
    async with clients.use(worker) as second:
        assert second is first
    await clients.close()
    assert first._http.is_closed


async def test_a_use_after_the_worker_was_retired_leaves_nothing() -> None:
    clients, worker = WorkerClients(FAST, lambda _: False), worker_row()
    await clients.retire(worker.id)
    async with clients.use(worker) as client:
        pass
    assert client._http.is_closed
    assert not clients._clients
