"""The book of tasks forgets ended ones in time, and earlier when they take too much memory."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.contracts.ids import new_task_id
from daemons.contracts.tasks import TaskRequest, TaskState
from daemons.queen import tasks
from daemons.queen.submissions import Submission
from daemons.queen.tasks import TaskBook, TaskRecord
from tests.support.queen_harness import FAST, queen_and_hive, until


def _record(**fields: object) -> TaskRecord:
    request = TaskRequest(model="demo", prompt="Hi")
    return Submission(request, "abc123", "req-1", **fields).record(4096, 0.0)  # type: ignore[arg-type]


def _end(record: TaskRecord) -> None:
    record.row = record.row.model_copy(update={"state": TaskState.COMPLETED})


def test_live_tasks_are_never_forgotten() -> None:
    book = TaskBook(keep_s=10.0)
    record = _record()
    book.add(record)
    book.expire(1e9)
    assert book.find(record.id) is record
    assert list(book.live()) == [record]


@given(st.lists(st.floats(0, 100), max_size=30), st.floats(0, 200))
def test_ended_tasks_are_kept_for_their_time(ends: list[float], now: float) -> None:
    book = TaskBook(keep_s=10.0)
    kept = []
    for at in sorted(ends):
        record = _record(task_id=new_task_id())
        book.add(record)
        _end(record)
        book.ended(record, at)
        kept.append((at, record))
    last = max([now, *ends])
    book.expire(last)
    for at, record in kept:
        assert (book.find(record.id) is record) == (at + 10.0 > last)


def test_ended_tasks_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MOST_ENDED_BYTES", 5_000)
    book = TaskBook(keep_s=1e9)
    records = []
    for _ in range(10):
        record = _record(task_id=new_task_id())
        record.events.add("token", '{"token":"' + "x" * 1_000 + '","index":0}')
        book.add(record)
        _end(record)
        book.ended(record, 0.0)
        records.append(record)
    assert [book.find(record.id) is not None for record in records] == [False] * 6 + [True] * 4


def test_deadlines_are_the_earlier_of_two() -> None:
    request = TaskRequest(model="demo", prompt="Hi", timeout_s=10.0)
    for given_deadline, expected in ((None, 110.0), (105.0, 105.0), (200.0, 110.0)):
        submission = Submission(request, "abc123", "req-1", deadline=given_deadline, created_at=100.0)
        assert submission.record(4096, 0.0).deadline == expected


async def test_a_forgotten_task_is_told_from_the_history(tmp_path: Path) -> None:
    policy = FAST.model_copy(update={"event_keep_s": 0.0})
    async with queen_and_hive(tmp_path, policy=policy) as (queen, hive):
        await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        task_id = await queen.detach()
        await until(lambda: queen.service.book.find(task_id) is None)
        (event,) = await queen.follow(task_id)
        assert event.type == "done"
        assert event.data["total_tokens"] == 3
