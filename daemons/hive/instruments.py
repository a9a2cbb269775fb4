"""What measures the machine: llama.cpp's device list, live GPU figures, the host."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from daemons.contracts.errors import RbeeError
from daemons.contracts.telemetry import Device, HostSample
from daemons.contracts.workers import SelfTestReport
from daemons.hive.devices import Devices
from daemons.hive.gpus import GpuFigures, GpuReader
from daemons.hive.runtime import WorkerRuntime
from daemons.hive.telemetry import sample_host
from daemons.kit.logs import get_logger

FIRST_LOOK_S = 5.0
"""How long the start of a hive waits for llama.cpp's device list; a slower one comes in later."""


class Instruments:
    """Devices and host, now. `gpus` is None where there is no driver to ask."""

    def __init__(self, runtime: WorkerRuntime, devices: Devices, gpus: GpuReader | None, models_folder: Path) -> None:
        self._runtime = runtime
        self._devices = devices
        self._gpus = gpus
        self._models_folder = models_folder
        self._looked = asyncio.Event()
        self._testing = asyncio.Lock()
        self._self_test: SelfTestReport | None = None

    @property
    def worker_runtime(self) -> str:
        """Version of llama-cpp-python, or why it does not run."""
        return self._devices.runtime_version

    async def run(self) -> None:
        """Look at the devices once, and read live GPU figures until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._gpus is not None:
                group.create_task(self._gpus.run())
            try:
                await self._devices.look()
            except RbeeError as error:
                get_logger().error(error.message, code=error.code.value, **error.details)
            if self._gpus is not None:
                await self._gpus.first_line.wait()
            self._looked.set()

    async def first_look(self) -> None:
        """Wait until `run` has looked at the devices, but not for long."""
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._looked.wait()
        except TimeoutError:
            get_logger().warning("the device list takes long", waited_s=FIRST_LOOK_S)

    async def fresh_devices(self) -> Sequence[Device]:
        """The devices with what is free on them right now.

        Raises RbeeError(WORKER_RUNTIME_MISSING or WORKER_RUNTIME_BROKEN).
        """
        await self._devices.look(again=self._devices.needs_fresh_look(self._figures, self._runtime.environ))
        return await asyncio.to_thread(self._devices.measure, self._figures, self._runtime.environ)

    @property
    def _figures(self) -> Sequence[GpuFigures]:
        return self._gpus.latest if self._gpus else ()

    async def measure(self) -> tuple[Sequence[Device], HostSample]:
        """Devices and host; no process is started for it. Raises OSError."""
        return await asyncio.to_thread(self._measure)

    def _measure(self) -> tuple[Sequence[Device], HostSample]:
        return self._devices.measure(self._figures, self._runtime.environ), sample_host(self._models_folder)

    async def self_test(self, *, run: bool) -> SelfTestReport | None:
        """The last self-test; `run` makes one, for which it may take half a minute. One that passed is remembered."""
        async with self._testing:
            if run and (self._self_test is None or not self._self_test.ok):
                self._self_test = await self._runtime.self_test()
            return self._self_test
