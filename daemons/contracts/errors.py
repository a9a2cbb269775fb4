"""Every failure that rbee names, in one table: code -> HTTP status, whether a retry may help, what to run next.

Pure standard library, so that every layer (the engine included) may raise these.

    RbeeError            one class; the code tells the cases apart
      .code              Code, a key of ERROR_TABLE
      .message           what happened, with the numbers
      .details           the same numbers as JSON
      .hint              a command to run next
      .request_id        id of the request that failed, where one is known
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Error codes as they stand on the wire; see ``ERROR_TABLE`` for what each means."""

    # 400: the request itself
    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_MODEL_REF = "INVALID_MODEL_REF"
    INVALID_BACKEND = "INVALID_BACKEND"
    CONTEXT_OVERFLOW = "CONTEXT_OVERFLOW"
    MODEL_INVALID = "MODEL_INVALID"
    CONFIG_INVALID = "CONFIG_INVALID"
    HOME_UNUSABLE = "HOME_UNUSABLE"
    KEY_FILE_INVALID = "KEY_FILE_INVALID"
    INSECURE_BIND = "INSECURE_BIND"
    # 401, 403
    INVALID_API_KEY = "INVALID_API_KEY"
    ROLE_FORBIDDEN = "ROLE_FORBIDDEN"
    MODEL_PATH_FORBIDDEN = "MODEL_PATH_FORBIDDEN"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    # 404
    ROUTE_NOT_FOUND = "ROUTE_NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    NODE_NOT_FOUND = "NODE_NOT_FOUND"
    WORKER_NOT_FOUND = "WORKER_NOT_FOUND"
    TASK_NOT_FOUND = "TASK_NOT_FOUND"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    DEVICE_NOT_FOUND = "DEVICE_NOT_FOUND"
    # 408, 499
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    # 409
    ALREADY_RUNNING = "ALREADY_RUNNING"
    PORT_IN_USE = "PORT_IN_USE"
    HIVE_OWNED = "HIVE_OWNED"
    VERSION_MISMATCH = "VERSION_MISMATCH"
    BACKEND_UNAVAILABLE = "BACKEND_UNAVAILABLE"
    STATE_SCHEMA_NEWER = "STATE_SCHEMA_NEWER"
    # 408, 413, 431, 429: how a request comes
    REQUEST_TOO_SLOW = "REQUEST_TOO_SLOW"
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    TOO_MANY_BAD_REQUESTS = "TOO_MANY_BAD_REQUESTS"
    # 500: ours
    INTERNAL = "INTERNAL"
    ENGINE_FAILED = "ENGINE_FAILED"
    STATE_CORRUPT = "STATE_CORRUPT"
    DAEMON_START_FAILED = "DAEMON_START_FAILED"
    INSTALL_FAILED = "INSTALL_FAILED"
    WORKER_RUNTIME_BROKEN = "WORKER_RUNTIME_BROKEN"
    WORKER_RUNTIME_MISSING = "WORKER_RUNTIME_MISSING"
    # 502: somebody behind us was lost
    QUEEN_UNREACHABLE = "QUEEN_UNREACHABLE"
    QUEEN_RESTARTED = "QUEEN_RESTARTED"
    HIVE_UNREACHABLE = "HIVE_UNREACHABLE"
    HIVE_BAD_RESPONSE = "HIVE_BAD_RESPONSE"
    UPSTREAM_LOST = "UPSTREAM_LOST"
    WORKER_START_FAILED = "WORKER_START_FAILED"
    WORKER_CRASHED = "WORKER_CRASHED"
    WORKER_CRASH_LOOP = "WORKER_CRASH_LOOP"
    LOADING_TIMEOUT = "LOADING_TIMEOUT"
    INFERENCE_STALLED = "INFERENCE_STALLED"
    # 503: come back later
    QUEUE_FULL = "QUEUE_FULL"
    ALL_SLOTS_BUSY = "ALL_SLOTS_BUSY"
    MODEL_LOADING = "MODEL_LOADING"
    DRAINING = "DRAINING"
    NO_NODE_AVAILABLE = "NO_NODE_AVAILABLE"
    # 507: memory, cores or disk
    RAM_INSUFFICIENT = "RAM_INSUFFICIENT"
    VRAM_INSUFFICIENT = "VRAM_INSUFFICIENT"
    CORES_INSUFFICIENT = "CORES_INSUFFICIENT"
    WORKER_OOM = "WORKER_OOM"


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """What one code means: HTTP status, whether the same request may succeed later, and the default hint."""

    status: int
    retryable: bool
    meaning: str
    hint: str


_DOCTOR = "rbee doctor"
_MODELS = "rbee models list"
_LOGS = "rbee logs --tail 40"

