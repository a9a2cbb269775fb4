"""Worker processes in odd moments: a start that is given up, and a disk that fails when a worker ends."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts.workers import ExitReason, HiveWorker, SpawnRequest, WorkerState
from daemons.hive import workers as module
from daemons.hive.clock import SteadyClock
from daemons.hive.core import events as ev
from daemons.hive.runtime import WorkerRuntime
from daemons.hive.workers import Home, WorkerProcesses
from daemons.kit.paths import Paths
from daemons.kit.procs import ChildProcess, is_alive, spawn
from tests.support.hive_harness import program_that, settings_with
from tests.support.hive_rows import model, worker

MODEL = model()


def processes(paths: Paths, program: Path) -> WorkerProcesses:
    home = Home(paths, "http://127.0.0.1:9", ephemeral=False)
    runtime = WorkerRuntime(str(program), limit_s=5.0)
    return WorkerProcesses(home, settings_with(program), runtime, SteadyClock())


def asked() -> ev.StartProcess:
    row: HiveWorker = worker(state=WorkerState.LOADING, pid=0, key="a-key-of-this-worker")
    request = SpawnRequest(model_ref=row.model_ref)
    return ev.StartProcess(
        row=row, request=request, model=MODEL, device_name="", batch=64, mmap=True, load_limit_s=60.0
    )


@pytest.fixture
async def sleepers(paths: Paths, tmp_path: Path) -> AsyncIterator[WorkerProcesses]:
    """Workers that only sleep."""
    held = processes(paths, program_that(tmp_path, "exec sleep 60"))
    yield held
    for worker_id in list(held._handles):
        await held.stop(ev.StopProcess(worker_id, 0.0, ExitReason.STOPPED))
    await held.close()


async def test_start_that_is_given_up_leaves_nothing(
    paths: Paths, sleepers: WorkerProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawning, go_on = threading.Event(), threading.Event()
    children: list[ChildProcess] = []

    def slow(*arguments: Any, **options: Any) -> ChildProcess:
        spawning.set()
        assert go_on.wait(10.0)
        children.append(spawn(*arguments, **options))
        return children[-1]

    monkeypatch.setattr(module, "spawn", slow)
    starting = asyncio.create_task(sleepers.start(asked()))
    assert await asyncio.to_thread(spawning.wait, 10.0)
    starting.cancel()
    await asyncio.wait([starting], timeout=5.0)
    assert starting.cancelled()
    go_on.set()
    await sleepers.close()
    (child,) = children
    assert not is_alive(child.identity)
    assert not list(paths.worker_run.iterdir())
    assert await sleepers.ask_stats(asked().row.id) is None


@pytest.mark.parametrize("broken", ["last_words", "remove"])
async def test_exit_is_told_when_the_disk_fails(
    sleepers: WorkerProcesses, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    started = await sleepers.start(asked())
    monkeypatch.setattr(module if broken == "last_words" else sleepers._files, broken, fail)
    watching = asyncio.create_task(sleepers.watch(started.worker_id))
    await sleepers.stop(ev.StopProcess(started.worker_id, 0.0, ExitReason.STOPPED))
    ended = await asyncio.wait_for(watching, 10.0)
    assert ended.end.returncode == -15
    assert await sleepers.ask_stats(started.worker_id) is None
