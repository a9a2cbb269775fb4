"""Events of task, loading, fleet and telemetry streams, as server-sent events carry them.

On the wire: ``id: <n>``, ``event: <type>``, ``data: <one line of JSON>``. Task, download and loading streams end with
exactly one ``done`` or ``error``; fleet, telemetry and log streams begin with one ``snapshot`` and have no end.
"""

from enum import StrEnum
from typing import Any

from pydantic import Field

from daemons.contracts.inference import FinishReason, Timings, Usage
from daemons.contracts.wire import Answer


class EventType(StrEnum):
    """Names that stand behind ``event:``."""

    NARRATION = "narration"
    PROGRESS = "progress"
    TOKEN = "token"  # noqa: S105 - the name of an event, not a secret
    DONE = "done"
    ERROR = "error"
    READY = "ready"
    SNAPSHOT = "snapshot"
    NODE = "node"
    WORKER = "worker"
    WORKER_REMOVED = "worker_removed"
    TASK = "task"
    TELEMETRY = "telemetry"
    LOG = "log"


LAST_EVENTS = frozenset({EventType.DONE, EventType.ERROR})
"""The two events that end a stream which has an end."""


class Narration(Answer):
    """One sentence about what is being done: who (`queen`, `hive local`, `worker w-1a2b`), what, and the figures."""

    actor: str
    text: str
    fields: dict[str, Any] = Field(default_factory=dict)


class Progress(Answer):
    """Something long is under way. `done` and `total` are in `unit`; `total` is 0 while unknown."""

    stage: str
    done: float
    total: float
    unit: str


class Token(Answer):
    """Text of one or more tokens that came in one step; `index` counts tokens from 0 (the first of this event)."""

    token: str
    index: int


class Done(Answer):
    """End of a task: counts, reason, and what it cost."""

    done: bool = True
    total_tokens: int
    duration_ms: float
    finish_reason: FinishReason
    usage: Usage
    timings: Timings


class TextSnapshot(Answer):
    """Sent to a reader whose `Last-Event-ID` is no longer kept: the text so far, then the stream goes on."""

    text: str
    index: int
