"""What the hive remembers beyond its own life: models it has seen, and how its workers ended."""

import json
from dataclasses import dataclass
from pathlib import Path

from daemons.contracts.workers import WorkerExit
from daemons.kit.notices import Notices
from daemons.kit.store import DAY_S, Migration, Row, Store

MIGRATIONS = (
    Migration(
        1,
        "models and worker exits",
        """
        CREATE TABLE models (
            ref VARCHAR PRIMARY KEY, id VARCHAR NOT NULL, path VARCHAR NOT NULL, size_bytes BIGINT NOT NULL,
            architecture VARCHAR NOT NULL, quantisation VARCHAR NOT NULL, parameters BIGINT NOT NULL,
            context_length BIGINT NOT NULL, first_seen_at DOUBLE NOT NULL, last_used_at DOUBLE NOT NULL
        );
        CREATE TABLE worker_exits (
            id VARCHAR NOT NULL, model_ref VARCHAR NOT NULL, pid BIGINT NOT NULL, state VARCHAR NOT NULL,
            reason VARCHAR NOT NULL, how VARCHAR NOT NULL, returncode INTEGER, started_at DOUBLE NOT NULL,
            ended_at DOUBLE NOT NULL, error VARCHAR
        );
        """,
    ),
)


@dataclass(frozen=True, slots=True)
class SeenModel:
    """A model as the catalog keeps it; sizes in bytes."""

    ref: str
    id: str
    path: str
    size_bytes: int
    architecture: str
    quantisation: str
    parameters: int
    context_length: int


class HiveStore:
    """``hive.duckdb``. Writes never wait: a slow or full disk costs history, not service."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @classmethod
    def at(cls, path: Path, backups: Path, *, notices: Notices | None = None, backup_s: float = DAY_S) -> "HiveStore":
        return cls(Store(path, MIGRATIONS, backups, notices=notices, backup_s=backup_s))

    async def open(self, *, now: float, history_days: float) -> None:
        """Open the file and forget exits older than `history_days`. Raises RbeeError as `Store.open` does."""
        await self._store.open()
        self._store.write_soon("DELETE FROM worker_exits WHERE ended_at < ?", (now - history_days * DAY_S,))

    async def close(self) -> None:
        await self._store.close()

    def saw_model(self, model: SeenModel, at: float) -> None:
        """Remember a model that was asked for."""
        self._store.write_soon(
            """
            INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (ref) DO UPDATE SET path = excluded.path, size_bytes = excluded.size_bytes,
                architecture = excluded.architecture, quantisation = excluded.quantisation,
                parameters = excluded.parameters, context_length = excluded.context_length,
                last_used_at = excluded.last_used_at
            """,
            (
                model.ref, model.id, model.path, model.size_bytes, model.architecture, model.quantisation,
                model.parameters, model.context_length, at, at,
            ),
        )  # fmt: skip

    async def models(self) -> list[SeenModel]:
        """All models ever seen, the last used first."""
        rows = await self._store.read(
            "SELECT ref, id, path, size_bytes, architecture, quantisation, parameters, context_length"
            " FROM models ORDER BY last_used_at DESC, ref"
        )
        return [SeenModel(**row) for row in rows]

    def buried(self, exit_: WorkerExit) -> None:
        """Remember how a worker ended."""
        error = None if exit_.error is None else json.dumps(exit_.error)
        self._store.write_soon(
            "INSERT INTO worker_exits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                exit_.id, exit_.model_ref, exit_.pid, exit_.state.value, exit_.reason.value, exit_.how,
                exit_.returncode, exit_.started_at, exit_.ended_at, error,
            ),
        )  # fmt: skip

    async def exits(self, *, worker_id: str | None = None, limit: int = 50) -> list[WorkerExit]:
        """Exits, newest first; of one worker when it is named."""
        rows = await self._store.read(
            "SELECT * FROM worker_exits WHERE ? IS NULL OR id = ? ORDER BY ended_at DESC LIMIT ?",
            (worker_id, worker_id, limit),
        )
        return [_exit_of(row) for row in rows]


def _exit_of(row: Row) -> WorkerExit:
    error = row["error"]
    return WorkerExit.model_validate({**row, "error": None if error is None else json.loads(error)})
