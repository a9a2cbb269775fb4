"""The table of routes: every address of every daemon, once.

Servers take their routing from it, the client its paths, OpenAPI its schemas, and tests walk it (no key, wrong role).
"""

from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel

from daemons.contracts import fleet, inference, openai, tasks, workers
from daemons.contracts.errors import Code


class Daemon(StrEnum):
    """The three programs that listen."""

    QUEEN = "queen"
    HIVE = "hive"
    WORKER = "worker"


class Role(StrEnum):
    """Who may call: `admin` anything; `infer` inference and its own tasks; `worker` only its own ready callback."""

    ADMIN = "admin"
    INFER = "infer"
    WORKER = "worker"


class Kind(StrEnum):
    """What an answer is: a JSON object, server-sent events, one or the other as asked, no body, Prometheus text."""

    JSON = "json"
    EMPTY = "empty"
    STREAM = "stream"
    EITHER = "either"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """One header that a route reads: its name, what it is for, and the JSON schema type of its value."""

    name: str
    meaning: str
    type: str = "string"


REQUEST_ID = RequestHeader("X-Request-Id", "kept when well formed (letters, digits, . _ -, at most 64), else replaced")
DEADLINE = RequestHeader("X-Request-Deadline", "unix seconds by which the work is to be done", "number")
LAST_EVENT_ID = RequestHeader("Last-Event-ID", "number of the last event that the reader has", "integer")
PREFER = RequestHeader("Prefer", "`respond-async`: answer with 202 and go on without a reader (RFC 7240)")


@dataclass(frozen=True, slots=True)
class Route:
    """One address. `role` None needs no key; `body` or `query` is validated before the handler runs.

    `detached` is the answer with status 202 that a stream's route gives where it is asked to.
    `errors` are the codes of its own; `failures` adds those that every route may answer with.
    """

    daemon: Daemon
    method: str
    path: str
    summary: str
    role: Role | None = Role.ADMIN
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: tuple[RequestHeader, ...] = ()
    answer: type[BaseModel] | None = None
    detached: type[BaseModel] | None = None
    kind: Kind = Kind.JSON
    status: int = 200
    errors: frozenset[Code] = frozenset()

    @property
    def name(self) -> str:
        """Unique among all routes: ``queen:POST /v2/tasks``."""
        return f"{self.daemon.value}:{self.method} {self.path}"

    @property
    def failures(self) -> frozenset[Code]:
        """Every code with which this route may be answered."""
        keyed = _OF_KEYS if self.role is not None else frozenset()
        return self.errors | _OF_ALL | keyed | (_OF_BODIES if self.body is not None else frozenset())


_OF_ALL = frozenset({Code.INVALID_REQUEST, Code.HEADERS_TOO_LARGE, Code.TOO_MANY_BAD_REQUESTS, Code.INTERNAL})
_OF_KEYS = frozenset({Code.INVALID_API_KEY, Code.ROLE_FORBIDDEN})
_OF_BODIES = frozenset({Code.BODY_TOO_LARGE, Code.REQUEST_TOO_SLOW})
_NO_WORKER, _NO_NODE, _NO_TASK = (
    frozenset({code}) for code in (Code.WORKER_NOT_FOUND, Code.NODE_NOT_FOUND, Code.TASK_NOT_FOUND)
)
_DRAINING = frozenset({Code.DRAINING})
_OF_HIVES = frozenset({Code.HIVE_UNREACHABLE, Code.HIVE_BAD_RESPONSE})
_NOT_TAKEN = _DRAINING | frozenset({
    Code.INVALID_MODEL_REF, Code.INVALID_BACKEND, Code.NODE_NOT_FOUND, Code.QUEUE_FULL, Code.NO_NODE_AVAILABLE,
    Code.DEADLINE_EXCEEDED, Code.CANCELLED,
})  # fmt: skip
"""Why a queen refuses a task."""

