"""``run/workers/<id>.json``: what the next hive needs to adopt a worker.

Mode 0600, because the worker's key is in it.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from daemons.contracts.workers import HiveWorker
from daemons.kit.logs import get_logger
from daemons.kit.procs import ProcessIdentity


@dataclass(frozen=True, slots=True)
class WorkerFile:
    """A worker as it was started."""

    identity: ProcessIdentity
    row: HiveWorker
    load_limit_s: float


class WorkerFiles:
    """The folder of run files. All calls block on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, worker: WorkerFile) -> None:
        """Raises OSError."""
        document = {
            "identity": worker.identity.to_json(),
            "url": worker.row.url,
            "worker": worker.row.model_dump(mode="json"),
            "load_limit_s": worker.load_limit_s,
        }
        path = self._path(worker.row.id)
        fresh = path.with_suffix(".fresh")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file)
        fresh.replace(path)

    def remove(self, worker_id: str) -> None:
        self._path(worker_id).unlink(missing_ok=True)

    def read_all(self) -> list[WorkerFile]:
        """All that can be read; others are removed, and logged."""
        return list(self._readable())

    def _readable(self) -> Iterator[WorkerFile]:
        for path in sorted(self._folder.glob("*.json")):
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
                yield WorkerFile(
                    ProcessIdentity.from_json(document["identity"]),
                    HiveWorker.model_validate(document["worker"]),
                    float(document["load_limit_s"]),
                )
            except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
                get_logger().warning("removed a worker's run file that cannot be read", file=path.name, why=repr(error))
                path.unlink(missing_ok=True)

    def _path(self, worker_id: str) -> Path:
        return self._folder / f"{worker_id}.json"
