"""What the queen's database keeps and gives back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Narration
from daemons.contracts.inference import Timings, Usage
from daemons.contracts.tasks import Priority, TaskRequest, TaskRow, TaskState
from daemons.contracts.workers import WorkerState
from daemons.kit.store import Store
from daemons.queen.store import MIGRATIONS, QueenStore, TelemetryMinutes
from tests.support.queen_core import sample, worker_row


@pytest.fixture
async def raw(tmp_path: Path) -> AsyncIterator[Store]:
    """The store below, for looking into tables."""
    async with Store(tmp_path / "queen.duckdb", MIGRATIONS, tmp_path / "backups") as store:
        yield store


@pytest.fixture
def store(raw: Store) -> QueenStore:
    return QueenStore(raw)


def _row(task_id: str = "task-1", **fields: Any) -> TaskRow:
    values: dict[str, Any] = {
        "id": task_id, "state": TaskState.COMPLETED, "model": "demo", "priority": Priority.BATCH, "created_at": 10.5,
        "max_tokens": 100, "client": "abc123", "request_id": "req-1",
    }  # fmt: skip
    return TaskRow(**(values | fields))


def _request(**fields: Any) -> TaskRequest:
    return TaskRequest(model="demo", **({"prompt": "Hello"} | fields))


async def test_a_row_comes_back_as_it_was(store: QueenStore) -> None:
    row = _row(
        node="local", worker_id="w-1", started_at=11.0, ended_at=12.0, tokens=5, finish_reason="stop", detached=True,
        usage=Usage(prompt_tokens=1, completion_tokens=5),
        timings=Timings(queue_ms=1, prompt_ms=2, generation_ms=3, ttft_ms=4, tokens_per_second=5),
        error={"code": "X", "details": {"n": 1}},
    )  # fmt: skip
    store.save([(row, None)])
    assert await store.row("task-1") == row
    assert await store.row("task-2") is None


async def test_a_later_row_replaces_the_earlier(store: QueenStore) -> None:
    store.save([(_row(state=TaskState.QUEUED), _request()), (_row("task-2"), None)])
    store.save([(_row(state=TaskState.RUNNING), _request())])
    assert {(row.id, row.state) for row in await store.rows()} == {
        ("task-1", TaskState.RUNNING),
        ("task-2", TaskState.COMPLETED),
    }


async def test_rows_are_listed_newest_first_and_filtered(store: QueenStore) -> None:
    rows = [_row(f"task-{n}", created_at=float(n), client="me" if n % 2 else "you") for n in range(5)]
    rows[4] = rows[4].model_copy(update={"state": TaskState.FAILED})
    store.save([(row, None) for row in rows])
    assert [row.id for row in await store.rows()] == ["task-4", "task-3", "task-2", "task-1", "task-0"]
    assert [row.id for row in await store.rows(client="me")] == ["task-3", "task-1"]
    assert [row.id for row in await store.rows(states=[TaskState.FAILED])] == ["task-4"]
    assert [row.id for row in await store.rows(limit=1)] == ["task-4"]


async def test_sql_in_names_is_text(store: QueenStore) -> None:
    name = "demo'); DROP TABLE tasks; --"
    store.save([(_row(model=name), None)])
    row = await store.row("task-1")
    assert row is not None
    assert row.model == name


async def test_recovery_fails_what_ran_and_gives_back_what_waited(store: QueenStore) -> None:
    request = _request(prompt=None, messages=[{"role": "user", "content": "Hé"}], backend="cpu", priority="batch")
    store.save(
        [
            (_row("ran", state=TaskState.RUNNING), _request()),
            (_row("second", state=TaskState.PLACING, created_at=3.0), _request()),
            (_row("first", state=TaskState.QUEUED, created_at=2.0), request),
            (_row("done"), None),
        ]
    )
    store.save_text("ran", 7, "so far")
    waiting = await store.recover(99.0)
    assert [stored.row.id for stored in waiting] == ["first", "second"]
    assert waiting[0].request == request
    ran = await store.row("ran")
    assert ran is not None
    assert (ran.state, ran.ended_at, ran.tokens) == (TaskState.FAILED, 99.0, 7)
    assert ran.error is not None
    assert ran.error["code"] == Code.QUEEN_RESTARTED
    assert await store.text("ran") == ("so far", 7)
    assert await store.text("done") == ("", 0)


async def test_a_waiting_task_whose_request_cannot_be_read_is_failed(store: QueenStore, raw: Store) -> None:
    """Else one row of an older version would keep the queen from starting."""
    store.save([(_row("odd", state=TaskState.QUEUED), _request()), (_row("fine", state=TaskState.QUEUED), _request())])
    await raw.write("UPDATE tasks SET request = '{\"colour\": \"red\"}' WHERE id = 'odd'")
    assert [stored.row.id for stored in await store.recover(5.0)] == ["fine"]
    row = await store.row("odd")
    assert row is not None
    assert row.state is TaskState.FAILED
    assert [stored.row.id for stored in await store.recover(6.0)] == ["fine"]


async def test_what_waits_in_a_backup_is_not_run_again(store: QueenStore, raw: Store) -> None:
    """It may have run since the backup was made: nobody knows any more."""
    store.save([(_row("waits", state=TaskState.QUEUED), _request())])
    raw.restored = True
    assert await store.recover(5.0) == []
    row = await store.row("waits")
    assert row is not None
    assert row.error is not None
    assert (row.state, row.error["code"]) == (TaskState.FAILED, Code.QUEEN_RESTARTED)
    assert "may have run since" in row.error["message"]


async def test_no_prompt_is_left_of_an_ended_task(store: QueenStore, raw: Store) -> None:
    store.save([(_row(state=TaskState.RUNNING), _request(prompt="my secret"))])
    store.save([(_row(), None)])
    store.save_text("task-1", 1, "text")
    store.drop_text("task-1")
    assert "my secret" not in str(await raw.read("SELECT * FROM tasks"))
    assert await store.text("task-1") == ("", 0)


async def test_narration_and_crashes_are_kept(store: QueenStore, raw: Store) -> None:
    store.narrated([("task-1", 1.0, Narration(actor="queen", text="Hello", fields={"n": 1}))] * 2)
    store.narrated([])
    store.crashed(2.0, "local", "w-1", "demo", "task-1", RbeeError(Code.WORKER_CRASHED, "gone"))
    assert len(await raw.read("SELECT * FROM narration WHERE actor = 'queen'")) == 2
    (crash,) = await raw.read("SELECT * FROM crashes")
    assert (crash["worker_id"], crash["crashed_at"]) == ("w-1", 2.0)


async def test_pruning_forgets_only_what_is_old(store: QueenStore, raw: Store) -> None:
    day = 86_400.0
    store.save([(_row("old", ended_at=1 * day), None), (_row("new", ended_at=9 * day), None)])
    store.save([(_row("live", state=TaskState.RUNNING), None)])
    store.save_text("old", 1, "x")
    store.narrated([("old", 1 * day, Narration(actor="queen", text="old"))])
    store.prune(10 * day, history_days=5.0)
    assert {row.id for row in await store.rows()} == {"new", "live"}
    assert await raw.read("SELECT * FROM narration") == []
    assert await raw.read("SELECT * FROM task_texts") == []


async def test_telemetry_is_kept_per_minute(store: QueenStore, raw: Store) -> None:
    """Sixty samples make one row of means."""
    minutes = TelemetryMinutes(store)
    busy = worker_row(state=WorkerState.BUSY, slots_available=1, tokens_per_second=10.0)
    for second in range(60):
        minutes.add("local", sample(*([busy] if second < 30 else [])), 600.0 + second)
    assert await raw.read("SELECT * FROM telemetry") == []
    minutes.add("local", sample(), 660.0)
    (row,) = await raw.read("SELECT * FROM telemetry")
    assert (row["node"], row["minute"], row["samples"]) == ("local", 10, 60)
    assert (row["workers"], row["slots_busy"], row["tokens_per_second"]) == (0.5, 0.5, 5.0)
    minutes.flush()
    assert len(await raw.read("SELECT * FROM telemetry")) == 2


async def test_many_writers_lose_no_row(store: QueenStore) -> None:
    async def write(number: int) -> None:
        store.save([(_row(f"task-{number}"), None)])
        await asyncio.sleep(0)

    await asyncio.gather(*(write(number) for number in range(100)))
    assert len(await store.rows()) == 100


async def test_a_row_that_cannot_be_written_takes_no_other_along(store: QueenStore) -> None:
    bad = _row("task-2").model_copy(update={"error": {"what": object()}})
    store.save([(_row("task-1"), _request()), (bad, None), (_row("task-3"), None)])
    assert {row.id for row in await store.rows()} == {"task-1", "task-3"}
