"""How a worker notices that no hive wants it: its parent ends, then nobody asks for as long as the grace."""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from daemons.kit.policy import Policy
from daemons.kit.procs import ProcessIdentity
from daemons.worker import service as module
from daemons.worker.bridge import Bridge
from daemons.worker.service import WorkerService
from tests.support.fake_backend import FakeBackend
from tests.support.worker_service import settings_for


@pytest.fixture
def parent_ends(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set it, and the worker's parent has ended."""
    over = asyncio.Event()

    async def wait_exit(_identity: ProcessIdentity) -> None:
        await over.wait()

    monkeypatch.setattr(module, "wait_exit", wait_exit)
    return over


async def run_service(grace_s: float, hive_pid: int | None = None) -> tuple[WorkerService, asyncio.Event]:
    """A started service, and the event that it sets when it wants to end."""
    stop = asyncio.Event()
    bridge = Bridge(FakeBackend(), slots=4, batch=64)
    service = WorkerService(
        settings_for(orphan_grace_s=grace_s, hive_pid=hive_pid), bridge, "http://127.0.0.1:1", Policy()
    )
    await service.start(stop.set)
    return service, stop


async def within(limit_s: float, event: asyncio.Event) -> bool:
    try:
        await asyncio.wait_for(event.wait(), limit_s)
    except TimeoutError:
        return False
    return True


async def test_worker_stays_while_its_hive_lives(parent_ends: asyncio.Event) -> None:
    service, stop = await run_service(0.0)
    assert not await within(0.1, stop)
    parent_ends.set()
    assert await within(5, stop)
    await service.close()


@pytest.fixture
def later_process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


async def test_named_hive_is_watched(parent_ends: asyncio.Event) -> None:
    service, stop = await run_service(0.0, os.getppid())
    assert not await within(0.1, stop)
    parent_ends.set()
    assert await within(5, stop)
    await service.close()


@pytest.mark.parametrize("reaped", [True, False])
async def test_hive_that_was_gone_before_its_worker_looked_is_noticed(
    parent_ends: asyncio.Event, later_process: "subprocess.Popen[bytes]", reaped: bool
) -> None:
    """Whether its pid is free, or another process has it by now; this worker's parent lives in any case."""
    if reaped:
        later_process.kill()
        await asyncio.to_thread(later_process.wait)
    service, stop = await run_service(0.0, later_process.pid)
    assert await within(5, stop)
    await service.close()


async def test_grace_counts_from_the_end_of_the_hive(parent_ends: asyncio.Event) -> None:
    service, stop = await run_service(0.2)
    parent_ends.set()
    started = time.monotonic()
    assert await within(5, stop)
    assert 0.15 < time.monotonic() - started < 2
    await service.close()


async def test_contact_of_a_hive_begins_the_grace_anew(parent_ends: asyncio.Event) -> None:
    service, stop = await run_service(0.3)
    parent_ends.set()
    for _ in range(6):
        await asyncio.sleep(0.1)
        service.hive_was_here()
    assert not stop.is_set()
    assert await within(5, stop)
    await service.close()


@pytest.mark.parametrize("asked", [0.05, None])
async def test_drain_limit_may_be_shortened(parent_ends: asyncio.Event, asked: float | None) -> None:
    service, stop = await run_service(60.0)
    service._bridge._idle.clear()  # something runs
    service.end(asked)
    assert stop.is_set()
    draining = asyncio.create_task(service.drained())
    done, _ = await asyncio.wait([draining], timeout=0.5)
    assert bool(done) is (asked is not None)
    service._bridge._idle.set()
    await draining
    await service.close()
