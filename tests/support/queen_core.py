"""States, samples and events for tests of the queen's decisions."""

from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.tasks import Priority
from daemons.contracts.telemetry import Device, HiveTelemetry, HostSample
from daemons.contracts.workers import Backend, HiveWorker, WorkerState
from daemons.queen.core.effects import Effect, EndTask, SpawnWorker, StartRelay
from daemons.queen.core.events import NodeSampled, TaskSubmitted
from daemons.queen.core.state import Limits, Node, Spec, State

GIB = 2**30


def worker_row(worker_id: str = "w-00000001", model: str = "demo", **fields: Any) -> HiveWorker:
    """A loaded, idle worker with two slots."""
    values: dict[str, Any] = {
        "id": worker_id, "url": "http://127.0.0.1:1", "model_ref": model, "backend": Backend.CPU, "device": 0,
        "state": WorkerState.IDLE, "slots_total": 2, "slots_available": 2, "pid": 1, "ctx": 2048,
        "key": "k" * 16, **fields,
    }  # fmt: skip
    return HiveWorker(**values)


def cpu_device(**fields: Any) -> Device:
    return Device(
        **{"index": 0, "backend": "cpu", "name": "CPU", "memory_total": 8 * GIB, "memory_free": 4 * GIB, **fields}
    )


def cuda_device(index: int, free: int = 8 * GIB) -> Device:
    return Device(index=index, backend=Backend.CUDA, name=f"CUDA{index}", memory_total=24 * GIB, memory_free=free)


def host_sample() -> HostSample:
    return HostSample(
        cpu_percent=1.0, load_1m=0.1, cores=2, ram_total=8 * GIB, ram_available=4 * GIB, disk_total=GIB, disk_free=GIB
    )


def sample(*rows: HiveWorker, devices: list[Device] | None = None, at: float = 1.0) -> HiveTelemetry:
    return HiveTelemetry(at=at, devices=devices or [cpu_device()], host=host_sample(), workers=list(rows))


def sampled(node: str, *rows: HiveWorker, at: float = 0.0, devices: list[Device] | None = None) -> NodeSampled:
    return NodeSampled(at, node, sample(*rows, devices=devices))


def empty_state(*nodes: str, startable: bool = True, **limits: Any) -> State:
    """A state with stopped nodes."""
    names = nodes or ("local",)
    return State(Limits(**limits), nodes={name: Node(name, startable=startable) for name in names})


def submitted(task_id: str, at: float = 0.0, model: str = "demo", **fields: Any) -> TaskSubmitted:
    """`spec` fields and event fields alike."""
    event = {name: fields.pop(name) for name in ("prefix", "max_tokens", "start_only", "detached") if name in fields}
    priority = fields.pop("priority", Priority.INTERACTIVE)
    return TaskSubmitted(at, task_id, Spec(model=model, **fields), priority=priority, **event)


def no_memory(**details: Any) -> RbeeError:
    return RbeeError(Code.RAM_INSUFFICIENT, "needs 8 GiB, 2 GiB are free", details=details)


def relays(effects: list[Effect]) -> list[tuple[str, str]]:
    """(task, worker) of every relay that was begun."""
    return [(effect.task_id, effect.worker_id) for effect in effects if isinstance(effect, StartRelay)]


def ends(effects: list[Effect]) -> dict[str, Code | None]:
    """Task -> error code of every task that ended; None is completed."""
    return {e.task_id: e.error.code if e.error else None for e in effects if isinstance(e, EndTask)}


def spawns(effects: list[Effect]) -> list[SpawnWorker]:
    return [effect for effect in effects if isinstance(effect, SpawnWorker)]
