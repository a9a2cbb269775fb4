"""A whole hive with fake worker processes: what the scenarios of worker lifecycles ask for, seen from outside."""

import asyncio
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts import routes
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import Accepted, Capabilities, ModelList
from daemons.contracts.telemetry import HiveTelemetry
from daemons.contracts.workers import (
    ExitReason,
    HiveWorker,
    ReadyCallback,
    SpawnedWorker,
    WorkerExit,
    WorkerExitList,
    WorkerHealthList,
    WorkerState,
    WorkerStats,
)
from daemons.kit.client import DaemonClient, Event, Peer
from daemons.kit.paths import Paths
from daemons.kit.policy import Policy
from daemons.kit.procs import identify, is_alive, wait_exit
from daemons.models.demo import DEMO_MODEL_PATH
from tests.support.hive_harness import RunningHive, eventually, running_hive, settings_with


async def exit_of(hive: RunningHive, worker_id: str) -> WorkerExit:
    """How a worker ended; waits for it."""
    answer = await hive.client.get(routes.HIVE_WORKER_EXITS, WorkerExitList, query={"id": worker_id})
    (found,) = answer.exits
    return found


async def refused(hive: RunningHive, model: str = "demo", **fields: Any) -> RbeeError:
    with pytest.raises(RbeeError) as failure:
        await hive.spawn(model, **fields)
    return failure.value


def is_listening(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def worker_client(row: HiveWorker) -> DaemonClient:
    return DaemonClient(Peer(row.url, row.key, row.id, Code.UPSTREAM_LOST), Policy())


async def generate(row: HiveWorker, tokens: int) -> list[Event]:
    """All events of one request to a fake worker, 10 ms each."""
    async with (
        worker_client(row) as client,
        client.stream(routes.WORKER_INFER, body={"id": "task-1", "prompt": "x", "max_tokens": tokens}) as events,
    ):
        return [event async for event in events]


async def test_a_worker_from_spawn_to_shutdown(paths: Paths, fake_program: Path) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        assert await hive.workers() == []
        spawned = await hive.spawn(slots=2)
        assert (spawned.state, spawned.model_ref, spawned.slots_total) == (WorkerState.LOADING, "demo", 2)
        assert [said.actor for said in spawned.narration] == ["hive local"] * 3
        row = await hive.ready(spawned.id)
        assert (row.slots_available, row.pid, row.url) == (2, spawned.pid, spawned.url)
        run_file = paths.worker_run / f"{row.id}.json"
        assert run_file.stat().st_mode & 0o777 == 0o600

        ended = await hive.client.get(routes.HIVE_WORKER_SHUTDOWN, HiveWorker, body={"id": row.id})
        assert ended.id == row.id
        assert identify(row.pid) is None
        assert not run_file.exists()
        assert not is_listening(row.url)
        assert await hive.workers() == []
        found = await exit_of(hive, row.id)
        assert (found.reason, found.returncode, found.error) == (ExitReason.STOPPED, 0, None)


async def test_states_follow_the_work(paths: Paths, fake_program: Path) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        row = await hive.ready((await hive.spawn()).id)
        working = asyncio.create_task(generate(row, 60))

        async def busy() -> HiveWorker | None:
            return next((row for row in await hive.workers() if row.state is WorkerState.BUSY), None)

        assert (await eventually(busy)).slots_available == 3
        assert (await working)[-1].type == "done"
        assert (await hive.ready(row.id)).slots_available == 4


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("crash", Code.WORKER_START_FAILED),
        ("killed", Code.WORKER_OOM),
        ("invalid", Code.MODEL_INVALID),
    ],
)
async def test_a_failed_start_is_told_with_its_reason(paths: Paths, fake_program: Path, words: str, code: Code) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        spawned = await hive.spawn(hive.model_file(words, DEMO_MODEL_PATH))
        found = await exit_of(hive, spawned.id)
        assert found.error is not None
        assert (found.reason, found.error["code"]) == (ExitReason.START_FAILED, code)
        assert await hive.workers() == []
        if words == "crash":
            log = found.error["details"]["log"]
            assert len(log) <= 40
            assert log[-1] == "fake line 59"
            assert "exited with code 3" in found.error["message"]


