"""What the queen remembers beyond its own life, in `queen.duckdb`: tasks, narration, telemetry per minute, crashes.

Nothing is written per token. Of a running task the text so far is kept every few seconds, so that it survives a crash.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Narration
from daemons.contracts.tasks import TaskRequest, TaskRow, TaskState
from daemons.contracts.telemetry import HiveTelemetry
from daemons.contracts.workers import READY_STATES
from daemons.kit.logs import get_logger
from daemons.kit.store import DAY_S, Migration, Row, Store

MIGRATIONS = (
    Migration(
        1,
        "tasks, narration, telemetry, crashes",
        """
        CREATE TABLE tasks (
            id VARCHAR PRIMARY KEY, state VARCHAR NOT NULL, model VARCHAR NOT NULL, priority VARCHAR NOT NULL,
            node VARCHAR, worker_id VARCHAR, created_at DOUBLE NOT NULL, started_at DOUBLE, ended_at DOUBLE,
            max_tokens BIGINT NOT NULL, tokens BIGINT NOT NULL, finish_reason VARCHAR, usage VARCHAR, timings VARCHAR,
            error VARCHAR, detached BOOLEAN NOT NULL, request_id VARCHAR NOT NULL, client VARCHAR NOT NULL,
            request VARCHAR
        );
        CREATE TABLE task_texts (task_id VARCHAR PRIMARY KEY, tokens BIGINT NOT NULL, text VARCHAR NOT NULL);
        CREATE TABLE narration (
            task_id VARCHAR NOT NULL, said_at DOUBLE NOT NULL, actor VARCHAR NOT NULL, text VARCHAR NOT NULL,
            fields VARCHAR NOT NULL
        );
        CREATE TABLE telemetry (
            node VARCHAR NOT NULL, minute BIGINT NOT NULL, samples INTEGER NOT NULL, cpu_percent DOUBLE NOT NULL,
            ram_available BIGINT NOT NULL, ram_total BIGINT NOT NULL, disk_free BIGINT NOT NULL,
            workers DOUBLE NOT NULL, slots_busy DOUBLE NOT NULL, tokens_per_second DOUBLE NOT NULL, devices VARCHAR
        );
        CREATE TABLE crashes (
            crashed_at DOUBLE NOT NULL, node VARCHAR NOT NULL, worker_id VARCHAR NOT NULL, model VARCHAR NOT NULL,
            task_id VARCHAR, error VARCHAR NOT NULL
        );
        """,
    ),
)

_MINUTE_S = 60
_JSON_COLUMNS = ("usage", "timings", "error")
_ROW_COLUMNS = (
    "id", "state", "model", "priority", "node", "worker_id", "created_at", "started_at", "ended_at", "max_tokens",
    "tokens", "finish_reason", "usage", "timings", "error", "detached", "request_id", "client",
)  # fmt: skip
_WIDTH = len(_ROW_COLUMNS) + 1
_SELECT_ROWS = f"SELECT {', '.join(_ROW_COLUMNS)} FROM tasks"  # noqa: S608 - column names of our own


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task that waited when an earlier queen ended."""

    row: TaskRow
    request: TaskRequest


