"""llama.cpp's device list becomes our devices, with live figures and configured budgets."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.telemetry import Device
from daemons.contracts.workers import Backend
from daemons.hive.devices import Devices, cpu_device, cpu_name
from daemons.hive.gpus import GpuFigures
from daemons.hive.runtime import WorkerRuntime
from daemons.hive.telemetry import cores, memory
from daemons.kit.settings import HiveSettings
from tests.support.hive_harness import program_that


def reported(name: str, backend: str) -> dict[str, Any]:
    return {"name": name, "description": f"a {name}", "backend": backend, "memory_total": 1000, "memory_free": 500}


def devices_of(folder: Path, *rows: dict[str, Any], settings: HiveSettings | None = None) -> Devices:
    report = json.dumps({"devices": rows, "version": {"llama_cpp_python": "9.9"}})
    count = f"echo x >> {folder}/calls"
    runtime = WorkerRuntime(str(program_that(folder, f"{count}; echo '{report}'")), limit_s=10.0)
    return Devices(runtime, settings or HiveSettings())


async def measured(devices: Devices, live: list[GpuFigures], environ: dict[str, str]) -> list[Device]:
    return await asyncio.to_thread(devices.measure, live, environ)


def figures(free: int) -> GpuFigures:
    return GpuFigures(uuid=f"GPU-{free}", name="g", memory_total=2000, memory_free=free, power_w=80.0)


async def test_numbers_count_per_backend(tmp_path: Path) -> None:
    devices = devices_of(
        tmp_path,
        reported("CUDA0", "cuda"),
        reported("CUDA1", "cuda"),
        reported("Vulkan0", "vulkan"),
        reported("CPU", "cpu"),
    )
    assert await measured(devices, [], {}) == [], "nothing is known before the first look"
    await devices.look()
    found = [(device.backend.value, device.index, device.name) for device in await measured(devices, [], {})]
    assert found == [("cuda", 0, "CUDA0"), ("cuda", 1, "CUDA1"), ("vulkan", 0, "Vulkan0"), ("cpu", 0, "CPU")]
    assert devices.runtime_version == "9.9"


async def test_live_figures_replace_reported_ones_in_cudas_order(tmp_path: Path) -> None:
    devices = devices_of(tmp_path, reported("CUDA0", "cuda"), reported("CUDA1", "cuda"))
    await devices.look()
    live = [figures(100), figures(200)]
    found = await measured(devices, live, {"CUDA_VISIBLE_DEVICES": "1"})
    assert [(device.memory_free, device.memory_total, device.power_w) for device in found] == [
        (200, 2000, 80.0),
        (500, 1000, None),
    ]


@pytest.mark.parametrize(
    ("rows", "live", "fresh"),
    [
        (["cpu"], 0, False),
        (["cuda", "cpu"], 1, False),
        (["cuda", "cpu"], 0, True),
        (["cuda", "cuda"], 1, True),
        (["vulkan"], 2, True),
    ],
)
async def test_devices_without_live_figures_are_looked_at_again(
    tmp_path: Path, rows: list[str], live: int, fresh: bool
) -> None:
    devices = devices_of(tmp_path, *(reported(name.upper(), name) for name in rows))
    await devices.look()
    assert devices.needs_fresh_look([figures(n) for n in range(live)], {}) is fresh


async def test_the_list_is_asked_for_once_unless_it_is_to_be_fresh(tmp_path: Path) -> None:
    devices = devices_of(tmp_path, reported("CPU", "cpu"))
    for again in (False, False, True):
        await devices.look(again=again)
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


async def test_a_broken_runtime_is_told_and_asked_again(tmp_path: Path) -> None:
    runtime = WorkerRuntime(str(program_that(tmp_path, "kill -ILL $$")), limit_s=10.0)
    devices = Devices(runtime, HiveSettings())
    with pytest.raises(RbeeError) as failure:
        await devices.look()
    assert failure.value.code is Code.WORKER_RUNTIME_BROKEN
    assert "SIGILL" in devices.runtime_version
    assert await measured(devices, [], {}) == []
    report = json.dumps({"devices": [reported("CPU", "cpu")]})
    program_that(tmp_path, f"echo '{report}'")
    await devices.look()
    assert devices.problem is None
    assert len(await measured(devices, [], {})) == 1


def test_the_cpu_as_it_is() -> None:
    device = cpu_device(HiveSettings())
    assert (device.backend, device.index, device.cores) == (Backend.CPU, 0, cores())
    assert device.memory_total == memory()[0]
    assert 0 < device.memory_free <= device.memory_total
    assert device.description == cpu_name() != ""


def test_the_cpu_as_it_is_configured() -> None:
    device = cpu_device(HiveSettings(cpu_cores=64, cpu_memory_bytes=1_000_000))
    assert (device.cores, device.memory_total, device.memory_free) == (64, 1_000_000, 1_000_000)
    assert cpu_device(HiveSettings(cpu_memory_bytes=2**60)).memory_total == memory()[0]