async def test_a_load_that_takes_too_long_is_killed(paths: Paths, fake_program: Path) -> None:
    settings = settings_with(fake_program, policy={"load_base_s": 1.5, "load_per_gib_s": 0.0})
    async with running_hive(paths, settings) as hive:
        spawned = await hive.spawn(hive.model_file("stuck_stubborn", DEMO_MODEL_PATH))
        identity = identify(spawned.pid)
        assert identity is not None
        found = await exit_of(hive, spawned.id)
        assert found.error is not None
        assert (found.reason, found.error["code"]) == (ExitReason.LOADING_TIMEOUT, Code.LOADING_TIMEOUT)
        assert found.error["details"]["progress"] == pytest.approx(0.4)
        assert found.returncode == -signal.SIGKILL, "it ignored SIGTERM"
        assert not is_alive(identity)


async def test_a_worker_whose_http_never_answers_is_ended(paths: Paths, fake_program: Path) -> None:
    settings = settings_with(fake_program, policy={"worker_http_s": 2.0, "http_timeout_s": 0.5})
    async with running_hive(paths, settings) as hive:
        spawned = await hive.spawn(hive.model_file("deaf", DEMO_MODEL_PATH))
        found = await exit_of(hive, spawned.id)
        assert found.error is not None
        assert "had not answered over HTTP" in found.error["message"]


async def test_a_crash_is_pushed_at_once(paths: Paths, fake_program: Path) -> None:
    settings = settings_with(fake_program, policy={"telemetry_interval_s": 2.0})
    async with running_hive(paths, settings) as hive:
        spawned = await hive.spawn()
        await hive.ready(spawned.id)
        async with hive.client.stream(routes.HIVE_TELEMETRY) as events:
            first = await anext(aiter(events))
            assert first.type == "snapshot"
            assert [row.id for row in HiveTelemetry.model_validate(first.data).workers] == [spawned.id]
            os.kill(spawned.pid, signal.SIGKILL)
            killed_at = time.monotonic()
            async for event in events:
                assert event.type == "telemetry"
                if spawned.id not in {row.id for row in HiveTelemetry.model_validate(event.data).workers}:
                    break
        assert time.monotonic() - killed_at < 1.0, "sooner than the next interval"
        found = await exit_of(hive, spawned.id)
        assert found.error is not None
        assert (found.reason, found.error["code"]) == (ExitReason.CRASHED, Code.WORKER_CRASHED)
        assert found.how == "killed by SIGKILL"


async def test_a_worker_that_hangs_is_unhealthy_and_ended(paths: Paths, fake_program: Path) -> None:
    policy = {"health_interval_s": 0.2, "http_timeout_s": 0.3, "health_failures": 3, "term_s": 0.3}
    async with running_hive(paths, settings_with(fake_program, policy=policy)) as hive:
        row = await hive.ready((await hive.spawn()).id)
        os.kill(row.pid, signal.SIGSTOP)
        found = await exit_of(hive, row.id)
        assert found.reason is ExitReason.UNHEALTHY
        assert found.error is not None
        assert "missed 3 health checks" in found.error["message"]
        assert "SIGTERM and SIGKILL" in found.how
        assert identify(row.pid) is None


async def test_an_idle_worker_is_ended_and_the_hive_goes_on(paths: Paths, fake_program: Path) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        spawned = await hive.spawn(keep_alive_s=0.3)
        pinned = await hive.spawn(keep_alive_s=-1.0)
        found = await exit_of(hive, spawned.id)
        assert (found.reason, found.error, found.returncode) == (ExitReason.IDLE, None, 0)
        assert [row.id for row in await hive.workers()] == [pinned.id]


async def test_a_stubborn_worker_gets_signals(paths: Paths, fake_program: Path) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        spawned = await hive.spawn(hive.model_file("stubborn", DEMO_MODEL_PATH))
        await hive.ready(spawned.id)
        began = time.monotonic()
        await hive.client.call(routes.HIVE_WORKER_SHUTDOWN, body={"id": spawned.id, "drain_s": 0.4}, timeout_s=10.0)
        assert 0.9 <= time.monotonic() - began < 4.0, "drain limit, then the time between the signals"
        found = await exit_of(hive, spawned.id)
        assert (found.reason, found.error, found.returncode) == (ExitReason.STOPPED, None, -signal.SIGKILL)
        assert "after SIGTERM and SIGKILL" in found.how


