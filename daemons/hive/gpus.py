"""Live figures of NVIDIA devices, read from the child program `daemons.hive.nvml`."""

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from daemons.hive.nvml import NO_DRIVER
from daemons.kit.logs import get_logger
from daemons.kit.policy import Retry

# The kernel driver's own files (Linux), and the one of WSL; without them there is nothing to ask.
_DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))
_SILENT_INTERVALS = 10
"""Intervals without a line after which the child is taken to hang, and replaced."""

_RESTARTS = Retry(tries=1_000_000, first_s=1.0, longest_s=60.0)


class GpuFigures(BaseModel):
    """One device now, in NVML's order; bytes, percent, °C, watts."""

    uuid: str
    name: str
    memory_total: int
    memory_free: int
    utilisation_percent: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class _Line(BaseModel):
    devices: list[GpuFigures]


def has_driver() -> bool:
    """Whether this machine shows an NVIDIA driver and we can talk to it."""
    return any(file.exists() for file in _DRIVER_FILES) and importlib.util.find_spec("pynvml") is not None


def visible(figures: Sequence[GpuFigures], environ: Mapping[str, str]) -> list[GpuFigures]:
    """The devices that CUDA programs see, in the order in which they count them.

    Source: CUDA C++ Programming Guide, CUDA_VISIBLE_DEVICES (indices, or UUIDs that may be shortened; the first entry
    that fits no device ends the list); the order is NVML's, since workers run with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(figures)
    seen: list[GpuFigures] = []
    for entry in (part.strip() for part in named.split(",")):
        found = next((row for index, row in enumerate(figures) if _fits(entry, index, row)), None)
        if found is None:
            break
        seen.append(found)
    return seen


def _fits(entry: str, index: int, row: GpuFigures) -> bool:
    return entry == str(index) or (entry.startswith("GPU-") and row.uuid.startswith(entry))


class GpuReader:
    """Keeps the newest figures while `run` runs. `latest` is empty while nothing is known, or the child hangs.

    `driver` tells whether there is a driver to ask at all.
    """

    def __init__(
        self, interval_s: float, argv: Sequence[str] | None = None, driver: Callable[[], bool] = has_driver
    ) -> None:
        self._interval_s = interval_s
        self._driver = driver
        self._argv = argv or [sys.executable, "-P", "-m", "daemons.hive.nvml", "--interval", str(interval_s)]
        self.latest: Sequence[GpuFigures] = ()
        self.first_line = asyncio.Event()

    async def run(self) -> None:
        """Read until cancelled; a child that ends or hangs is replaced, one that finds no driver is not."""
        if not await asyncio.to_thread(self._driver):
            self.first_line.set()
            return
        for wait_s in _RESTARTS.waits():
            returncode = await self._read_one_child()
            self.latest = ()
            self.first_line.set()
            if returncode == NO_DRIVER:
                return
            get_logger().warning("the reader of GPU figures ended", returncode=returncode, again_in_s=round(wait_s, 1))
            await asyncio.sleep(wait_s)

    async def _read_one_child(self) -> int | None:
        """Exit code of a child that ended; None for one that had to be ended."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            get_logger().warning("the reader of GPU figures cannot be started", reason=str(error))
            return NO_DRIVER
        try:
            await self._read_lines(process)
            return await asyncio.wait_for(process.wait(), self._patience_s)
        except TimeoutError:
            get_logger().warning("no GPU figures", silent_s=self._patience_s, pid=process.pid)
        except (ValueError, ValidationError) as error:
            get_logger().warning("GPU figures that cannot be read", reason=str(error)[:200])
        finally:
            # Only one that still runs: to signal one that just ended would lose its exit code.
            if process.returncode is None:
                process.kill()
                await process.wait()
        return None

    async def _read_lines(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await asyncio.wait_for(process.stdout.readline(), self._patience_s):
            self.latest = _Line.model_validate(json.loads(line)).devices
            self.first_line.set()

    @property
    def _patience_s(self) -> float:
        # The first line takes as long as Python and the driver need to start.
        return max(_SILENT_INTERVALS * self._interval_s, 5.0)
