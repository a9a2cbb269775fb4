"""What the listings show of each kind of row."""

import os
import time
from collections.abc import Sequence
from typing import Any

from daemons.contracts.fleet import LogLine, ModelRow, NodeRow
from daemons.contracts.tasks import TaskRow
from daemons.contracts.workers import WorkerHealth, WorkerRow
from daemons.lifecycle.installing import Step
from rbee_tui.cli.clean import one_line
from rbee_tui.cli.figures import UNKNOWN, age, duration, figure, local_time, percent, size
from rbee_tui.cli.tables import Column
from rbee_tui.keeper.config import SettingRow
from rbee_tui.keeper.fleet import NodeDevice

NODE_COLUMNS: tuple[Column[NodeRow], ...] = (
    Column("NODE", lambda node: node.name),
    Column("STATUS", lambda node: node.status.value),
    Column("BACKENDS", lambda node: ",".join(backend.value for backend in node.backends) or UNKNOWN),
    Column("CPU", lambda node: percent(node.host_sample.cpu_percent if node.host_sample else None), right=True),
    Column("RAM FREE", lambda node: size(node.host_sample.ram_available) if node.host_sample else UNKNOWN, right=True),
    Column("SEEN", lambda node: age(node.last_seen_at, time.time()), right=True),
)

DEVICE_COLUMNS: tuple[Column[NodeDevice], ...] = (
    Column("NODE", lambda row: row.node),
    Column("BACKEND", lambda row: row.device.backend.value),
    Column("DEVICE", lambda row: str(row.device.index), right=True),
    Column("NAME", lambda row: row.device.description or row.device.name),
    Column("FREE", lambda row: size(row.device.memory_free), right=True),
    Column("TOTAL", lambda row: size(row.device.memory_total), right=True),
    Column("CORES FREE", lambda row: _cores(row), right=True),
    Column("USE", lambda row: percent(row.device.utilisation_percent), right=True),
    Column("TEMP", lambda row: _figure(row.device.temperature_c, "°C"), right=True),
    Column("POWER", lambda row: _figure(row.device.power_w, "W"), right=True),
)

PS_COLUMNS: tuple[Column[WorkerRow], ...] = (
    Column("WORKER", lambda worker: worker.id),
    Column("MODEL", lambda worker: worker.model_ref),
    Column("NODE", lambda worker: worker.node),
    Column("DEVICE", lambda worker: f"{worker.backend.value}:{worker.device}"),
    Column("STATE", lambda worker: worker.state.value),
    Column("BUSY", lambda worker: _busy(worker), right=True),
    Column("CTX", lambda worker: str(worker.ctx), right=True),
    Column("MEMORY", lambda worker: size(worker.memory_bytes) if worker.memory_bytes else UNKNOWN, right=True),
    Column("TOK/S", lambda worker: f"{worker.tokens_per_second:.1f}", right=True),
    Column("UNLOADS", lambda worker: _unloaded_in(worker), right=True),
)

WORKER_COLUMNS: tuple[Column[WorkerRow], ...] = (
    Column("WORKER", lambda worker: worker.id),
    Column("NODE", lambda worker: worker.node),
    Column("STATE", lambda worker: worker.state.value),
    Column("MODEL", lambda worker: worker.model_ref),
    Column("DEVICE", lambda worker: f"{worker.backend.value}:{worker.device}"),
    Column("SLOTS FREE", lambda worker: f"{worker.slots_available}/{worker.slots_total}", right=True),
    Column("THREADS", lambda worker: str(worker.threads), right=True),
    Column("PID", lambda worker: str(worker.pid or UNKNOWN), right=True),
    Column("UP", lambda worker: age(worker.started_at, time.time()), right=True),
    Column("URL", lambda worker: worker.url or UNKNOWN),
)

HEALTH_COLUMNS: tuple[Column[WorkerHealth], ...] = (
    Column("WORKER", lambda row: row.id),
    Column("NODE", lambda row: row.node),
    Column("MODEL", lambda row: row.model_ref),
    Column("STATE", lambda row: row.state.value),
    Column("HEALTH", lambda row: "healthy" if row.healthy else "unhealthy"),
    Column("ANSWER", lambda row: UNKNOWN if row.answer_ms is None else f"{row.answer_ms:.1f} ms", right=True),
    Column("PROBLEM", lambda row: row.error or ""),
)