_NOT_STARTED = _DRAINING | frozenset({
    Code.INVALID_MODEL_REF, Code.INVALID_BACKEND, Code.MODEL_INVALID, Code.MODEL_PATH_FORBIDDEN, Code.MODEL_NOT_FOUND,
    Code.DEVICE_NOT_FOUND, Code.BACKEND_UNAVAILABLE, Code.RAM_INSUFFICIENT, Code.VRAM_INSUFFICIENT,
    Code.CORES_INSUFFICIENT, Code.PORT_IN_USE, Code.HOME_UNUSABLE, Code.CONFIG_INVALID, Code.WORKER_RUNTIME_MISSING,
    Code.WORKER_RUNTIME_BROKEN, Code.WORKER_CRASH_LOOP,
})  # fmt: skip
"""Why a hive does not start a worker."""

_NOT_GENERATED = _DRAINING | frozenset({
    Code.CONTEXT_OVERFLOW, Code.MODEL_INVALID, Code.ALL_SLOTS_BUSY, Code.MODEL_LOADING, Code.DEADLINE_EXCEEDED,
    Code.CANCELLED, Code.ENGINE_FAILED,
})  # fmt: skip
"""Why a worker does not begin, or not finish, a generation."""

_NOT_READ = _DRAINING | frozenset({Code.MODEL_LOADING})
"""Why a worker does not look into its vocabulary."""

_NOT_ANSWERED = _NOT_TAKEN | _NOT_STARTED | _NOT_GENERATED | _OF_HIVES | frozenset({
    Code.WORKER_START_FAILED, Code.WORKER_OOM, Code.LOADING_TIMEOUT, Code.WORKER_CRASHED, Code.UPSTREAM_LOST,
    Code.INFERENCE_STALLED, Code.DAEMON_START_FAILED, Code.VERSION_MISMATCH,
})  # fmt: skip
"""Why a task that is waited for does not end well."""

_Q, _H, _W = Daemon.QUEEN, Daemon.HIVE, Daemon.WORKER
_INFER, _STREAM = Role.INFER, Kind.STREAM

