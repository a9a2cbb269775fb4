"""Program that prints live figures of NVIDIA devices, one line of JSON each interval: ``python -m daemons.hive.nvml``.

A process of its own, because NVML calls hang when a GPU is lost from the bus. It ends when nobody reads it any more.
Exit codes: 0 reader gone, 3 no usable driver.
"""

import json
import sys
import time
from types import ModuleType
from typing import Any

import click

NO_DRIVER = 3


def read_devices(nvml: ModuleType) -> list[dict[str, Any]]:
    """One row for each device in NVML's order: bytes, percent, °C, watts; a figure the device does not tell is None.

    `nvml` is the module pynvml, initialised. Raises its NVMLError when a device is lost.
    """
    return [_row(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(nvml.nvmlDeviceGetCount())]


def _row(nvml: ModuleType, handle: Any) -> dict[str, Any]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    utilisation = _told(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    power = _told(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    return {
        "uuid": _text(nvml.nvmlDeviceGetUUID(handle)),
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "memory_total": memory.total,
        "memory_free": memory.free,
        "utilisation_percent": None if utilisation is None else float(utilisation.gpu),
        "temperature_c": _told(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        "power_w": None if power is None else power / 1000,
    }


def _told(nvml: ModuleType, ask: Any, *arguments: Any) -> Any:
    try:
        return ask(*arguments)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_Unknown, nvml.NVMLError_NoPermission):
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


@click.command()
@click.option("--interval", default=1.0, type=click.FloatRange(min=0.01), help="Seconds between two lines.")
def main(interval: float) -> None:
    """Print live figures of NVIDIA devices until the reader is gone."""
    import pynvml  # 8,000 lines, which the hive does not need to read

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        sys.stderr.write(f"no NVIDIA driver: {error}\n")
        sys.exit(NO_DRIVER)
    try:
        while True:
            sys.stdout.write(json.dumps({"devices": read_devices(pynvml)}) + "\n")
            sys.stdout.flush()
            time.sleep(interval)
    except BrokenPipeError:
        sys.stderr.close()  # else Python complains about the flush at exit
        sys.exit(0)


if __name__ == "__main__":
    main()
