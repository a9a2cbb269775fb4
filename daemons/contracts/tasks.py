"""Tasks: inference as the queen takes it, and the rows it keeps."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from daemons.contracts.ids import NODE_NAME
from daemons.contracts.inference import Generation, Timings, Usage
from daemons.contracts.wire import Answer, PrintableStr, Request
from daemons.contracts.workers import BackendChoice


class Priority(StrEnum):
    """Interactive tasks are placed before batch tasks."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class TaskState(StrEnum):
    """queued -> placing -> running -> completed | failed | cancelled."""

    QUEUED = "queued"
    PLACING = "placing"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED})


class TaskRequest(Generation):
    """Body of `POST /v2/tasks`. None means: the queen chooses and says so."""

    model: PrintableStr = Field(min_length=1, max_length=512)
    node: PrintableStr | None = Field(default=None, pattern=f"^{NODE_NAME.pattern}$")
    backend: BackendChoice | None = None
    device: int | None = Field(default=None, ge=0, le=255)
    ctx: int | None = Field(default=None, ge=64, le=1_048_576, description="tokens per slot of a new worker")
    slots: int | None = Field(default=None, ge=1, le=64)
    mmap: bool = True
    keep_alive_s: float | None = Field(default=None, ge=-1)
    priority: Priority = Field(default=Priority.INTERACTIVE, strict=False)
    timeout_s: float | None = Field(default=None, gt=0, le=86_400, description="deadline for the whole task")


class TaskRow(Answer):
    """One task as listed; times are unix seconds."""

    id: str
    state: TaskState
    model: str
    priority: Priority
    node: str | None = None
    worker_id: str | None = None
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    queue_position: int | None = None
    max_tokens: int
    tokens: int = 0
    finish_reason: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: dict[str, Any] | None = None
    detached: bool = False
    request_id: str = ""
    client: str = ""


class TaskQuery(Request):
    """Query of `GET /v2/tasks`."""

    limit: int = Field(default=100, ge=1, le=10_000, strict=False)
    state: TaskState | None = Field(default=None, strict=False)


class TaskList(Answer):
    tasks: list[TaskRow]


class TaskAccepted(Answer):
    """202 answer of a detached task."""

    id: str
    events_url: str
    state: Literal["queued"] = "queued"
