"""Rows, devices and models for tests of the hive."""

from dataclasses import replace
from functools import cache
from typing import Any

from daemons.contracts.telemetry import Device, HostSample
from daemons.contracts.workers import Backend, HiveWorker, WorkerState, WorkerStats
from daemons.hive.core.placement import ModelFacts
from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.headers import GgufHeader, read_header

MIB = 2**20
GIB = 2**30


@cache
def demo_header() -> GgufHeader:
    return read_header(DEMO_MODEL_PATH)


def model(weights: int = 100 * MIB, *, ref: str = "file:///m/model.gguf", context: int = 2048) -> ModelFacts:
    """The demo model's shape with weights and training context of choice."""
    header = replace(demo_header(), tensor_bytes=weights, file_bytes=weights, context_length=context)
    return ModelFacts(ref, "/m/model.gguf", header)


def cpu(free: int = 8 * GIB, *, cores: int = 4, total: int = 16 * GIB) -> Device:
    return Device(
        index=0, backend=Backend.CPU, name="CPU", description="a cpu", memory_total=total, memory_free=free, cores=cores
    )


def gpu(index: int = 0, free: int = 8 * GIB, *, backend: Backend = Backend.CUDA) -> Device:
    return Device(index=index, backend=backend, name=f"{backend.name}{index}", memory_total=24 * GIB, memory_free=free)


def host() -> HostSample:
    return HostSample(
        cpu_percent=1.0, load_1m=0.1, cores=4, ram_total=16 * GIB, ram_available=8 * GIB, disk_total=GIB, disk_free=GIB
    )


def worker(worker_id: str = "w-00000001", **fields: Any) -> HiveWorker:
    defaults: dict[str, Any] = {
        "url": "http://127.0.0.1:9",
        "model_ref": "demo",
        "backend": Backend.CPU,
        "device": 0,
        "device_name": "CPU",
        "state": WorkerState.IDLE,
        "slots_total": 4,
        "slots_available": 4,
        "pid": 4711,
        "ctx": 2048,
        "threads": 1,
        "memory_bytes": 100 * MIB,
        "started_at": 100.0,
        "last_active_at": 100.0,
        "key": f"key-of-{worker_id}",
    }
    return HiveWorker(id=worker_id, **{**defaults, **fields})


def stats(worker_id: str = "w-00000001", state: WorkerState = WorkerState.IDLE, **fields: Any) -> WorkerStats:
    defaults: dict[str, Any] = {
        "slots_total": 4,
        "slots_available": 3 if state is WorkerState.BUSY else 4,
        "ctx": 2048,
        "kv_cells_used": 0,
        "kv_cells_total": 8192,
        "requests_total": 0,
        "tokens_generated_total": 0,
        "tokens_per_second": 0.0,
        "last_active_at": 0.0,
        "progress": 0.5 if state is WorkerState.LOADING else 1.0,
    }
    return WorkerStats(id=worker_id, state=state, **{**defaults, **fields})
