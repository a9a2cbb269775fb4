"""Steps of scenarios that ask a hive for a worker and look at it from its first moment on."""

from dataclasses import dataclass, field
from typing import Any

from daemons.contracts import routes
from daemons.contracts.workers import READY_STATES
from tests.support.harness import eventually
from tests.support.harness_http import Api, TimedEvent
from tests.support.topology import Topology

Row = dict[str, Any]


@dataclass
class Spawned:
    """A worker that was just asked for: the hive's answer, its registry row right after that, and the worker itself."""

    answer: Row
    row: Row
    api: Api
    noted: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.answer["id"])


def spawn(rbee: Topology, model: str, slots: int) -> Spawned:
    """POST to the hive; the worker then loads `model` without mmap."""
    answer = rbee.hive.call(routes.HIVE_SPAWN, {"model_ref": model, "slots": slots, "mmap": False})
    assert answer.status_code == 202, answer.text
    worker: Row = answer.json()
    return Spawned(worker, registry_row(rbee, worker["id"]), rbee.api(worker["url"], worker["key"]))


def registry_row(rbee: Topology, id: str) -> Row:
    """That worker's row in the hive's registry, now."""
    return next(row for row in rbee.hive_workers() if row["id"] == id)


def told_row(rbee: Topology, id: str) -> Row:
    """The row once it is ready in what the hive publishes; unlike a listing this lets the hive ask no worker."""

    def found(event: TimedEvent) -> list[Row]:
        rows = event.data.get("workers", [])
        return [row for row in rows if row["id"] == id and row["state"] in READY_STATES]

    with rbee.hive.stream(routes.HIVE_TELEMETRY) as reader:
        return found(reader.wait_for(lambda event: bool(found(event)), f"worker {id} ready", within_s=20.0))[0]


def ready_row(rbee: Topology, id: str) -> Row:
    """The row once the worker has called back."""

    def look() -> Row | None:
        row = registry_row(rbee, id)
        return row if row["state"] in READY_STATES else None

    return eventually(look, f"worker {id} called back", within_s=20.0)