async def test_a_draining_worker_finishes_its_request(paths: Paths, fake_program: Path) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        row = await hive.ready((await hive.spawn()).id)
        working = asyncio.create_task(generate(row, 150))
        await asyncio.sleep(0.2)
        ending = asyncio.create_task(hive.client.call(routes.HIVE_WORKER_SHUTDOWN, body={"id": row.id}))

        async def draining() -> bool:
            async with worker_client(row) as client:
                stats = await client.get(routes.WORKER_STATS, WorkerStats)
            return stats.state is WorkerState.DRAINING

        await eventually(draining)
        assert [seen.state for seen in await hive.workers()] == [WorkerState.DRAINING]
        with pytest.raises(RbeeError) as turned_away:
            await generate(row, 1)
        assert turned_away.value.code is Code.DRAINING
        assert (await working)[-1].type == "done"
        await ending
        assert (await exit_of(hive, row.id)).returncode == 0


async def test_the_end_of_the_hive_ends_all_workers_in_parallel(paths: Paths, fake_program: Path) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        rows = [await hive.ready((await hive.spawn()).id) for _ in range(3)]
        working = [asyncio.create_task(generate(row, 100)) for row in rows]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await hive.end()
        took = time.monotonic() - began
        assert all(events[-1].type == "done" for events in await asyncio.gather(*working))
    assert took < 3 * 0.8, "each needs 0.8 s for its request; one after the other would take three times that"
    assert [identify(row.pid) for row in rows] == [None] * 3
    assert list(paths.worker_run.iterdir()) == []


async def test_a_hive_that_keeps_its_workers_is_followed_by_one_that_adopts_them(
    paths: Paths, fake_program: Path
) -> None:
    settings = settings_with(fake_program)
    async with running_hive(paths, settings) as first:
        row = await first.ready((await first.spawn()).id)
        working = asyncio.create_task(generate(row, 200))
        await asyncio.sleep(0.1)
        await first.end(workers=False)
    identity = identify(row.pid)
    assert identity is not None
    async with running_hive(paths, settings) as second:
        (adopted,) = await second.workers()
        assert (adopted.id, adopted.pid, adopted.key, adopted.url) == (row.id, row.pid, row.key, row.url)
        assert adopted.state is WorkerState.BUSY
        assert (await working)[-1].type == "done", "the stream went on over the change of hives"
        await second.ready(row.id)
        os.kill(row.pid, signal.SIGKILL)
        found = await exit_of(second, row.id)
        assert found.reason is ExitReason.CRASHED
    assert not is_alive(identity)
    assert list(paths.worker_run.iterdir()) == []


async def test_run_files_of_dead_broken_and_mute_workers_are_cleared_at_start(paths: Paths, fake_program: Path) -> None:
    settings = settings_with(fake_program, policy={"http_timeout_s": 0.5})
    async with running_hive(paths, settings) as first:
        mute, dead = [await first.ready((await first.spawn()).id) for _ in range(2)]
        await first.end(workers=False)
    os.kill(mute.pid, signal.SIGSTOP)
    identity = identify(dead.pid)
    assert identity is not None
    os.kill(dead.pid, signal.SIGKILL)
    await wait_exit(identity)
    (paths.worker_run / "w-0badbad0.json").write_text("{}")
    async with running_hive(paths, settings) as second:
        assert await second.workers() == []
        assert list(paths.worker_run.iterdir()) == []
        assert identify(mute.pid) is None


async def test_ready_takes_only_the_workers_own_key(paths: Paths, fake_program: Path) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        shy = await hive.spawn(hive.model_file("shy_stuck", DEMO_MODEL_PATH))
        other = await hive.spawn()
        body = ReadyCallback(
            id=shy.id, url=shy.url, model_ref=shy.model_ref, backend=shy.backend, device=0, pid=shy.pid,
            slots_total=4, ctx=512, load_ms=1.0,
        )  # fmt: skip

        async def report(key: str) -> Any:
            peer = Peer(hive.url, key, "the hive", Code.HIVE_UNREACHABLE)
            async with DaemonClient(peer, Policy()) as client:
                return await client.get(routes.HIVE_READY, Accepted, body=body)

        for key, code in ((other.key, Code.ROLE_FORBIDDEN), ("nobody's", Code.INVALID_API_KEY)):
            with pytest.raises(RbeeError) as failure:
                await report(key)
            assert failure.value.code is code
        with pytest.raises(RbeeError) as failure:
            await hive.client.call(routes.HIVE_READY, body=body)
        assert failure.value.code is Code.ROLE_FORBIDDEN
        assert (await report(shy.key)).accepted
        peer = Peer(hive.url, shy.key, "the hive", Code.HIVE_UNREACHABLE)
        async with DaemonClient(peer, Policy()) as client:
            with pytest.raises(RbeeError) as failure:
                await client.call(routes.HIVE_WORKER_LIST)
        assert failure.value.code is Code.ROLE_FORBIDDEN, "a worker's key opens nothing else"


