"""The devices of this machine: what llama.cpp can use (asked once, in a child), with live figures."""

import asyncio
import functools
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from daemons.contracts.errors import RbeeError
from daemons.contracts.telemetry import Device
from daemons.contracts.workers import Backend, DeviceReport, DevicesReport
from daemons.hive.gpus import GpuFigures, visible
from daemons.hive.runtime import WorkerRuntime
from daemons.hive.telemetry import cores, memory
from daemons.kit.settings import HiveSettings

_CPUINFO = Path("/proc/cpuinfo")


class Devices:
    """What is here. `problem` says why llama.cpp cannot be used, while it cannot."""

    def __init__(self, runtime: WorkerRuntime, settings: HiveSettings) -> None:
        self._runtime = runtime
        self._settings = settings
        self._report: DevicesReport | None = None
        self._asking = asyncio.Lock()
        self.problem: RbeeError | None = None

    async def look(self, *, again: bool = False) -> DevicesReport:
        """What llama.cpp reports: remembered, unless `again`, which brings fresh memory figures.

        Raises RbeeError(WORKER_RUNTIME_MISSING or WORKER_RUNTIME_BROKEN); that is never remembered.
        """
        async with self._asking:
            if self._report is None or again:
                try:
                    self._report = await self._runtime.devices()
                    self.problem = None
                except RbeeError as error:
                    self._report, self.problem = None, error
                    raise
            return self._report

    @property
    def runtime_version(self) -> str:
        """Version of llama-cpp-python, or why it does not run."""
        if self._report is not None:
            return str(self._report.version.get("llama_cpp_python", "unknown"))
        return self.problem.message if self.problem else "not looked at yet"

    def needs_fresh_look(self, gpus: Sequence[GpuFigures], environ: Mapping[str, str]) -> bool:
        """Whether there are devices whose free memory only llama.cpp tells: without NVML, or not NVIDIA's."""
        accelerators = [row for row in self._report.devices if row.backend is not Backend.CPU] if self._report else []
        with_figures = [row for row in accelerators if row.backend is Backend.CUDA][: len(visible(gpus, environ))]
        return len(accelerators) > len(with_figures)

    def measure(self, gpus: Sequence[GpuFigures], environ: Mapping[str, str]) -> list[Device]:
        """All devices as they are now; [] while llama.cpp's report is not there. Blocks as long as /proc does."""
        if self._report is None:
            return []
        figures = visible(gpus, environ)
        counted: dict[Backend, int] = {}
        found: list[Device] = []
        for reported in self._report.devices:
            index = counted.get(reported.backend, 0)
            counted[reported.backend] = index + 1
            if reported.backend is Backend.CPU:
                found += [cpu_device(self._settings)] if index == 0 else []
            else:
                live = figures[index] if reported.backend is Backend.CUDA and index < len(figures) else None
                found.append(_accelerator(index, reported, live))
        return found


def cpu_device(settings: HiveSettings) -> Device:
    """The CPU with the cores and the memory that workers may take: what is configured, else what is there."""
    total, available = memory()
    budget = settings.cpu_memory_bytes
    return Device(
        index=0,
        backend=Backend.CPU,
        name="CPU",
        description=cpu_name(),
        memory_total=min(budget, total) if budget else total,
        memory_free=min(budget, available) if budget else available,
        cores=settings.cpu_cores or cores(),
    )


def _accelerator(index: int, reported: DeviceReport, live: GpuFigures | None) -> Device:
    return Device(
        index=index,
        backend=reported.backend,
        name=reported.name,
        description=reported.description,
        memory_total=live.memory_total if live else reported.memory_total,
        memory_free=live.memory_free if live else reported.memory_free,
        utilisation_percent=live.utilisation_percent if live else None,
        temperature_c=live.temperature_c if live else None,
        power_w=live.power_w if live else None,
    )


@functools.cache
def cpu_name() -> str:
    """The processor as its maker calls it."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
