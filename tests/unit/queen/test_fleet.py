"""The fleet's snapshot and its live stream."""

import asyncio
from pathlib import Path

from daemons.contracts.events import EventType
from daemons.contracts.fleet import FleetSnapshot, ModelList, NodeList, NodeStatus
from daemons.contracts.routes import FLEET, FLEET_EVENTS, MODEL_LIST, NODE_LIST
from daemons.kit.client import Event
from daemons.queen import fleet
from tests.support.fake_hive import FakeHive
from tests.support.queen_harness import QueenUnderTest, queen_and_hive, running_queen, until


class Watcher:
    """Reads the fleet's stream in the background."""

    def __init__(self, queen: QueenUnderTest) -> None:
        self.events: list[Event] = []
        self._task = asyncio.create_task(self._read(queen))

    async def _read(self, queen: QueenUnderTest) -> None:
        async with queen.admin.stream(FLEET_EVENTS) as events:
            async for event in events:
                self.events.append(event)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.type == kind]

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_the_snapshot_has_everything(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        await queen.run_task()
        snapshot = await queen.admin.get(FLEET, FleetSnapshot)
        assert [(node.name, node.status) for node in snapshot.nodes] == [("local", NodeStatus.REACHABLE)]
        assert snapshot.nodes[0].devices[0].name == "CPU"
        assert [worker.model_ref for worker in snapshot.workers] == ["demo"]
        assert [(model.ref, model.node, model.loaded) for model in snapshot.models] == [("demo", "local", True)]
        assert [task.state.value for task in snapshot.tasks] == ["completed"]
        assert (snapshot.queue.waiting, snapshot.queue.running, snapshot.queue.limit) == (0, 0, 100)
        assert snapshot.queen_url == queen.url


async def test_the_stream_begins_with_a_snapshot_and_tells_every_change(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        watcher = Watcher(queen)
        await until(lambda: watcher.events)
        assert watcher.events[0].type == "snapshot"
        worker = await hive.add_worker()
        await until(lambda: watcher.of("worker"))
        assert watcher.of("worker")[0].data["id"] == worker.row.id
        await queen.run_task()
        await until(lambda: any(event.data["state"] == "completed" for event in watcher.of("task")))
        assert [event.data["state"] for event in watcher.of("task")] == ["running", "completed"]
        assert "busy" in [event.data["state"] for event in watcher.of("worker")]
        hive.kill_worker(worker)
        await until(lambda: watcher.of("worker_removed"))
        await until(lambda: watcher.of("telemetry"))
        assert watcher.of("telemetry")[0].data["node"] == "local"
        assert "key" not in str(watcher.of("telemetry")[0].data["workers"])
        hive.die()
        await until(lambda: watcher.of("node"))
        assert watcher.of("node")[-1].data["status"] == "stopped"
        await watcher.stop()
        await until(lambda: not queen.service.feed.watched)


async def test_a_second_watcher_takes_no_change_from_the_first(tmp_path: Path) -> None:
    """What has changed when it comes is told to those who were there."""
    async with queen_and_hive(tmp_path) as (queen, hive):
        first = Watcher(queen)
        await until(lambda: first.events)
        await hive.add_worker()
        second = Watcher(queen)
        await until(lambda: first.of("worker"))
        await until(lambda: second.events)
        await first.stop()
        await second.stop()


async def test_a_slow_reader_is_bounded_and_gets_a_fresh_snapshot(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        feed = queen.service.feed
        stream = feed.events()
        assert b"event: snapshot" in await anext(stream)
        row = queen.service.view.node_rows()[0]
        for _ in range(fleet.MOST_BEHIND + 5):
            feed.publish(EventType.NODE, row)
        chunk = await anext(stream)
        assert chunk.startswith(b"event: snapshot")
        assert chunk.count(b"event: node") <= 5
        await stream.aclose()  # type: ignore[attr-defined]


async def test_a_stopped_node_is_listed(tmp_path: Path) -> None:
    async with (
        FakeHive(started=False).serving() as hive,
        running_queen(tmp_path, {"local": hive}, start_hives=False) as queen,
    ):
        (row,) = (await queen.admin.get(NODE_LIST, NodeList)).nodes
        assert (row.name, row.status, row.devices) == ("local", NodeStatus.STOPPED, [])


async def test_lists_wait_for_a_node_that_is_being_started(tmp_path: Path) -> None:
    """Right after its own start a queen would otherwise answer that there is nothing."""
    async with FakeHive(started=False).serving() as hive, running_queen(tmp_path, {"local": hive}) as queen:
        (row,) = (await queen.admin.get(NODE_LIST, NodeList)).nodes
        assert row.status is NodeStatus.REACHABLE
        assert row.devices
        assert [model.ref for model in (await queen.admin.get(MODEL_LIST, ModelList)).models] == ["demo"]
