"""Nodes, capabilities, and the state of the whole fleet."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from daemons.contracts.notices import Notice
from daemons.contracts.tasks import TaskRow
from daemons.contracts.telemetry import Device, HostSample
from daemons.contracts.wire import Answer, PrintableStr, Request
from daemons.contracts.workers import Backend, SelfTestReport, WorkerRow

API_VERSION = "v1"


class Health(Answer):
    """`GET /health` of every daemon."""

    status: Literal["alive"] = "alive"
    version: str
    api_version: str = API_VERSION


class NodeStatus(StrEnum):
    """What the queen knows of a node now. Only `reachable` gets new work."""

    STOPPED = "stopped"
    STARTING = "starting"
    REACHABLE = "reachable"
    STALE = "stale"
    UNREACHABLE = "unreachable"


class Capabilities(Answer):
    """`GET /v1/capabilities` of a hive."""

    node: str
    version: str
    hostname: str
    platform: str
    backends: list[Backend]
    devices: list[Device]
    worker_runtime: str = Field(description="version of llama-cpp-python, or why it does not run")
    self_test: SelfTestReport | None = Field(default=None, description="None: not run yet")
    pid: int
    started_at: float


class CapabilitiesQuery(Request):
    """Query of `/v1/capabilities`; `self_test` runs the self-test if none has passed yet."""

    self_test: bool = Field(default=False, strict=False)


class NodeRow(Answer):
    """One node. `url` is the hive's address as the queen reaches it; `last_seen_at` is unix seconds."""

    name: str
    host: str
    status: NodeStatus
    url: str = ""
    version: str = ""
    backends: list[Backend] = Field(default_factory=list)
    devices: list[Device] = Field(default_factory=list)
    host_sample: HostSample | None = None
    last_seen_at: float = 0.0
    problem: str = ""


class NodeList(Answer):
    nodes: list[NodeRow]


class ModelRow(Answer):
    """One model of a node's catalog."""

    id: str
    ref: str
    node: str = "local"
    path: str
    size_bytes: int
    architecture: str
    parameters: int = 0
    quantisation: str = ""
    context_length: int
    loaded: bool = False


class ModelList(Answer):
    models: list[ModelRow]


class QueueState(Answer):
    """Tasks that wait, and how many may."""

    waiting: int
    running: int
    limit: int


class FleetSnapshot(Answer):
    """`GET /v2/fleet`: everything that the screens show."""

    version: str
    queen_pid: int
    queen_url: str
    started_at: float
    draining: bool = False
    ephemeral: bool = False
    nodes: list[NodeRow]
    workers: list[WorkerRow]
    models: list[ModelRow]
    tasks: list[TaskRow] = Field(description="queued and running, and the last that ended")
    queue: QueueState
    notices: list[Notice] = Field(default_factory=list, description="of the queen and of hives, oldest first")


class LogQuery(Request):
    """Query of `/v2/logs` and `/v1/logs`. `since_s` seconds back; `tail` lines; `follow` keeps the stream open."""

    node: PrintableStr | None = Field(default=None, max_length=64)
    worker: PrintableStr | None = Field(default=None, max_length=64)
    since_s: float | None = Field(default=None, ge=0, strict=False)
    tail: int = Field(default=100, ge=0, le=100_000, strict=False)
    follow: bool = Field(default=False, strict=False)


class LogLine(Answer):
    """One line of a daemon's log: where it is from, when (unix seconds), level, sentence, fields."""

    node: str
    source: str
    at: float
    level: str
    text: str
    fields: dict[str, Any] = Field(default_factory=dict)


class LogLines(Answer):
    lines: list[LogLine]


class DrainRequest(Request):
    """Body of `POST …/admin/shutdown`: drain for at most so many seconds, then end. `workers` false keeps them."""

    drain_s: float | None = Field(default=None, ge=0, le=3600)
    workers: bool = True


class Accepted(Answer):
    accepted: bool = True
