"""The table of routes: every address of every daemon, once.

Servers take their routing from it, the client its paths, OpenAPI its schemas, and tests walk it (no key, wrong role).
"""

from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel

from daemons.contracts import fleet, inference, openai, tasks, workers


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
    """What an answer is: one JSON object, no body, server-sent events, or Prometheus text."""

    JSON = "json"
    EMPTY = "empty"
    STREAM = "stream"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Route:
    """One address. `role` None needs no key; `body` is validated before the handler runs."""

    daemon: Daemon
    method: str
    path: str
    summary: str
    role: Role | None = Role.ADMIN
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    kind: Kind = Kind.JSON
    status: int = 200

    @property
    def name(self) -> str:
        """Unique among all routes: ``queen:POST /v2/tasks``."""
        return f"{self.daemon.value}:{self.method} {self.path}"


_Q, _H, _W = Daemon.QUEEN, Daemon.HIVE, Daemon.WORKER
_INFER, _STREAM = Role.INFER, Kind.STREAM

QUEEN_HEALTH = Route(_Q, "GET", "/health", "alive, version", role=None, answer=fleet.Health)
TASK_CREATE = Route(
    _Q, "POST", "/v2/tasks", "run inference; the answer streams, or 202 with `Prefer: respond-async`",
    role=_INFER, body=tasks.TaskRequest, kind=_STREAM,
)  # fmt: skip
TASK_LIST = Route(_Q, "GET", "/v2/tasks", "tasks, newest first", role=_INFER, answer=tasks.TaskList)
TASK_SHOW = Route(_Q, "GET", "/v2/tasks/{id}", "one task", role=_INFER, answer=tasks.TaskRow)
TASK_EVENTS = Route(
    _Q, "GET", "/v2/tasks/{id}/events", "follow a task; resumes after `Last-Event-ID`", role=_INFER, kind=_STREAM
)
TASK_CANCEL = Route(_Q, "DELETE", "/v2/tasks/{id}", "cancel", role=_INFER, kind=Kind.EMPTY, status=204)
FLEET = Route(_Q, "GET", "/v2/fleet", "state of the whole fleet", answer=fleet.FleetSnapshot)
FLEET_EVENTS = Route(_Q, "GET", "/v2/fleet/events", "snapshot, then changes and telemetry", kind=_STREAM)
WORKER_LIST = Route(_Q, "GET", "/v2/workers/list", "workers of all nodes", answer=workers.WorkerList)
WORKER_HEALTH = Route(
    _Q, "GET", "/v2/workers/health", "each worker asked now; `?node=`", answer=workers.WorkerHealthList
)
WORKER_START = Route(
    _Q, "POST", "/v2/workers/start", "load a model without a task; streams progress",
    body=workers.StartWorkerRequest, kind=_STREAM,
)  # fmt: skip
WORKER_SHUTDOWN = Route(
    _Q, "POST", "/v2/workers/shutdown", "drain and end one worker",
    body=workers.ShutdownRequest, answer=workers.WorkerRow,
)  # fmt: skip
MODEL_LIST = Route(_Q, "GET", "/v2/models/list", "models of all nodes", answer=fleet.ModelList)
NODE_LIST = Route(_Q, "GET", "/v2/registry/beehives/list", "nodes and what they have", answer=fleet.NodeList)
LOGS = Route(_Q, "GET", "/v2/logs", "log lines of queen, hives and workers; `follow=true` streams", kind=_STREAM)
QUEEN_SHUTDOWN = Route(
    _Q, "POST", "/v2/admin/shutdown", "drain and end", body=fleet.DrainRequest, answer=fleet.Accepted, status=202
)
OPENAI_MODELS = Route(_Q, "GET", "/v1/models", "OpenAI: models", role=_INFER)
OPENAI_MODEL = Route(_Q, "GET", "/v1/models/{id}", "OpenAI: one model, by its reference", role=_INFER)
OPENAI_CHAT = Route(_Q, "POST", "/v1/chat/completions", "OpenAI: chat", role=_INFER, body=openai.ChatCompletionRequest)
OPENAI_COMPLETIONS = Route(
    _Q, "POST", "/v1/completions", "OpenAI: completions", role=_INFER, body=openai.CompletionRequest
)
QUEEN_METRICS = Route(_Q, "GET", "/metrics", "Prometheus", kind=Kind.TEXT)
QUEEN_OPENAPI = Route(_Q, "GET", "/openapi.json", "this table as OpenAPI 3.1")