QUEEN_HEALTH = Route(_Q, "GET", "/health", "alive, version", role=None, answer=fleet.Health)
TASK_CREATE = Route(
    _Q, "POST", "/v2/tasks", "run inference; the answer streams, or 202 with `Prefer: respond-async`",
    role=_INFER, body=tasks.TaskRequest, headers=(DEADLINE, PREFER), kind=_STREAM, detached=tasks.TaskAccepted,
    errors=_NOT_TAKEN,
)  # fmt: skip
TASK_LIST = Route(
    _Q, "GET", "/v2/tasks", "tasks, newest first", role=_INFER, query=tasks.TaskQuery, answer=tasks.TaskList
)
TASK_SHOW = Route(_Q, "GET", "/v2/tasks/{id}", "one task", role=_INFER, answer=tasks.TaskRow, errors=_NO_TASK)
TASK_EVENTS = Route(
    _Q, "GET", "/v2/tasks/{id}/events", "follow a task; resumes after `Last-Event-ID`",
    role=_INFER, headers=(LAST_EVENT_ID,), kind=_STREAM, errors=_NO_TASK,
)  # fmt: skip
TASK_CANCEL = Route(_Q, "DELETE", "/v2/tasks/{id}", "cancel", role=_INFER, kind=Kind.EMPTY, status=204, errors=_NO_TASK)
FLEET = Route(_Q, "GET", "/v2/fleet", "state of the whole fleet", answer=fleet.FleetSnapshot)
FLEET_EVENTS = Route(_Q, "GET", "/v2/fleet/events", "snapshot, then changes and telemetry", kind=_STREAM)
WORKER_LIST = Route(_Q, "GET", "/v2/workers/list", "workers of all nodes", answer=workers.WorkerList)
WORKER_HEALTH = Route(
    _Q, "GET", "/v2/workers/health", "each worker asked now",
    query=workers.WorkerHealthQuery, answer=workers.WorkerHealthList, errors=_NO_NODE | _OF_HIVES,
)  # fmt: skip
WORKER_START = Route(
    _Q, "POST", "/v2/workers/start", "load a model without a task; streams progress",
    body=workers.StartWorkerRequest, kind=_STREAM, errors=_NOT_TAKEN,
)  # fmt: skip
WORKER_SHUTDOWN = Route(
    _Q, "POST", "/v2/workers/shutdown", "drain and end one worker",
    body=workers.ShutdownRequest, answer=workers.WorkerRow, errors=_NO_WORKER | _DRAINING | _OF_HIVES,
)  # fmt: skip
MODEL_LIST = Route(_Q, "GET", "/v2/models/list", "models of all nodes", answer=fleet.ModelList)
NODE_LIST = Route(_Q, "GET", "/v2/registry/beehives/list", "nodes and what they have", answer=fleet.NodeList)
LOGS = Route(
    _Q, "GET", "/v2/logs", "log lines of queen, hives and workers; `follow=true` streams",
    query=fleet.LogQuery, kind=Kind.EITHER, answer=fleet.LogLines, errors=_NO_NODE | _NO_WORKER | _OF_HIVES,
)  # fmt: skip
QUEEN_SHUTDOWN = Route(
    _Q, "POST", "/v2/admin/shutdown", "drain and end", body=fleet.DrainRequest, answer=fleet.Accepted, status=202
)
OPENAI_MODELS = Route(_Q, "GET", "/v1/models", "OpenAI: models", role=_INFER)
OPENAI_MODEL = Route(
    _Q, "GET", "/v1/models/{id}", "OpenAI: one model, by its reference",
    role=_INFER, errors=frozenset({Code.MODEL_NOT_FOUND}),
)  # fmt: skip
OPENAI_CHAT = Route(
    _Q, "POST", "/v1/chat/completions", "OpenAI: chat; `stream: true` streams",
    role=_INFER, body=openai.ChatCompletionRequest, headers=(DEADLINE,), kind=Kind.EITHER, errors=_NOT_ANSWERED,
)  # fmt: skip
OPENAI_COMPLETIONS = Route(
    _Q, "POST", "/v1/completions", "OpenAI: completions; `stream: true` streams",
    role=_INFER, body=openai.CompletionRequest, headers=(DEADLINE,), kind=Kind.EITHER, errors=_NOT_ANSWERED,
)  # fmt: skip
QUEEN_METRICS = Route(_Q, "GET", "/metrics", "Prometheus", kind=Kind.TEXT)
QUEEN_OPENAPI = Route(_Q, "GET", "/openapi.json", "this table as OpenAPI 3.1")

