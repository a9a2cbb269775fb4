"""Live figures of a node: devices, host, workers."""

from pydantic import Field

from daemons.contracts.notices import Notice
from daemons.contracts.wire import Answer
from daemons.contracts.workers import Backend, HiveWorker, WorkerRow


class Device(Answer):
    """One device of a node; `index` is what `--device` takes, counted per backend. Bytes, percent, °C, watts."""

    index: int
    backend: Backend
    name: str = Field(description="llama.cpp's name, e.g. CPU, CUDA0")
    description: str = ""
    memory_total: int
    memory_free: int
    cores: int = Field(default=0, description="cores of a CPU device; 0 for others")
    threads_free: int = Field(default=0, description="cores not yet handed out to workers")
    utilisation_percent: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class HostSample(Answer):
    """The machine itself. `load_1m` is the load average; disk figures are those of the model folder's file system."""

    cpu_percent: float
    load_1m: float
    cores: int
    ram_total: int
    ram_available: int
    disk_total: int
    disk_free: int


class HiveTelemetry(Answer):
    """Data of every event of the hive's `GET /v1/telemetry`; `at` is unix seconds on the node's clock."""

    at: float
    devices: list[Device]
    host: HostSample
    workers: list[HiveWorker]
    notices: list[Notice] = Field(default_factory=list)


class NodeTelemetry(Answer):
    """The same, as the queen passes it on."""

    node: str
    at: float
    devices: list[Device]
    host: HostSample
    workers: list[WorkerRow]
