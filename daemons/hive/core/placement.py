"""Where a model goes: device, context, threads. Explicit wishes are kept or refused, never changed.

Without a named device accelerators come before the CPU; among them the one with the most context wins, then the one
with the most free memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.telemetry import Device
from daemons.contracts.workers import Backend, SpawnRequest
from daemons.hive.core.room import Room
from daemons.models.fit import ContextChoice, MemoryEstimate, MemoryRoom, choose_context, readable
from daemons.models.headers import GgufHeader

DRIVER_BYTES = 640 * 2**20
"""What a GPU's driver and its libraries take for one process beside the model; no part of the estimate."""

RETRY_AFTER_LOAD_S = 2.0
_MEMORY_CODES = frozenset({Code.RAM_INSUFFICIENT, Code.VRAM_INSUFFICIENT})

Sentence = tuple[str, dict[str, Any]]
"""What is told to people, and its figures."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model that lies on this machine: canonical reference, real path, what its header says."""

    ref: str
    path: str
    header: GgufHeader


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a spawn gets that does not say otherwise. 0: the hive chooses."""

    ctx: int = 0
    slots: int = 4
    batch: int = 512
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision: the device (with what is free on it), and the size of the worker."""

    room: Room
    context: ContextChoice
    slots: int
    batch: int
    threads: int

    @property
    def device(self) -> Device:
        return self.room.device

    @property
    def estimate(self) -> MemoryEstimate:
        return self.context.estimate

    @property
    def promised_bytes(self) -> int:
        """What the worker will take of its device, the driver's share included."""
        return self.estimate.total + _driver_bytes(self.device)


def place(request: SpawnRequest, model: ModelFacts, rooms: Sequence[Room], defaults: Defaults) -> Placement:
    """Decide, or say why not.

    Raises RbeeError: BACKEND_UNAVAILABLE with the backends that are there; DEVICE_NOT_FOUND with the valid numbers;
    RAM_INSUFFICIENT, VRAM_INSUFFICIENT or CORES_INSUFFICIENT with the numbers.
    """
    placements: list[Placement] = []
    refusals: list[RbeeError] = []
    for room in sorted(_candidates(rooms, request.backend, request.device), key=_preference, reverse=True):
        try:
            placements.append(_place_on(room, request, model, defaults))
        except RbeeError as refusal:
            refusals.append(refusal)
    if placements:
        return max(placements, key=lambda found: (not is_cpu(found.device), found.context.ctx, _preference(found.room)))
    # Cores come back when a worker ends, so that refusal is the one worth acting on.
    raise next((refusal for refusal in refusals if refusal.code is Code.CORES_INSUFFICIENT), refusals[0])


def sentences(placement: Placement, model: ModelFacts) -> list[Sentence]:
    """What was decided, for people."""
    device, estimate, context = placement.device, placement.estimate, placement.context
    header = model.header
    figures = {
        "device": device.name,
        "backend": device.backend.value,
        "needed_bytes": estimate.total,
        "available_bytes": device.memory_free,
        "weights_bytes": estimate.weights,
        "kv_cache_bytes": estimate.kv_cache,
        "compute_bytes": estimate.compute,
    }
    where = (
        f"{model.ref} ({header.architecture}, {header.quantisation}, {readable(header.file_bytes)}) goes to"
        f" {device.name}{f' ({device.description})' if device.description else ''}:"
        f" it needs {readable(estimate.total)} of {readable(device.memory_free)} free"
    )
    threads = f"{placement.threads} compute thread{'' if placement.threads == 1 else 's'}"
    how = f"{placement.slots} slots of {context.ctx:,} tokens, {threads}"
    sizes = {"ctx": context.ctx, "slots": placement.slots, "threads": placement.threads}
    reason: list[Sentence] = [(context.reason, {"ctx": context.ctx})] if context.reason else []
    return [(where, figures), (how, sizes), *reason]


def is_cpu(device: Device) -> bool:
    return device.backend is Backend.CPU


