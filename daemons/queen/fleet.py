"""The state of the fleet as people see it: rows, one snapshot, and a live stream of what changes."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from daemons import __version__
from daemons.contracts.events import EventType
from daemons.contracts.fleet import FleetSnapshot, ModelRow, NodeRow, NodeStatus, QueueState
from daemons.contracts.notices import Notice
from daemons.contracts.telemetry import HiveTelemetry, NodeTelemetry
from daemons.contracts.workers import READY_STATES, WorkerRow, WorkerState
from daemons.kit.notices import Notices
from daemons.kit.sse import encode_event
from daemons.queen.core.state import Node, State, Worker
from daemons.queen.nodes import NodeWatcher
from daemons.queen.tasks import TaskBook

MOST_BEHIND = 512
"""Events that a slow reader may be behind; then it gets a new snapshot instead of them."""

_VOLATILE = {"tokens_per_second", "last_active_at"}
"""Fields of a worker that change all the time; they come with the telemetry."""


@dataclass(slots=True)
class QueenIdentity:
    """What a snapshot says of the queen itself. `url` is known once it listens."""

    started_at: float
    ephemeral: bool = False
    url: str = ""


@dataclass(slots=True)
class FleetView:
    """Rows computed from the state; never changes it."""

    identity: QueenIdentity
    state: State
    watchers: Mapping[str, NodeWatcher]
    book: TaskBook
    noticed: Notices
    last_seen: dict[str, float] = field(default_factory=dict)

    def node_row(self, node: Node) -> NodeRow:
        watcher, sample = self.watchers[node.name], node.sample
        here = node.status not in (NodeStatus.STOPPED, NodeStatus.STARTING)
        devices = sample.devices if sample and here else []
        return NodeRow(
            name=node.name,
            host=watcher.hive.host,
            status=node.status,
            url=watcher.url if here else "",
            version=watcher.version,
            backends=list(dict.fromkeys(device.backend for device in devices)),
            devices=devices,
            host_sample=sample.host if sample and here else None,
            last_seen_at=self.last_seen.get(node.name, 0.0),
            problem=node.problem,
        )

    def node_rows(self) -> list[NodeRow]:
        return [self.node_row(node) for node in self.state.nodes.values()]

    def worker_rows(self) -> list[WorkerRow]:
        return [worker_row(worker) for worker in self.state.workers.values()]

    def telemetry(self, node: str, sample: HiveTelemetry) -> NodeTelemetry:
        """A hive's sample as it is passed on; its workers as in every other event, without their keys."""
        return NodeTelemetry(
            node=node,
            at=sample.at,
            devices=sample.devices,
            host=sample.host,
            workers=[worker_row(worker) for worker in self.state.workers.values() if worker.node == node],
        )

    def models(self) -> list[ModelRow]:
        """Models of all nodes, with what is loaded now."""
        loaded = {(w.node, w.row.model_ref) for w in self.state.workers.values() if w.row.state in READY_STATES}
        return [
            row.model_copy(update={"loaded": (row.node, row.ref) in loaded})
            for watcher in self.watchers.values()
            for row in watcher.models
        ]

    def notices(self) -> list[Notice]:
        """Our own, and those that hives told with their last sample, oldest first."""
        theirs = [
            notice.model_copy(update={"node": node.name})
            for node in self.state.nodes.values()
            if node.sample is not None
            for notice in node.sample.notices
        ]
        return sorted([*self.noticed.rows(), *theirs], key=lambda notice: notice.at)

    def snapshot(self) -> FleetSnapshot:
        return FleetSnapshot(
            version=__version__,
            queen_pid=os.getpid(),
            queen_url=self.identity.url,
            started_at=self.identity.started_at,
            draining=self.state.draining,
            ephemeral=self.identity.ephemeral,
            nodes=self.node_rows(),
            workers=self.worker_rows(),
            models=self.models(),
            tasks=self.book.rows(),
            queue=QueueState(
                waiting=len(self.state.queue), running=self.state.running, limit=self.state.limits.queue_limit
            ),
            notices=self.notices(),
        )


