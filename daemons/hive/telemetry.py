"""Figures of the host, and the fan-out of the newest state to any number of readers."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil

from daemons.contracts.events import EventType
from daemons.contracts.telemetry import HiveTelemetry, HostSample
from daemons.kit.sse import encode_raw

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def sample_host(models_folder: Path) -> HostSample:
    """The machine now. Blocks for as long as its file systems take to answer."""
    total, available = memory()
    disk = psutil.disk_usage(str(_existing(models_folder)))
    return HostSample(
        cpu_percent=psutil.cpu_percent(interval=None),
        load_1m=round(psutil.getloadavg()[0], 2),
        cores=psutil.cpu_count(logical=True) or 1,
        ram_total=total,
        ram_available=available,
        disk_total=disk.total,
        disk_free=disk.free,
    )


def memory() -> tuple[int, int]:
    """(total, available) bytes of RAM, of the machine or of the control group that this process is confined to."""
    system = psutil.virtual_memory()
    limit, used = _cgroup_memory()
    if not 0 < limit < system.total:
        return system.total, system.available
    return limit, max(0, min(system.available, limit - used))


def _cgroup_memory() -> tuple[int, int]:
    """(limit, in use without caches) in bytes of our control group (version 2); (0, 0) when there is no limit.

    Source: the kernel's Documentation/admin-guide/cgroup-v2.rst, memory interface files.
    """
    try:
        line = next(row for row in _OWN_CGROUP.read_text().splitlines() if row.startswith("0::"))
        folder = _CGROUP_ROOT / line[3:].lstrip("/")
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        pairs = (row.split() for row in (folder / "memory.stat").read_text().splitlines())
        caches = sum(int(value) for name, value in pairs if name in ("inactive_file", "active_file"))
    except (OSError, StopIteration, ValueError):  # "max" is no number: no limit
        return 0, 0
    return limit, max(0, used - caches)


def _existing(folder: Path) -> Path:
    """The folder or its nearest ancestor that exists: models may never have been downloaded."""
    return next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))


def cores() -> int:
    """Physical cores that this process may use: hyper-threads share one core's arithmetic units."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or usable, usable))


class Broadcast:
    """The newest state for many readers. A slow reader skips what it missed; nothing queues up for it."""

    def __init__(self) -> None:
        self._raw = ""
        self._version = 0
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def version(self) -> int:
        return self._version

    def publish(self, state: HiveTelemetry) -> None:
        self._raw = state.model_dump_json(exclude_none=True)
        self._version += 1
        self._wake()

    def close(self) -> None:
        """End all readers."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """``snapshot`` with the newest state at once, then ``telemetry`` whenever there is a newer one."""
        seen, kind = 0, EventType.SNAPSHOT
        while not self._closed:
            if seen == self._version:
                await self._changed.wait()
                continue
            seen, raw = self._version, self._raw
            yield encode_raw(kind.value, raw)
            kind = EventType.TELEMETRY