ERROR_TABLE: Mapping[Code, ErrorSpec] = {
    Code.INVALID_REQUEST: ErrorSpec(400, False, "a field is missing, unknown or out of range", "rbee infer --help"),
    Code.INVALID_MODEL_REF: ErrorSpec(
        400, False, "the model is not written as a known reference", "rbee infer --model demo --prompt hello"
    ),
    Code.INVALID_BACKEND: ErrorSpec(400, False, "the backend is not cpu, cuda, metal, vulkan or rocm", "rbee devices"),
    Code.CONTEXT_OVERFLOW: ErrorSpec(
        400, False, "the prompt does not fit the context", "shorten the prompt, or: rbee infer --ctx N …"
    ),
    Code.MODEL_INVALID: ErrorSpec(400, False, "the file is not a GGUF model that llama.cpp reads", _MODELS),
    Code.CONFIG_INVALID: ErrorSpec(400, False, "a configuration file or variable is wrong", "rbee config show"),
    Code.HOME_UNUSABLE: ErrorSpec(400, False, "the state folder cannot be written", "export RBEE_HOME=/path/to/folder"),
    Code.KEY_FILE_INVALID: ErrorSpec(
        400, False, "a key file is empty, has several lines or is readable by others", "chmod 600 ~/.rbee/keys/*"
    ),
    Code.INSECURE_BIND: ErrorSpec(
        400, False, "serving other machines is not possible yet: loopback only", "rbee queen start --host 127.0.0.1"
    ),
    Code.INVALID_API_KEY: ErrorSpec(401, False, "the bearer key is missing or wrong", "rbee config show"),
    Code.ROLE_FORBIDDEN: ErrorSpec(403, False, "the key's role may not do this", "rbee config show"),
    Code.MODEL_PATH_FORBIDDEN: ErrorSpec(
        403, False, "the file is outside the folders that models may come from", "rbee config show"
    ),
    Code.PERMISSION_DENIED: ErrorSpec(403, False, "no right to write there", "sudo rbee install --system"),
    Code.ROUTE_NOT_FOUND: ErrorSpec(404, False, "no such address on this daemon", "rbee --help"),
    Code.METHOD_NOT_ALLOWED: ErrorSpec(405, False, "the address exists, the method does not", "rbee --help"),
    Code.NODE_NOT_FOUND: ErrorSpec(
        404,
        False,
        "no node of that name",
        "rbee setup add-node --name <name> --ssh-host <host> --ssh-user <user>",
    ),
    Code.WORKER_NOT_FOUND: ErrorSpec(404, False, "no worker of that id", "rbee workers list"),
    Code.TASK_NOT_FOUND: ErrorSpec(404, False, "no task of that id, or it was forgotten", "rbee status"),
    Code.MODEL_NOT_FOUND: ErrorSpec(404, False, "the node does not have this model", _MODELS),
    Code.DEVICE_NOT_FOUND: ErrorSpec(404, False, "no device of that name or number", "rbee devices"),
    Code.DEADLINE_EXCEEDED: ErrorSpec(408, False, "the deadline passed", "rbee infer --timeout SECONDS …"),
    Code.CANCELLED: ErrorSpec(499, False, "cancelled by a client", "rbee status"),
    Code.ALREADY_RUNNING: ErrorSpec(409, False, "one is running on this state folder", "rbee queen status"),
    Code.PORT_IN_USE: ErrorSpec(409, False, "another program holds the port", "rbee queen start --port 0"),
    Code.HIVE_OWNED: ErrorSpec(409, False, "the hive belongs to another queen", "rbee hive status"),
    Code.VERSION_MISMATCH: ErrorSpec(409, False, "two parts of rbee differ in major.minor", "rbee queen stop"),
    Code.BACKEND_UNAVAILABLE: ErrorSpec(409, False, "the node has no such backend", "rbee devices"),
    Code.STATE_SCHEMA_NEWER: ErrorSpec(
        409, False, "the database was written by a newer rbee", "pip install --upgrade rbee"
    ),
    Code.REQUEST_TOO_SLOW: ErrorSpec(408, True, "the request did not arrive whole in time", "rbee config show"),
    Code.HEADERS_TOO_LARGE: ErrorSpec(431, False, "address and headers are over the limit", "rbee config show"),
    Code.BODY_TOO_LARGE: ErrorSpec(413, False, "the request body is over the limit", "rbee config show"),
    Code.TOO_MANY_BAD_REQUESTS: ErrorSpec(429, True, "too many bad requests from this client", "rbee infer --help"),
    Code.INTERNAL: ErrorSpec(500, False, "a defect in rbee; the log has the trace", _LOGS),
    Code.ENGINE_FAILED: ErrorSpec(500, True, "llama.cpp failed to decode", _LOGS),
    Code.STATE_CORRUPT: ErrorSpec(500, False, "a database file cannot be read", "ls ~/.rbee/backups"),
    Code.DAEMON_START_FAILED: ErrorSpec(500, False, "a daemon ended before it answered", _LOGS),
    Code.INSTALL_FAILED: ErrorSpec(500, False, "a part of rbee could not be installed", "rbee install --plan"),
    Code.WORKER_RUNTIME_BROKEN: ErrorSpec(500, False, "llama.cpp is installed but does not run here", _DOCTOR),
    Code.WORKER_RUNTIME_MISSING: ErrorSpec(500, False, "llama-cpp-python is not installed", _DOCTOR),
    Code.QUEEN_UNREACHABLE: ErrorSpec(502, True, "the queen does not answer", "rbee queen status"),
    Code.QUEEN_RESTARTED: ErrorSpec(502, True, "the queen ended while the task was running", "rbee logs --tail 40"),
    Code.HIVE_UNREACHABLE: ErrorSpec(502, True, "the hive does not answer", "rbee hive status"),
    Code.HIVE_BAD_RESPONSE: ErrorSpec(502, False, "the hive's answer is not rbee's protocol", "rbee hive status"),
    Code.UPSTREAM_LOST: ErrorSpec(502, True, "a stream closed without its end event", _LOGS),
    Code.WORKER_START_FAILED: ErrorSpec(502, False, "the worker ended before its model was loaded", _LOGS),
    Code.WORKER_CRASHED: ErrorSpec(502, True, "the worker died while it was working", _LOGS),
    Code.WORKER_CRASH_LOOP: ErrorSpec(
        502, False, "the model crashed too often there and is not started again", "rbee workers list"
    ),
    Code.LOADING_TIMEOUT: ErrorSpec(502, False, "the model was not loaded in time", _LOGS),
    Code.INFERENCE_STALLED: ErrorSpec(502, True, "no token came for the stall limit", _LOGS),
    Code.QUEUE_FULL: ErrorSpec(503, True, "the queue is full or off", "rbee status"),
    Code.ALL_SLOTS_BUSY: ErrorSpec(503, True, "every slot of the worker is taken", "rbee ps"),
    Code.MODEL_LOADING: ErrorSpec(503, True, "the model is still being loaded", "rbee ps"),
    Code.DRAINING: ErrorSpec(503, True, "the daemon is stopping and takes no new work", "rbee status"),
    Code.NO_NODE_AVAILABLE: ErrorSpec(503, True, "no node can take new work now", "rbee status"),
    Code.RAM_INSUFFICIENT: ErrorSpec(
        507, False, "the model does not fit in memory", "rbee infer --ctx 2048 … or a smaller quantisation"
    ),
    Code.VRAM_INSUFFICIENT: ErrorSpec(
        507, False, "the model does not fit on the device", "rbee infer --ctx 2048 … or a smaller quantisation"
    ),
    Code.CORES_INSUFFICIENT: ErrorSpec(
        507, True, "all cores of the device are handed out to workers", "rbee workers list"
    ),
    Code.WORKER_OOM: ErrorSpec(507, False, "the worker ran out of memory", "rbee devices"),
}


