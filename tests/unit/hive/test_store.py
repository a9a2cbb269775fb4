"""What the hive remembers: models seen, exits, and for how long."""

from dataclasses import replace
from pathlib import Path

from daemons.contracts.workers import ExitReason, WorkerExit, WorkerState
from daemons.hive.store import HiveStore, SeenModel

MODEL = SeenModel("demo", "m-1", "/m/demo.gguf", 100, "llama", "Q8_0", 1000, 2048)


def ended(worker_id: str, at: float, **fields: object) -> WorkerExit:
    return WorkerExit.model_validate(
        {
            "id": worker_id, "model_ref": "demo", "pid": 7, "state": WorkerState.IDLE, "reason": ExitReason.CRASHED,
            "how": "killed by SIGSEGV", "returncode": -11, "started_at": 1.0, "ended_at": at,
            "error": {"code": "WORKER_CRASHED", "details": {"log": ["a", "b"]}}, **fields,
        }
    )  # fmt: skip


def store_at(folder: Path) -> HiveStore:
    return HiveStore.at(folder / "hive.duckdb", folder / "backups")


async def test_a_model_is_kept_once_with_its_newest_figures(tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    store = store_at(tmp_path)
    await store.open(now=0.0, history_days=30.0)
    store.saw_model(MODEL, 10.0)
    store.saw_model(replace(MODEL, ref="file:///m/other.gguf"), 20.0)
    store.saw_model(replace(MODEL, size_bytes=200), 30.0)
    assert await store.models() == [replace(MODEL, size_bytes=200), replace(MODEL, ref="file:///m/other.gguf")]
    await store.close()


async def test_exits_come_back_as_they_were_newest_first(tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    store = store_at(tmp_path)
    await store.open(now=0.0, history_days=30.0)
    first, second = ended("w-00000001", 10.0), ended("w-00000002", 20.0, returncode=None, error=None)
    store.buried(first)
    store.buried(second)
    assert await store.exits() == [second, first]
    assert await store.exits(limit=1) == [second]
    assert await store.exits(worker_id="w-00000001") == [first]
    assert await store.exits(worker_id="w-00000009") == []
    await store.close()


async def test_old_exits_are_forgotten_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    day = 86_400.0
    store = store_at(tmp_path)
    await store.open(now=0.0, history_days=30.0)
    store.buried(ended("w-00000001", 1 * day))
    store.buried(ended("w-00000002", 3 * day))
    await store.close()
    again = store_at(tmp_path)
    await again.open(now=32 * day, history_days=30.0)
    assert [found.id for found in await again.exits()] == ["w-00000002"]
    await again.close()
