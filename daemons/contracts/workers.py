"""Workers as hive and queen speak of them, and the one line a worker gets on stdin."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from daemons.contracts.errors import Code
from daemons.contracts.events import Narration
from daemons.contracts.ids import NODE_NAME
from daemons.contracts.wire import Answer, CodedValueError, PrintableStr, Request


class Backend(StrEnum):
    """The llama.cpp backends that rbee places work on."""

    CPU = "cpu"
    CUDA = "cuda"
    METAL = "metal"
    VULKAN = "vulkan"
    ROCM = "rocm"


class WorkerState(StrEnum):
    """Life of a worker: loading -> idle <-> busy -> draining -> gone; or unhealthy, or failed.

    Two rows have no process (pid 0): `restarting`, one that comes in the place of one that crashed, and `failed` where
    so many crashed that none comes until a person has shut that row down.
    """

    RESTARTING = "restarting"
    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"
    FAILED = "failed"


READY_STATES = frozenset({WorkerState.IDLE, WorkerState.BUSY})


def _known_backend(name: Any) -> Any:
    if isinstance(name, str) and name not in list(Backend):
        accepted = ", ".join(Backend)
        raise CodedValueError(Code.INVALID_BACKEND, f"{name[:40]!a} is no backend; accepted are {accepted}")
    return name


BackendChoice = Annotated[Backend, Field(strict=False), BeforeValidator(_known_backend)]
"""A backend as a client names it; another name than those there are is INVALID_BACKEND."""


class SpawnRequest(Request):
    """Body of the hive's `POST /v1/workers/spawn`. None means: the hive chooses and says so."""

    model_ref: PrintableStr = Field(min_length=1, max_length=512)
    backend: BackendChoice | None = None
    device: int | None = Field(default=None, ge=0, le=255)
    ctx: int | None = Field(default=None, ge=64, le=1_048_576, description="tokens per slot")
    slots: int | None = Field(default=None, ge=1, le=64)
    mmap: bool = True
    keep_alive_s: float | None = Field(default=None, ge=-1, description="idle limit; -1 pins the worker")


class WorkerRow(Answer):
    """One worker as shown to people and programs; `command` holds no secret."""

    id: str
    node: str = "local"
    url: str
    model_ref: str
    backend: Backend
    device: int
    device_name: str = ""
    state: WorkerState
    slots_total: int
    slots_available: int
    pid: int
    ctx: int = Field(description="tokens per slot")
    threads: int = 1
    memory_bytes: int = Field(default=0, description="estimate: weights + KV cache + compute buffers")
    progress: float = Field(default=1.0, ge=0.0, le=1.0, description="share of the model that is loaded")
    command: list[str] = Field(default_factory=list)
    started_at: float = Field(default=0.0, description="unix seconds")
    last_active_at: float = Field(default=0.0, description="unix seconds; the idle limit counts from here")
    idle_limit_s: float = Field(default=300.0, description="-1 is pinned")
    tokens_per_second: float = 0.0
    restarts: int = Field(default=0, description="crashes of this model on this device within the window that counts")
    starts_at: float = Field(default=0.0, description="unix seconds; when a restarting worker is started")
    problem: str = Field(default="", description="what happened, of a row without a process")

    @property
    def has_process(self) -> bool:
        return self.pid > 0


class HiveWorker(WorkerRow):
    """A worker row between hive and queen, with the worker's own key; never shown further."""

    key: str = Field(repr=False)

    def public(self, node: str) -> WorkerRow:
        """The same row without the key, with the node's name."""
        return WorkerRow.model_validate({**self.model_dump(exclude={"key"}), "node": node})


class SpawnedWorker(HiveWorker):
    """Answer of a spawn: the row, and in sentences what the hive chose (device, context, threads, memory)."""

    narration: list[Narration] = Field(default_factory=list)


class HiveWorkerList(Answer):
    workers: list[HiveWorker]


class WorkerList(Answer):
    workers: list[WorkerRow]


class ReadyCallback(Request):
    """What a worker posts to its hive when its model is loaded (with its own key)."""

    id: PrintableStr = Field(min_length=1, max_length=64)
    url: PrintableStr = Field(max_length=512)
    model_ref: PrintableStr = Field(max_length=512)
    backend: Backend = Field(strict=False)
    device: int = Field(ge=0, le=255)
    pid: int = Field(ge=1, le=2**31)
    slots_total: int = Field(ge=1, le=64)
    ctx: int = Field(ge=1, le=2**31)
    load_ms: float = Field(ge=0)


class ShutdownRequest(Request):
    """Ask a worker to drain and end. On the hive and the queen `id` names it."""

    id: PrintableStr = Field(min_length=1, max_length=64)
    drain_s: float | None = Field(default=None, ge=0, le=3600, description="None: the configured drain limit")


