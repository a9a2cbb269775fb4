"""``run/workers/<id>.json``: what the next hive needs to adopt a worker.

Mode 0600, because the worker's key is in it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from daemons.contracts.ids import RUN_ID
from daemons.contracts.workers import HiveWorker, SpawnRequest
from daemons.kit.logs import get_logger
from daemons.kit.procs import ProcessIdentity


class WorkerFile(BaseModel):
    """A worker as it was started. `request` is None in a file of a hive that did not keep it."""

    model_config = ConfigDict(frozen=True)

    identity: ProcessIdentity
    url: str
    worker: HiveWorker
    load_limit_s: float
    request: SpawnRequest | None = None

    @property
    def spawn_request(self) -> SpawnRequest:
        """What makes such a worker again."""
        row = self.worker
        return self.request or SpawnRequest(
            model_ref=row.model_ref,
            backend=row.backend,
            device=row.device,
            ctx=row.ctx,
            slots=row.slots_total,
            keep_alive_s=row.idle_limit_s,
        )


def _named(file: WorkerFile, name: str) -> WorkerFile:
    """The id is part of paths and the pid is sent signals. Raises ValueError where they are none."""
    if file.worker.id != name or not RUN_ID.fullmatch(name) or file.identity.pid < 1:
        raise ValueError(f"it does not describe the worker {name}")
    return file


class WorkerFiles:
    """The folder of run files. All calls block on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, file: WorkerFile) -> None:
        """Raises OSError."""
        path = self._path(file.worker.id)
        fresh = path.with_suffix(".fresh")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(file.model_dump_json())
        fresh.replace(path)

    def remove(self, worker_id: str) -> None:
        self._path(worker_id).unlink(missing_ok=True)

    def read_all(self) -> list[WorkerFile]:
        """All that can be read; others are removed, and logged."""
        return list(self._readable())

    def _readable(self) -> Iterator[WorkerFile]:
        for path in sorted(self._folder.glob("*.json")):
            try:
                yield _named(WorkerFile.model_validate_json(path.read_bytes()), path.stem)
            except (OSError, ValueError) as error:
                why = f"{error.error_count()} faults" if isinstance(error, ValidationError) else str(error)
                get_logger().warning("removed a worker's run file that cannot be read", file=path.name, why=why)
                path.unlink(missing_ok=True)

    def _path(self, worker_id: str) -> Path:
        return self._folder / f"{worker_id}.json"