def worker_row(worker: Worker) -> WorkerRow:
    """A worker's row without its key. Of slots in use the queen knows at once, its hive a sample later."""
    row = worker.row.public(worker.node)
    if worker.evicting:
        return row.model_copy(update={"state": WorkerState.DRAINING})
    if row.state not in READY_STATES or not worker.leases:
        return row
    free = min(row.slots_available, worker.free_slots) if row.state is WorkerState.BUSY else worker.free_slots
    return row.model_copy(update={"state": WorkerState.BUSY, "slots_available": free})


class FleetFeed:
    """Live events for any number of readers; each has a bounded backlog."""

    def __init__(self, view: FleetView) -> None:
        self._view = view
        self._readers: set[_FeedReader] = set()
        self._nodes: dict[str, NodeRow] = {}
        self._workers: dict[str, WorkerRow] = {}
        self._closed = False

    @property
    def watched(self) -> bool:
        return bool(self._readers)

    def publish(self, kind: EventType, data: BaseModel) -> None:
        """Send an event to all readers; encoded once."""
        if self._readers:
            encoded = encode_event(kind.value, data)
            for reader in self._readers:
                reader.push(encoded)

    def publish_changes(self) -> None:
        """Send the nodes and workers that are another than when last sent."""
        if self._readers:
            self._settle()

    def _settle(self) -> None:
        for kind, row in list(self._changes()):
            self.publish(kind, row)

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for reader in self._readers:
            reader.wake()

    async def events(self) -> AsyncIterator[bytes]:
        """One ``snapshot``, then changes. A reader that falls behind gets another one in place of what it missed."""
        reader = _FeedReader(self._snapshot)
        self._settle()  # what the snapshot tells is not told again
        self._readers.add(reader)
        try:
            while not self._closed:
                chunk = await reader.take()
                if chunk:
                    yield chunk
        finally:
            self._readers.discard(reader)

    def _snapshot(self) -> bytes:
        return encode_event(EventType.SNAPSHOT.value, self._view.snapshot())

    def _changes(self) -> Iterator[tuple[EventType, BaseModel]]:
        for node in self._view.node_rows():
            # Devices and host figures come with the telemetry.
            essence = node.model_copy(update={"devices": [], "host_sample": None, "last_seen_at": 0.0})
            if self._nodes.get(node.name) != essence:
                self._nodes[node.name] = essence
                yield EventType.NODE, node
        rows = {row.id: row for row in self._view.worker_rows()}
        for worker in rows.values():
            steady = worker.model_copy(update=dict.fromkeys(_VOLATILE, 0.0))
            if self._workers.get(worker.id) != steady:
                self._workers[worker.id] = steady
                yield EventType.WORKER, worker
        for gone in [known for known in self._workers.values() if known.id not in rows]:
            del self._workers[gone.id]
            yield EventType.WORKER_REMOVED, gone


class _FeedReader:
    """One reader's backlog."""

    def __init__(self, snapshot: Callable[[], bytes]) -> None:
        self._snapshot = snapshot
        self._backlog: deque[bytes] = deque()
        self._lost = True
        self._news = asyncio.Event()
        self._news.set()

    def push(self, encoded: bytes) -> None:
        if len(self._backlog) >= MOST_BEHIND:
            self._backlog.clear()
            self._lost = True
        if not self._lost:
            self._backlog.append(encoded)
        self._news.set()

    def wake(self) -> None:
        self._news.set()

    async def take(self) -> bytes:
        """Everything that waits, as one chunk; empty when woken for the end."""
        await self._news.wait()
        self._news.clear()
        if self._lost:
            self._lost = False
            self._backlog.clear()
            return self._snapshot()
        chunk = b"".join(self._backlog)
        self._backlog.clear()
        return chunk