class QueenStore:
    """Writes never wait: a slow or full disk costs history, not service."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def open(self) -> None:
        """Raises RbeeError as `Store.open` does."""
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def stored(self, within_s: float) -> bool:
        """Wait until everything said so far is on the disk, but not for longer; whether it is."""
        try:
            async with asyncio.timeout(within_s):
                await self._store.flush()
        except (TimeoutError, RbeeError):  # too slow, or closed meanwhile
            return False
        return True

    def prune(self, now: float, history_days: float) -> None:
        """Forget what is older than `history_days`."""
        oldest = now - history_days * DAY_S
        write = self._store.write_soon
        write("DELETE FROM narration WHERE said_at < ?", (oldest,))
        write("DELETE FROM crashes WHERE crashed_at < ?", (oldest,))
        write("DELETE FROM telemetry WHERE minute < ?", (int(oldest // _MINUTE_S),))
        write("DELETE FROM task_texts WHERE task_id IN (SELECT id FROM tasks WHERE ended_at < ?)", (oldest,))
        write("DELETE FROM tasks WHERE ended_at < ?", (oldest,))

    def save(self, rows: Sequence[tuple[TaskRow, TaskRequest | None]]) -> None:
        """Keep rows, in one statement; a request only while its task may have to be queued again.

        One that cannot be put into the database's types is left out and logged: it must not take the others along.
        """
        self._insert("INSERT OR REPLACE INTO tasks", _WIDTH, (partial(_stored_row, *pair) for pair in rows))

    def save_text(self, task_id: str, tokens: int, text: str) -> None:
        """Keep the text so far."""
        self._store.write_soon("INSERT OR REPLACE INTO task_texts VALUES (?, ?, ?)", (task_id, tokens, text))

    def drop_text(self, task_id: str) -> None:
        """The task was completed: its reader has the text."""
        self._store.write_soon("DELETE FROM task_texts WHERE task_id = ?", (task_id,))

    def narrated(self, sentences: Sequence[tuple[str, float, Narration]]) -> None:
        """Keep what was said about tasks: (task, unix seconds, sentence)."""
        self._insert("INSERT INTO narration", 5, (partial(_stored_sentence, *told) for told in sentences))

    def _insert(self, into: str, width: int, makers: Iterable[Callable[[], Sequence[Any]]]) -> None:
        """Insert the rows that can be made, in one statement."""
        params: list[Any] = []
        for make in makers:
            try:
                params += make()
            except Exception as error:
                get_logger().error("a row was not stored", into=into, exc_info=error)
        if params:
            self._store.write_soon(f"{into} VALUES {_marks(len(params) // width, width)}", params)

    def crashed(self, at: float, node: str, worker_id: str, model: str, task_id: str | None, error: RbeeError) -> None:
        """Keep that a worker was lost: while it answered a task, or while it loaded its model (no task)."""
        self._store.write_soon(
            "INSERT INTO crashes VALUES (?, ?, ?, ?, ?, ?)",
            (at, node, worker_id, model, task_id, json.dumps(error.as_dict(), default=str)),
        )

    def sampled(self, minute: "TelemetryMinute") -> None:
        """Keep one minute of a node."""
        self._store.write_soon("INSERT INTO telemetry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", minute.as_row())

    async def recover(self, now: float) -> list[StoredTask]:
        """After an earlier queen: end what was running as QUEEN_RESTARTED; what waited, oldest first.

        What waits in a database that was restored may have run since its backup: it is ended, too, lest it runs twice.
        """
        rows = await self._store.read(
            f"SELECT {', '.join(_ROW_COLUMNS)}, request FROM tasks"  # noqa: S608 - column names of our own
            " WHERE state IN ('queued', 'placing', 'running') ORDER BY created_at"
        )
        running = [row["id"] for row in rows if row["state"] == TaskState.RUNNING]
        waiting = [stored for row in rows if row["id"] not in running and (stored := _stored(row)) is not None]
        unreadable = {row["id"] for row in rows} - {stored.row.id for stored in waiting} - set(running)
        for task_id in running:
            self._fail(task_id, "it was running; its text so far is kept", f"rbee tasks show {task_id} --text", now)
        for task_id in sorted(unreadable):
            self._fail(task_id, "it waited, and this version cannot read its request", "rbee logs --tail 40", now)
        if not self._store.restored:
            return waiting
        for stored in waiting:
            self._fail(stored.row.id, "it waited in a backup, and may have run since that was made", "rbee status", now)
        return []

    def _fail(self, task_id: str, how: str, hint: str, now: float) -> None:
        """End a task as QUEEN_RESTARTED."""
        error = RbeeError(Code.QUEEN_RESTARTED, f"the queen ended before this task was done: {how}", hint=hint)
        self._store.write_soon(
            "UPDATE tasks SET state = 'failed', ended_at = ?, error = ?, request = NULL,"
            " tokens = greatest(tokens, coalesce((SELECT t.tokens FROM task_texts t WHERE t.task_id = id), 0))"
            " WHERE id = ?",
            (now, json.dumps(error.as_dict()), task_id),
        )

    async def rows(
        self, *, limit: int = 100, client: str | None = None, states: Sequence[TaskState] = ()
    ) -> list[TaskRow]:
        """Tasks, newest first; of one client, or in some states."""
        names = [state.value for state in states] or [state.value for state in TaskState]
        rows = await self._store.read(
            f"{_SELECT_ROWS} WHERE (? IS NULL OR client = ?) AND list_contains(?, state)"
            " ORDER BY created_at DESC LIMIT ?",
            (client, client, names, limit),
        )
        return [_row_of(row) for row in rows]

    async def row(self, task_id: str) -> TaskRow | None:
        """One task."""
        rows = await self._store.read(f"{_SELECT_ROWS} WHERE id = ?", (task_id,))
        return _row_of(rows[0]) if rows else None

    async def text(self, task_id: str) -> tuple[str, int]:
        """(text, tokens) that were kept of a task that did not complete."""
        rows = await self._store.read("SELECT text, tokens FROM task_texts WHERE task_id = ?", (task_id,))
        return (rows[0]["text"], rows[0]["tokens"]) if rows else ("", 0)


def _stored(row: Row) -> StoredTask | None:
    """A task that waited; None when its request cannot be read any more, as after an upgrade."""
    try:
        # From JSON: the request was checked as JSON, too, when it came in.
        return StoredTask(_row_of(row), TaskRequest.model_validate_json(row["request"] or "{}"))
    except ValidationError:
        return None


def _marks(rows: int, width: int) -> str:
    """Question marks for so many rows: one statement for many costs the database hardly more than one for each."""
    return ", ".join([f"({', '.join('?' * width)})"] * rows)


def _stored_row(row: TaskRow, request: TaskRequest | None) -> list[Any]:
    return [*_columns(row), request.model_dump_json(exclude_none=True) if request is not None else None]


def _stored_sentence(task_id: str, at: float, sentence: Narration) -> list[Any]:
    return [task_id, at, sentence.actor, sentence.text, json.dumps(sentence.fields, default=str)]


def _columns(row: TaskRow) -> tuple[Any, ...]:
    dumped = row.model_dump(mode="json")
    return tuple(
        json.dumps(dumped[name], default=str) if name in _JSON_COLUMNS and dumped[name] is not None else dumped[name]
        for name in _ROW_COLUMNS
    )


def _row_of(row: Row) -> TaskRow:
    decoded = {name: json.loads(row[name]) if row[name] is not None else None for name in _JSON_COLUMNS}
    return TaskRow.model_validate({**row, **decoded})


class TelemetryMinute:
    """Mean figures of one node over one minute (of unix time)."""

    def __init__(self, node: str, minute: int) -> None:
        self.node = node
        self.minute = minute
        self._samples: list[HiveTelemetry] = []

    def add(self, sample: HiveTelemetry) -> None:
        self._samples.append(sample)

    def as_row(self) -> tuple[Any, ...]:
        """Columns of the table `telemetry`; memory and disk are the minute's lowest, devices its last."""
        samples = self._samples
        last = samples[-1]
        ready = [[row for row in sample.workers if row.state in READY_STATES] for sample in samples]
        count = len(samples)
        return (
            self.node,
            self.minute,
            count,
            round(sum(sample.host.cpu_percent for sample in samples) / count, 2),
            min(sample.host.ram_available for sample in samples),
            last.host.ram_total,
            min(sample.host.disk_free for sample in samples),
            round(sum(len(rows) for rows in ready) / count, 3),
            round(sum(row.slots_total - row.slots_available for rows in ready for row in rows) / count, 3),
            round(sum(row.tokens_per_second for rows in ready for row in rows) / count, 3),
            json.dumps([device.model_dump(mode="json", exclude_none=True) for device in last.devices]),
        )


class TelemetryMinutes:
    """Gathers samples and keeps each minute of each node once it is over."""

    def __init__(self, store: QueenStore) -> None:
        self._store = store
        self._open: dict[str, TelemetryMinute] = {}

    def add(self, node: str, sample: HiveTelemetry, now: float) -> None:
        """`now`: unix seconds on the queen's clock."""
        minute = int(now // _MINUTE_S)
        current = self._open.get(node)
        if current is None or current.minute != minute:
            if current is not None:
                self._store.sampled(current)
            current = self._open[node] = TelemetryMinute(node, minute)
        current.add(sample)

    def flush(self) -> None:
        """Keep what has been gathered so far."""
        for minute in self._open.values():
            self._store.sampled(minute)
        self._open.clear()