class StartWorkerRequest(SpawnRequest):
    """Body of the queen's `POST /v2/workers/start`: a spawn on a node that is named or chosen."""

    node: PrintableStr | None = Field(default=None, pattern=f"^{NODE_NAME.pattern}$")


class WorkerHealth(Answer):
    """One worker, asked now. `answer_ms` is the round trip from the hive; `error` says why it is not healthy."""

    id: str
    node: str = "local"
    model_ref: str
    state: WorkerState
    healthy: bool
    answer_ms: float | None = None
    error: str | None = None


class WorkerHealthQuery(Request):
    """Query of `GET /v2/workers/health`; without a node: all of them."""

    node: PrintableStr | None = Field(default=None, pattern=f"^{NODE_NAME.pattern}$")


class WorkerHealthList(Answer):
    workers: list[WorkerHealth]


class ExitReason(StrEnum):
    """Why a worker is gone. Only the last four are failures."""

    STOPPED = "stopped"
    IDLE = "idle"
    HIVE_SHUTDOWN = "hive_shutdown"
    ENDED = "ended"
    START_FAILED = "start_failed"
    LOADING_TIMEOUT = "loading_timeout"
    UNHEALTHY = "unhealthy"
    CRASHED = "crashed"


class WorkerExit(Answer):
    """How one worker ended. `returncode` is None for a process that was adopted; negative is a signal.

    `error` is the error object (code, message, details with the last log lines) of an end that nobody asked for.
    """

    id: str
    model_ref: str
    pid: int
    state: WorkerState = Field(description="the last one before the end")
    reason: ExitReason
    how: str = Field(description="for people: exited with code 1, killed by SIGSEGV …")
    returncode: int | None = None
    started_at: float
    ended_at: float
    error: dict[str, Any] | None = None


class WorkerExitList(Answer):
    """Newest first."""

    exits: list[WorkerExit]


class WorkerExitQuery(Request):
    """Query of the hive's `/v1/workers/exits`. With `id` the answer waits a moment for a worker that is just dying."""

    id: PrintableStr | None = Field(default=None, min_length=1, max_length=64)
    limit: int = Field(default=50, ge=1, le=1000, strict=False)


class WorkerStats(Answer):
    """`GET /v1/stats` of a worker. `last_active_at` is unix seconds."""

    id: str
    state: WorkerState
    slots_total: int
    slots_available: int
    ctx: int
    kv_cells_used: int
    kv_cells_total: int
    requests_total: int
    tokens_generated_total: int
    tokens_per_second: float
    last_active_at: float
    progress: float = 1.0


class Ready(Answer):
    """`GET /v1/ready` of a worker."""

    ready: bool
    state: WorkerState
    model_loaded: bool = False
    progress_url: str | None = None


LAST_WORDS = "ended in order"
"""A worker's last log line when nothing was wrong: of one that is not its child the hive learns no exit code."""


class WorkerSettings(Request):
    """The one JSON line that a hive writes on a worker's stdin before it closes it.

    `listen_fd` is an inherited, listening TCP socket: the address is known, and taken, before the worker runs.
    """

    worker_id: str
    key: str = Field(min_length=16, repr=False)
    listen_fd: int | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    model_ref: str
    model_path: str
    backend: Backend = Field(default=Backend.CPU, strict=False)
    device: int = 0
    device_name: str = Field(default="", description="llama.cpp's name of the device, e.g. CUDA0; empty on the CPU")
    ctx: int = Field(default=0, ge=0, description="tokens per slot; 0: the model's, up to 8192")
    slots: int = Field(default=4, ge=1, le=64)
    batch: int = Field(default=512, ge=1, le=65_536)
    threads: int = Field(default=1, ge=1)
    cores: list[int] = Field(default_factory=list, description="CPU numbers to pin to; empty: none")
    mmap: bool = True
    ready_url: str | None = Field(default=None, description="the hive's POST /v1/workers/ready")
    hive_pid: int | None = Field(default=None, ge=1, description="the hive's process; None: the worker's parent")
    log_path: str
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    orphan_grace_s: float = Field(default=300.0, ge=0)
    drain_s: float = Field(default=30.0, ge=0)
    max_body_bytes: int = Field(default=8 * 2**20, ge=1024)


class DeviceReport(Answer):
    """One device as llama.cpp itself reports it (`llm-worker-rbee devices --json`); bytes."""

    name: str
    description: str
    backend: Backend
    memory_total: int
    memory_free: int


class DevicesReport(Answer):
    devices: list[DeviceReport]
    version: dict[str, Any] = Field(default_factory=dict, description="llama-cpp-python's version, system info")


class SelfTestReport(Answer):
    """`llm-worker-rbee self-test --json`: decoded a few tokens of the demo model, or why not."""

    ok: bool
    tokens: int = 0
    text: str = ""
    load_ms: float = 0.0
    tokens_per_second: float = 0.0
    system_info: str = ""
    error: str | None = None