class RbeeError(Exception):
    """A failure that a person can act on; ``ERROR_TABLE[code]`` gives its status and default hint."""

    def __init__(
        self, code: Code, message: str, *, details: Mapping[str, Any] | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        self.hint = hint or ERROR_TABLE[code].hint
        self.request_id = ""

    @property
    def spec(self) -> ErrorSpec:
        return ERROR_TABLE[self.code]

    @property
    def status(self) -> int:
        return self.spec.status

    @property
    def retry_after(self) -> float | None:
        """Seconds after which a retry makes sense, where the raiser knew; sent as ``Retry-After``."""
        value = self.details.get("retry_after_s")
        return float(value) if value is not None else None

    def as_dict(self, request_id: str = "") -> dict[str, Any]:
        """The object under ``"error"`` of a JSON answer and the data of an ``error`` event."""
        return {
            "code": self.code.value,
            "message": self.message,
            "details": self.details,
            "hint": self.hint,
            "request_id": request_id or self.request_id,
        }

    @classmethod
    def from_dict(cls, error: Mapping[str, Any]) -> "RbeeError":
        """Read back what ``as_dict`` wrote; an unknown code becomes ``INTERNAL``, kept in details."""
        details = dict(error.get("details") or {})
        try:
            code = Code(str(error.get("code")))
        except ValueError:
            code = Code.INTERNAL
            details["unknown_code"] = str(error.get("code"))
        failure = cls(code, str(error.get("message", "")), details=details, hint=str(error.get("hint") or "") or None)
        failure.request_id = str(error.get("request_id") or "")
        return failure

    def __repr__(self) -> str:
        return f"RbeeError({self.code.value}, {self.message!r})"