MODEL_COLUMNS: tuple[Column[ModelRow], ...] = (
    Column("MODEL", lambda model: model.ref),
    Column("NODE", lambda model: model.node),
    Column("SIZE", lambda model: size(model.size_bytes), right=True),
    Column("ARCHITECTURE", lambda model: model.architecture),
    Column("QUANT", lambda model: model.quantisation or UNKNOWN),
    Column("CONTEXT", lambda model: str(model.context_length), right=True),
    Column("LOADED", lambda model: "yes" if model.loaded else "no"),
)

TASK_COLUMNS: tuple[Column[TaskRow], ...] = (
    Column("TASK", lambda task: task.id),
    Column("STATE", lambda task: task.state.value),
    Column("MODEL", lambda task: task.model),
    Column("NODE", lambda task: task.node or UNKNOWN),
    Column("WORKER", lambda task: task.worker_id or UNKNOWN),
    Column("TOKENS", lambda task: f"{task.tokens}/{task.max_tokens}", right=True),
    Column("AGE", lambda task: age(task.created_at, time.time()), right=True),
    Column("TOOK", lambda task: _took(task), right=True),
    Column("END", lambda task: _end(task)),
)

SETTING_COLUMNS: tuple[Column[SettingRow], ...] = (
    Column("KEY", lambda row: row.key),
    Column("VALUE", lambda row: _setting(row.value)),
    Column("SOURCE", lambda row: row.source),
)

STEP_COLUMNS: tuple[Column[Step], ...] = (
    Column("STEP", lambda step: step.action.value),
    Column("PATH", lambda step: str(step.thing.path)),
    Column("WHAT", lambda step: f"{step.thing.about}{f'; {step.why}' if step.why else ''}"),
)


def log_line(line: LogLine) -> str:
    """One log line for people: time, where from, level, sentence, fields."""
    fields = "".join(f" {name}={figure(value)}" for name, value in line.fields.items())
    return f"{local_time(line.at)} {line.node}/{line.source} {line.level.upper()} {line.text}{fields}"


def task_lines(task: TaskRow) -> list[str]:
    """Everything that is known of one task, a line for each field."""
    fields = task.model_dump(mode="json", exclude_none=True)
    return [f"{name}: {one_line(_task_field(name, value))}" for name, value in fields.items() if value != ""]


def _task_field(name: str, value: Any) -> str:
    if name.endswith("_at"):
        return local_time(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "error":
        hint = f" (see: {value['hint']})" if value.get("hint") else ""
        return f"{value.get('code', 'failed')} {value.get('message', '')}".rstrip() + hint
    if isinstance(value, dict):
        return ", ".join(f"{key}={figure(part)}" for key, part in value.items())
    return figure(value)


def _cores(row: NodeDevice) -> str:
    return f"{row.device.threads_free}/{row.device.cores}" if row.device.cores else UNKNOWN


def _figure(value: float | None, unit: str) -> str:
    return UNKNOWN if value is None else f"{value:.0f} {unit}"


def _busy(worker: WorkerRow) -> str:
    taken = worker.slots_total - worker.slots_available
    return f"{taken}/{worker.slots_total}" if worker.has_process else UNKNOWN


def worker_problems(workers: Sequence[WorkerRow]) -> list[str]:
    """A sentence for each worker that is not there as it should be."""
    return [f"worker {row.id}: {row.model_ref} {row.problem}" for row in workers if row.problem]


def _unloaded_in(worker: WorkerRow) -> str:
    """When the idle limit ends the worker, if nothing comes; of one that comes after a crash, when it is started."""
    if worker.starts_at:
        return f"starts in {duration(worker.starts_at - time.time())}"
    if worker.idle_limit_s < 0:
        return "never"
    if worker.slots_available < worker.slots_total or not worker.last_active_at:
        return UNKNOWN
    return f"in {duration(worker.last_active_at + worker.idle_limit_s - time.time())}"


def _setting(value: Any) -> str:
    """As it would be written in the environment."""
    if isinstance(value, list):
        return os.pathsep.join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _took(task: TaskRow) -> str:
    return duration(task.ended_at - task.created_at) if task.ended_at else UNKNOWN


def _end(task: TaskRow) -> str:
    if task.error:
        return str(task.error.get("code", "failed"))
    return task.finish_reason or UNKNOWN