HIVE_HEALTH = Route(_H, "GET", "/health", "alive, version", role=None, answer=fleet.Health)
HIVE_HEALTH_V1 = Route(_H, "GET", "/v1/health", "the same", role=None, answer=fleet.Health)
HIVE_CAPABILITIES = Route(
    _H, "GET", "/v1/capabilities", "backends, devices, self-test",
    query=fleet.CapabilitiesQuery, answer=fleet.Capabilities,
)  # fmt: skip
HIVE_TELEMETRY = Route(_H, "GET", "/v1/telemetry", "snapshot, then figures each second", kind=_STREAM)
HIVE_SPAWN = Route(
    _H, "POST", "/v1/workers/spawn", "start a worker; its own stream tells the progress",
    body=workers.SpawnRequest, answer=workers.SpawnedWorker, headers=(DEADLINE,), status=202,
    errors=_NOT_STARTED | frozenset({Code.DEADLINE_EXCEEDED}),
)  # fmt: skip
HIVE_READY = Route(
    _H, "POST", "/v1/workers/ready", "a worker's model is loaded",
    role=Role.WORKER, body=workers.ReadyCallback, answer=fleet.Accepted, errors=_DRAINING,
)  # fmt: skip
HIVE_WORKER_LIST = Route(
    _H, "GET", "/v1/workers/list", "workers, with their keys", answer=workers.HiveWorkerList, errors=_DRAINING
)
HIVE_WORKER_HEALTH = Route(
    _H, "GET", "/v1/workers/health", "each worker asked now", answer=workers.WorkerHealthList, errors=_DRAINING
)
HIVE_WORKER_SHUTDOWN = Route(
    _H, "POST", "/v1/workers/shutdown", "drain and end one worker; answers when it is gone",
    body=workers.ShutdownRequest, answer=workers.HiveWorker, errors=_NO_WORKER | _DRAINING,
)  # fmt: skip
HIVE_WORKER_EXITS = Route(
    _H, "GET", "/v1/workers/exits", "how workers ended, newest first",
    query=workers.WorkerExitQuery, answer=workers.WorkerExitList, errors=_NO_WORKER | _DRAINING,
)  # fmt: skip
HIVE_MODEL_LIST = Route(_H, "GET", "/v1/models/list", "catalog", answer=fleet.ModelList, errors=_DRAINING)
HIVE_LOGS = Route(
    _H, "GET", "/v1/logs", "log lines; `follow=true` streams on", query=fleet.LogQuery, kind=_STREAM, errors=_NO_WORKER
)
HIVE_SHUTDOWN = Route(
    _H, "POST", "/v1/admin/shutdown", "end workers, then the hive", body=fleet.DrainRequest, answer=fleet.Accepted,
    status=202,
)  # fmt: skip
HIVE_METRICS = Route(_H, "GET", "/metrics", "Prometheus", kind=Kind.TEXT)
HIVE_OPENAPI = Route(_H, "GET", "/openapi.json", "this table as OpenAPI 3.1")

WORKER_ALIVE = Route(_W, "GET", "/health", "alive, version", role=None, answer=fleet.Health)
WORKER_READY = Route(_W, "GET", "/v1/ready", "is the model loaded", answer=workers.Ready)
WORKER_PROGRESS = Route(_W, "GET", "/v1/loading/progress", "load progress up to `ready`", kind=_STREAM)
WORKER_INFER = Route(
    _W, "POST", "/v1/inference", "generate; the answer streams",
    body=inference.InferenceRequest, headers=(DEADLINE,), kind=_STREAM, errors=_NOT_GENERATED,
)  # fmt: skip
WORKER_CANCEL = Route(_W, "DELETE", "/v1/inference/{id}", "cancel", kind=Kind.EMPTY, status=204, errors=_NO_TASK)
WORKER_TOKENIZE = Route(
    _W, "POST", "/v1/tokenize", "text to token ids", body=inference.TokenizeRequest, errors=_NOT_READ
)
WORKER_DETOKENIZE = Route(
    _W, "POST", "/v1/detokenize", "token ids to text", body=inference.DetokenizeRequest, errors=_NOT_READ
)
WORKER_EMBED = Route(
    _W, "POST", "/v1/embeddings", "mean-pooled vectors",
    body=inference.EmbeddingsRequest, headers=(DEADLINE,), errors=_NOT_GENERATED,
)  # fmt: skip
WORKER_STATS = Route(_W, "GET", "/v1/stats", "state, slots, counters", answer=workers.WorkerStats)
WORKER_END = Route(
    _W, "POST", "/v1/admin/shutdown", "drain and end", body=fleet.DrainRequest, answer=fleet.Accepted, status=202
)
WORKER_METRICS = Route(_W, "GET", "/metrics", "Prometheus", kind=Kind.TEXT)
WORKER_OPENAPI = Route(_W, "GET", "/openapi.json", "this table as OpenAPI 3.1")

ROUTES: tuple[Route, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Route))


def routes_of(daemon: Daemon) -> tuple[Route, ...]:
    """The routes that one daemon serves."""
    return tuple(route for route in ROUTES if route.daemon is daemon)
