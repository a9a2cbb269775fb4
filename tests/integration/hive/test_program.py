"""The hive program with the real worker and the demo model: what it starts, and what is left when it is gone."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemons import __version__
from daemons.contracts import routes
from daemons.contracts.fleet import Accepted, Capabilities, Health
from daemons.contracts.telemetry import HiveTelemetry
from daemons.contracts.workers import Backend, ExitReason, HiveWorkerList, WorkerExitList, WorkerState
from daemons.kit.procs import identify, is_alive, wait_exit
from daemons.kit.runfile import read_run_file, run_path
from daemons.models.demo import DEMO_MODEL_PATH
from tests.support.hive_harness import paths_under
from tests.support.hive_program import HiveProgram, generating

pytestmark = pytest.mark.real_llama


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[HiveProgram]:
    found = HiveProgram(paths_under(tmp_path), {})
    yield found
    await found.end_workers()


def told_by_proc(pid: int, name: str) -> list[str]:
    """Command line or environment of a process, as everybody on the machine sees it."""
    return Path(f"/proc/{pid}/{name}").read_bytes().rstrip(b"\0").decode().split("\0")


async def test_from_nothing_to_tokens_and_back_to_nothing(program: HiveProgram) -> None:
    async with program.running() as hive:
        assert (await hive.client.get(routes.HIVE_HEALTH, Health)).version == __version__
        row = await hive.ready(slots=2)
        assert (row.state, row.progress, row.slots_available) == (WorkerState.IDLE, 1.0, 2)
        assert told_by_proc(row.pid, "cmdline") == row.command
        assert not [part for name in ("cmdline", "environ") for part in told_by_proc(row.pid, name) if row.key in part]
        async with generating(row, 20) as events:
            last = [event async for event in events][-1]
        assert (last.type, last.data["total_tokens"]) == ("done", 20)
        worker = identify(row.pid)
        assert worker is not None
        hive.process.send_signal(signal.SIGTERM)
        assert await hive.ended() == 0
    assert not is_alive(worker)
    assert read_run_file(run_path(program.paths, "hive")) is None
    assert list(program.paths.worker_run.iterdir()) == []
    async with program.running() as again:
        exits = (await again.client.get(routes.HIVE_WORKER_EXITS, WorkerExitList)).exits
        assert [(found.id, found.reason, found.returncode) for found in exits] == [
            (row.id, ExitReason.HIVE_SHUTDOWN, 0)
        ]


async def test_capabilities_are_those_of_llama_cpp(program: HiveProgram) -> None:
    async with program.running() as hive:
        told = await hive.client.get(
            routes.HIVE_CAPABILITIES, Capabilities, query={"self_test": "true"}, timeout_s=120.0
        )
        assert Backend.CPU in told.backends
        assert told.worker_runtime[0].isdigit()
        assert told.self_test is not None
        assert told.self_test.ok, told.self_test.error


async def test_what_is_no_model_is_refused_and_what_breaks_while_loading_is_told(program: HiveProgram) -> None:
    cut = program.paths.models / "cut.gguf"
    cut.write_bytes(DEMO_MODEL_PATH.read_bytes())
    async with program.running() as hive:
        await hive.ready(model=f"file://{cut}")
        broken = bytearray(DEMO_MODEL_PATH.read_bytes())
        at = broken.index(b"blk.0.attn_q.weight")
        broken[at : at + 5] = b"blx.0"
        cut.write_bytes(broken)
        spawned = await hive.spawn(f"file://{cut}")
        (found,) = (
            await hive.client.get(routes.HIVE_WORKER_EXITS, WorkerExitList, query={"id": spawned.id}, timeout_s=30.0)
        ).exits
        assert found.reason is ExitReason.START_FAILED
        assert found.error is not None
        assert found.error["code"] in {"MODEL_INVALID", "WORKER_START_FAILED"}
        assert found.error["details"]["log"], "the last lines of its log"
        assert found.returncode == 1


async def test_workers_outlive_a_hive_that_is_killed_and_are_adopted(program: HiveProgram) -> None:
    async with program.running() as first:
        row = await first.ready()
        async with generating(row, 400) as events:
            await anext(aiter(events))
            first.process.kill()
            await first.ended()
            async with program.running() as second:
                (adopted,) = (await second.client.get(routes.HIVE_WORKER_LIST, HiveWorkerList)).workers
                assert (adopted.id, adopted.pid) == (row.id, row.pid)
                last = [event async for event in events][-1]
                assert (last.type, last.data["total_tokens"]) == ("done", 400)
                second.process.send_signal(signal.SIGTERM)
                assert await second.ended() == 0
    assert identify(row.pid) is None


async def test_workers_of_an_ephemeral_hive_that_is_killed_end_within_seconds(program: HiveProgram) -> None:
    async with program.running("--ephemeral") as hive:
        row = await hive.ready()
        worker = identify(row.pid)
        assert worker is not None
        hive.process.kill()
        await hive.ended()
        await asyncio.wait_for(wait_exit(worker), 5.0)


async def test_an_ephemeral_hive_ends_with_its_owner_and_leaves_no_logs_of_its_workers(program: HiveProgram) -> None:
    owner = await asyncio.create_subprocess_exec("sleep", "120")
    async with program.running("--ephemeral", "--owner-pid", str(owner.pid)) as hive:
        assert hive.run.ephemeral
        assert hive.run.owner == identify(owner.pid)
        row = await hive.ready()
        owner.kill()
        await owner.wait()
        assert await hive.ended() == 0
    assert identify(row.pid) is None
    assert {path.name for path in program.paths.logs.iterdir()} == {"hive.log"}


async def test_a_hive_that_is_asked_to_keep_its_workers_does(program: HiveProgram) -> None:
    async with program.running() as hive:
        row = await hive.ready()
        await hive.client.get(routes.HIVE_SHUTDOWN, Accepted, body={"workers": False})
        assert await hive.ended() == 0
    worker = identify(row.pid)
    assert worker is not None
    async with program.running() as following:
        async with following.client.stream(routes.HIVE_TELEMETRY) as events:
            first = await anext(aiter(events))
        assert [seen.id for seen in HiveTelemetry.model_validate(first.data).workers] == [row.id]
        os.kill(row.pid, signal.SIGKILL)
        (found,) = (await following.client.get(routes.HIVE_WORKER_EXITS, WorkerExitList, query={"id": row.id})).exits
        assert found.reason is ExitReason.CRASHED
        assert found.returncode is None, "an adopted process is not our child"


async def test_a_second_hive_on_one_home_refuses(program: HiveProgram) -> None:
    async with program.running() as hive:
        error = await program.fails()
        assert error["code"] == "ALREADY_RUNNING"
        assert error["details"]["pid"] == hive.process.pid
        run_path(program.paths, "hive").unlink()
        error = await program.fails()
        assert error["code"] == "ALREADY_RUNNING", "the database tells, too"


async def test_of_two_that_start_at_once_one_serves(program: HiveProgram) -> None:
    both = [await program.begin() for _ in range(2)]
    first_done = asyncio.gather(*(process.wait() for process in both))
    done, _ = await asyncio.wait([asyncio.create_task(process.wait()) for process in both], timeout=60.0,
                                 return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
    assert len(done) == 1
    for process in both:
        if process.returncode is None:
            process.terminate()
    assert sorted(await asyncio.wait_for(first_done, 60.0)) == [0, 1]
    for process in both:
        await process.communicate()


async def test_what_keeps_a_hive_from_starting_is_printed(program: HiveProgram) -> None:
    async with program.running() as hive:
        port = hive.run.url.rsplit(":", 1)[1]
        other = HiveProgram(paths_under(program.paths.home.parent / "other"), {})
        error = await other.fails("--port", port)
        assert error["code"] == "PORT_IN_USE"
        assert port in error["message"]
        assert "RBEE_HIVE_PORT=0" in error["hint"]
    exposed = await program.fails("--host", "0.0.0.0")
    assert (exposed["code"], exposed["hint"]) == ("INSECURE_BIND", "rbee hive start --host 127.0.0.1")
    assert (await program.fails(RBEE_HIVE_PORT="many"))["code"] == "CONFIG_INVALID"


def test_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daemons.hive.main", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert __version__ in done.stdout