HIVE_HEALTH = Route(_H, "GET", "/health", "alive, version", role=None, answer=fleet.Health)
HIVE_HEALTH_V1 = Route(_H, "GET", "/v1/health", "the same", role=None, answer=fleet.Health)
HIVE_CAPABILITIES = Route(_H, "GET", "/v1/capabilities", "backends, devices, self-test", answer=fleet.Capabilities)
HIVE_TELEMETRY = Route(_H, "GET", "/v1/telemetry", "snapshot, then figures each second", kind=_STREAM)
HIVE_SPAWN = Route(
    _H, "POST", "/v1/workers/spawn", "start a worker; its own stream tells the progress",
    body=workers.SpawnRequest, answer=workers.SpawnedWorker, status=202,
)  # fmt: skip
HIVE_READY = Route(
    _H, "POST", "/v1/workers/ready", "a worker's model is loaded",
    role=Role.WORKER, body=workers.ReadyCallback, answer=fleet.Accepted,
)  # fmt: skip
HIVE_WORKER_LIST = Route(_H, "GET", "/v1/workers/list", "workers, with their keys", answer=workers.HiveWorkerList)
HIVE_WORKER_HEALTH = Route(_H, "GET", "/v1/workers/health", "each worker asked now", answer=workers.WorkerHealthList)
HIVE_WORKER_SHUTDOWN = Route(
    _H, "POST", "/v1/workers/shutdown", "drain and end one worker; answers when it is gone",
    body=workers.ShutdownRequest, answer=workers.HiveWorker,
)  # fmt: skip
HIVE_WORKER_EXITS = Route(
    _H, "GET", "/v1/workers/exits", "how workers ended, newest first; `?id=`", answer=workers.WorkerExitList
)
HIVE_MODEL_LIST = Route(_H, "GET", "/v1/models/list", "catalog", answer=fleet.ModelList)
HIVE_LOGS = Route(_H, "GET", "/v1/logs", "log lines; `follow=true` streams", kind=_STREAM)
HIVE_SHUTDOWN = Route(
    _H, "POST", "/v1/admin/shutdown", "end workers, then the hive", body=fleet.DrainRequest, answer=fleet.Accepted,
    status=202,
)  # fmt: skip
HIVE_METRICS = Route(_H, "GET", "/metrics", "Prometheus", kind=Kind.TEXT)

WORKER_ALIVE = Route(_W, "GET", "/health", "alive, version", role=None, answer=fleet.Health)
WORKER_READY = Route(_W, "GET", "/v1/ready", "is the model loaded", answer=workers.Ready)
WORKER_PROGRESS = Route(_W, "GET", "/v1/loading/progress", "load progress up to `ready`", kind=_STREAM)
WORKER_INFER = Route(
    _W, "POST", "/v1/inference", "generate; the answer streams", body=inference.InferenceRequest, kind=_STREAM
)
WORKER_CANCEL = Route(_W, "DELETE", "/v1/inference/{id}", "cancel", kind=Kind.EMPTY, status=204)
WORKER_TOKENIZE = Route(_W, "POST", "/v1/tokenize", "text to token ids", body=inference.TokenizeRequest)
WORKER_DETOKENIZE = Route(_W, "POST", "/v1/detokenize", "token ids to text", body=inference.DetokenizeRequest)
WORKER_EMBED = Route(_W, "POST", "/v1/embeddings", "mean-pooled vectors", body=inference.EmbeddingsRequest)
WORKER_STATS = Route(_W, "GET", "/v1/stats", "state, slots, counters", answer=workers.WorkerStats)
WORKER_END = Route(
    _W, "POST", "/v1/admin/shutdown", "drain and end", body=fleet.DrainRequest, answer=fleet.Accepted, status=202
)
WORKER_METRICS = Route(_W, "GET", "/metrics", "Prometheus", kind=Kind.TEXT)

ROUTES: tuple[Route, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Route))


def routes_of(daemon: Daemon) -> tuple[Route, ...]:
    """The routes that one daemon serves."""
    return tuple(route for route in ROUTES if route.daemon is daemon)
