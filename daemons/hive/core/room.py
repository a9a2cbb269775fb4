"""What of each device is still to be given away: memory that loads in flight will take, cores that workers hold."""

from collections.abc import Sequence
from dataclasses import dataclass

from daemons.contracts.telemetry import Device
from daemons.contracts.workers import Backend, HiveWorker, WorkerState


@dataclass(frozen=True, slots=True)
class Room:
    """One device with what new work may take: `device.memory_free` and `device.threads_free` are after all promises.

    `loading_bytes` is promised to the workers in `loading` (their ids), which have not finished taking it.
    """

    device: Device
    loading_bytes: int = 0
    loading: tuple[str, ...] = ()


def rooms(devices: Sequence[Device], workers: Sequence[HiveWorker]) -> tuple[Room, ...]:
    """The devices as measured, less what is promised to `workers`.

    A load in flight counts with its whole estimate, although part of it may have left the measured free memory
    already: too little is promised rather than too much. On the CPU all workers count against the total besides,
    because mapped weights look like free memory to the system.
    """
    return tuple(_room(device, workers) for device in devices)


def _room(device: Device, workers: Sequence[HiveWorker]) -> Room:
    here = [row for row in workers if (row.backend, row.device) == (device.backend, device.index)]
    loading = [row for row in here if row.state is WorkerState.LOADING]
    loading_bytes = sum(row.memory_bytes for row in loading)
    free = device.memory_free - loading_bytes
    threads_free = 0
    if device.backend is Backend.CPU:
        free = min(free, device.memory_total - sum(row.memory_bytes for row in here))
        # Workers on other devices keep host threads busy as well.
        threads_free = max(0, device.cores - sum(row.threads for row in workers))
    left = device.model_copy(update={"memory_free": max(0, free), "threads_free": threads_free})
    return Room(left, loading_bytes, tuple(row.id for row in loading))