async def test_taken_ports_are_passed_over_without_a_race(paths: Paths, fake_program: Path) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        settings = settings_with(fake_program, hive={"worker_port": taken})
        async with running_hive(paths, settings) as hive:
            spawned = await asyncio.gather(*(hive.spawn() for _ in range(3)))
            ports = [int(row.url.rsplit(":", 1)[1]) for row in spawned]
            assert len(set(ports)) == 3
            assert all(port > taken for port in ports)


async def test_spawns_that_cannot_be_done_say_why(paths: Paths, fake_program: Path) -> None:
    settings = settings_with(fake_program, hive={"cpu_cores": 1, "cpu_memory_bytes": 60 * 2**20})
    async with running_hive(paths, settings) as hive:
        assert (await refused(hive, "hf:org/repo")).code is Code.MODEL_NOT_FOUND
        assert (await refused(hive, "nonsense")).code is Code.INVALID_MODEL_REF
        assert (await refused(hive, "file:///etc/passwd")).code is Code.MODEL_PATH_FORBIDDEN
        assert (await refused(hive, f"file://{paths.models}/none.gguf")).code is Code.MODEL_NOT_FOUND
        missing = await refused(hive, backend="cuda")
        assert (missing.code, missing.details["available"]) == (Code.BACKEND_UNAVAILABLE, ["cpu"])
        wrong = await refused(hive, device=3)
        assert (wrong.code, wrong.details["valid"]) == (Code.DEVICE_NOT_FOUND, {"cpu": [0]})
        assert (await refused(hive, ctx=2048, slots=16)).code is Code.RAM_INSUFFICIENT
        await hive.spawn()
        assert (await refused(hive)).code is Code.CORES_INSUFFICIENT


async def test_a_missing_worker_program_is_named(paths: Paths, tmp_path: Path) -> None:
    async with running_hive(paths, settings_with(tmp_path / "nothing")) as hive:
        failure = await refused(hive)
        assert failure.code is Code.WORKER_RUNTIME_MISSING
        assert str(tmp_path / "nothing") in failure.message
        told = await hive.client.get(routes.HIVE_CAPABILITIES, Capabilities)
        assert (told.backends, told.devices) == ([], [])
        assert "cannot be started" in told.worker_runtime


async def test_capabilities_health_models_and_metrics(paths: Paths, fake_program: Path) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        told = await hive.client.get(routes.HIVE_CAPABILITIES, Capabilities, query={"self_test": "true"})
        assert [(device.name, device.cores, device.threads_free) for device in told.devices] == [("CPU", 8, 8)]
        assert (told.worker_runtime, [backend.value for backend in told.backends]) == ("0.0-fake", ["cpu"])
        assert told.self_test is not None
        assert told.self_test.ok
        row = await hive.ready((await hive.spawn()).id)
        (health,) = (await hive.client.get(routes.HIVE_WORKER_HEALTH, WorkerHealthList)).workers
        assert health.healthy
        assert health.answer_ms is not None
        (model,) = (await hive.client.get(routes.HIVE_MODEL_LIST, ModelList)).models
        assert (model.ref, model.loaded, model.architecture) == ("demo", True, "llama")
        metrics = await hive.client.call(routes.HIVE_METRICS)
        assert 'rbee_hive_workers{state="idle"} 1.0' in metrics
        assert 'rbee_hive_spawns_total{outcome="started"} 1.0' in metrics
        assert f"{row.pid}"
        os.kill(row.pid, signal.SIGKILL)
        await exit_of(hive, row.id)

        async def counted() -> bool:
            text = await hive.client.call(routes.HIVE_METRICS)
            return 'rbee_hive_worker_crashes_total{code="WORKER_CRASHED"} 1.0' in text

        await eventually(counted)