def _preference(room: Room) -> tuple[bool, int]:
    return (not is_cpu(room.device), room.device.memory_free)


def _candidates(rooms: Sequence[Room], backend: Backend | None, device: int | None) -> Sequence[Room]:
    of_backend = [room for room in rooms if backend in (None, room.device.backend)]
    if not of_backend:
        there = sorted({room.device.backend.value for room in rooms})
        raise RbeeError(
            Code.BACKEND_UNAVAILABLE,
            f"this machine has no {backend.value if backend else 'usable'} backend; it has: {', '.join(there) or '-'}",
            details={"backend": backend.value if backend else None, "available": there},
        )
    chosen = [room for room in of_backend if device in (None, room.device.index)]
    if not chosen:
        valid = _numbers(of_backend)
        listed = "; ".join(f"{name} {', '.join(map(str, numbers))}" for name, numbers in valid.items())
        raise RbeeError(
            Code.DEVICE_NOT_FOUND,
            f"there is no device {device}; the valid numbers are: {listed}",
            details={"device": device, "valid": valid},
        )
    return chosen


def _numbers(rooms: Sequence[Room]) -> dict[str, list[int]]:
    valid: dict[str, list[int]] = {}
    for room in rooms:
        valid.setdefault(room.device.backend.value, []).append(room.device.index)
    return {name: sorted(numbers) for name, numbers in sorted(valid.items())}


def _place_on(room: Room, request: SpawnRequest, model: ModelFacts, defaults: Defaults) -> Placement:
    slots = request.slots or defaults.slots
    device = room.device
    free = MemoryRoom(max(0, device.memory_free - _driver_bytes(device)), device.name, on_gpu=not is_cpu(device))
    try:
        context = choose_context(
            model.header, _requested_ctx(request, model, defaults), slots, free, batch=defaults.batch
        )
    except RbeeError as refusal:
        raise _with_promises(refusal, room) from None
    return Placement(room, context, slots, defaults.batch, _threads(device, defaults))


def _requested_ctx(request: SpawnRequest, model: ModelFacts, defaults: Defaults) -> int | None:
    """A wish of the client is kept as it is; a default from the configuration is meant for any model."""
    if request.ctx is not None or not defaults.ctx:
        return request.ctx
    return min(defaults.ctx, model.header.context_length or defaults.ctx)


def _driver_bytes(device: Device) -> int:
    return 0 if is_cpu(device) else DRIVER_BYTES


def _with_promises(refusal: RbeeError, room: Room) -> RbeeError:
    """A refusal for lack of memory that also tells what loads in flight are about to take."""
    if refusal.code not in _MEMORY_CODES:
        return refusal
    reserve = _driver_bytes(room.device)
    details = {**refusal.details, "driver_bytes": reserve} if reserve else dict(refusal.details)
    message = refusal.message
    if room.loading:
        message += f"; {readable(room.loading_bytes)} are promised to {', '.join(room.loading)}, still loading"
        details |= {"loading": list(room.loading), "loading_bytes": room.loading_bytes}
        if details["needed_bytes"] <= room.device.memory_free + room.loading_bytes - reserve:
            details["retry_after_s"] = RETRY_AFTER_LOAD_S
    return RbeeError(refusal.code, message, details=details, hint=refusal.hint)


def _threads(device: Device, defaults: Defaults) -> int:
    """Compute threads: ggml's threads spin, so a core is never given out twice. Raises CORES_INSUFFICIENT."""
    if not is_cpu(device):
        return defaults.threads or 1
    usual = defaults.threads or max(1, device.cores // 2)
    least = defaults.threads or 1
    if device.threads_free < least:
        raise RbeeError(
            Code.CORES_INSUFFICIENT,
            f"a worker needs {least} of the {device.cores} cores of {device.name}, and {device.threads_free} are not"
            " handed out",
            details={"device": device.name, "needed": least, "free": device.threads_free, "cores": device.cores},
        )
    return min(usual, device.threads_free)
