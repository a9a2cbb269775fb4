"""The reader of NVML: which calls become which figures, and what an unhelpful device leaves open."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from daemons.hive.gpus import GpuFigures, has_driver
from daemons.hive.nvml import NO_DRIVER, read_devices


class FakeNotSupported(Exception):
    """Stands for pynvml's errors of figures that a device does not tell."""


def fake_nvml(*, told: bool) -> ModuleType:
    """A module with the calls of pynvml that are used, for two devices."""

    def figure(value: Any) -> Any:
        def ask(*_: Any) -> Any:
            if not told:
                raise FakeNotSupported
            return value

        return ask

    nvml: Any = ModuleType("fake_pynvml")
    nvml.NVMLError_NotSupported = nvml.NVMLError_Unknown = nvml.NVMLError_NoPermission = FakeNotSupported
    nvml.NVML_TEMPERATURE_GPU = 0
    nvml.nvmlDeviceGetCount = lambda: 2
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(total=1000 + handle, free=900)
    nvml.nvmlDeviceGetUUID = lambda handle: f"GPU-{handle}".encode()
    nvml.nvmlDeviceGetName = lambda _handle: "Fake GPU"
    nvml.nvmlDeviceGetUtilizationRates = figure(SimpleNamespace(gpu=37))
    nvml.nvmlDeviceGetPowerUsage = figure(123_456)
    nvml.nvmlDeviceGetTemperature = figure(65)
    module: ModuleType = nvml
    return module


def test_figures_are_in_our_units() -> None:
    first, second = [GpuFigures.model_validate(row) for row in read_devices(fake_nvml(told=True))]
    assert (first.uuid, first.name, first.memory_total, second.memory_total) == ("GPU-0", "Fake GPU", 1000, 1001)
    assert (first.utilisation_percent, first.temperature_c, first.power_w) == (37.0, 65.0, 123.456)


def test_what_a_device_does_not_tell_is_none() -> None:
    rows = [GpuFigures.model_validate(row) for row in read_devices(fake_nvml(told=False))]
    assert [(row.utilisation_percent, row.temperature_c, row.power_w) for row in rows] == [(None, None, None)] * 2


def test_the_program_says_when_there_is_no_driver() -> None:
    if has_driver():
        return  # the figures themselves are checked where there are devices
    done = subprocess.run(
        [sys.executable, "-P", "-m", "daemons.hive.nvml"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (NO_DRIVER, "")
    assert "no NVIDIA driver" in done.stderr