async def test_a_listing_does_not_wait_for_a_worker_that_hangs(paths: Paths, fake_program: Path) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        row = await hive.ready((await hive.spawn()).id)
        os.kill(row.pid, signal.SIGSTOP)
        began = time.monotonic()
        assert [seen.id for seen in await hive.workers()] == [row.id]
        assert time.monotonic() - began < 2.5
        (health,) = (await hive.client.get(routes.HIVE_WORKER_HEALTH, WorkerHealthList, timeout_s=10.0)).workers
        assert not health.healthy
        assert health.error
        os.kill(row.pid, signal.SIGCONT)


async def test_unknown_workers(paths: Paths, fake_program: Path) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        asking = (
            hive.client.call(routes.HIVE_WORKER_SHUTDOWN, body={"id": "w-00000000"}),
            hive.client.call(routes.HIVE_WORKER_EXITS, query={"id": "w-00000000"}),
            hive.client.call(routes.HIVE_LOGS, query={"worker": "w-00000000"}),
        )
        failures = await asyncio.gather(*asking, return_exceptions=True)
        assert [failure.code for failure in failures if isinstance(failure, RbeeError)] == [Code.WORKER_NOT_FOUND] * 3


async def test_exits_survive_the_hive(paths: Paths, fake_program: Path) -> None:
    settings = settings_with(fake_program)
    async with running_hive(paths, settings) as first:
        spawned: list[SpawnedWorker] = []
        for words in ("crash", "killed"):
            spawned.append(await first.spawn(first.model_file(words, DEMO_MODEL_PATH)))
            await exit_of(first, spawned[-1].id)
    async with running_hive(paths, settings) as second:
        assert (await exit_of(second, spawned[0].id)).reason is ExitReason.START_FAILED
        listed = (await second.client.get(routes.HIVE_WORKER_EXITS, WorkerExitList)).exits
        assert [found.id for found in listed] == [row.id for row in reversed(spawned)]
        models = (await second.client.get(routes.HIVE_MODEL_LIST, ModelList)).models
        assert {model.ref for model in models} == {"demo", *(row.model_ref for row in spawned)}


@pytest.mark.parametrize("ephemeral", [True, False])
async def test_logs_of_a_worker_that_ended_well(paths: Paths, fake_program: Path, ephemeral: bool) -> None:
    async with running_hive(paths, settings_with(fake_program), ephemeral=ephemeral) as hive:
        row = await hive.ready((await hive.spawn()).id)
        assert (paths.logs / f"{row.id}.log").exists()
        await hive.client.call(routes.HIVE_WORKER_SHUTDOWN, body={"id": row.id})
    assert (paths.logs / f"{row.id}.log").exists() is not ephemeral


async def test_an_ephemeral_hive_ends_with_its_owner(paths: Paths, fake_program: Path) -> None:
    owner = await asyncio.create_subprocess_exec("sleep", "60")
    async with running_hive(paths, settings_with(fake_program), ephemeral=True, owner_pid=owner.pid) as hive:
        row = await hive.ready((await hive.spawn()).id)
        owner.kill()
        await owner.wait()
        await asyncio.wait_for(hive.serving, 10.0)
    assert identify(row.pid) is None


async def test_a_hive_that_is_ending_refuses_new_workers(paths: Paths, fake_program: Path) -> None:
    async with running_hive(paths, settings_with(fake_program)) as hive:
        row = await hive.ready((await hive.spawn()).id)
        working = asyncio.create_task(generate(row, 60))
        await asyncio.sleep(0.1)
        ending = asyncio.create_task(hive.end())
        await asyncio.sleep(0.1)
        assert (await refused(hive)).code is Code.DRAINING
        await asyncio.gather(ending, working)


async def test_streams_end_with_the_hive(paths: Paths, fake_program: Path) -> None:
    async def read(hive: RunningHive, route: routes.Route, **query: str) -> str:
        async with hive.client.stream(route, query=query) as events:
            types = [event.type async for event in events]
        return types[0]

    (paths.logs / "hive.log").write_text("a line\n")
    async with running_hive(paths, settings_with(fake_program)) as hive:
        reading = [
            asyncio.create_task(read(hive, routes.HIVE_TELEMETRY)),
            asyncio.create_task(read(hive, routes.HIVE_LOGS, follow="true")),
        ]
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in reading)
        await hive.end()
        assert await asyncio.gather(*reading) == ["snapshot", "snapshot"]
