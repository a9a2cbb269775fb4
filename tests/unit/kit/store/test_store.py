"""The store on its thread: in order, in batches, never blocking the loop, losing nothing."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.store import ConstraintViolated, Database, Migration, Statement, Store, StoreFailed, store
from daemons.kit.store.backups import list_backups
from tests.support.held_database import held_by_another_process, opened_by_another_process
from tests.support.small_disk import small_disk
from tests.unit.kit.store.conftest import NODES, TEXTS

MARKS = Migration(1, "marks", "CREATE TABLE mark (n INTEGER PRIMARY KEY, transaction_id BIGINT DEFAULT txid_current())")
INSERT = "INSERT INTO mark (n) VALUES (?)"


@pytest.fixture
async def marks(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(tmp_path / "queen.duckdb", [MARKS], tmp_path / "backups") as opened:
        yield opened


async def numbers(of: Store) -> list[int]:
    return [row["n"] for row in await of.read("SELECT n FROM mark ORDER BY n")]


class Gate:
    """Holds the store's thread until it is opened, so that work gathers in the queue."""

    def __init__(self, held: Store) -> None:
        self._open = threading.Event()
        self._waiting = asyncio.ensure_future(held._call(lambda _database: self._open.wait(10)))

    async def __aenter__(self) -> None:
        await asyncio.sleep(0.05)
        assert not self._waiting.done()

    async def __aexit__(self, *_: object) -> None:
        self._open.set()
        assert await self._waiting


async def test_reads_see_every_write_before_them(marks: Store) -> None:
    for n in range(20):
        marks.write_soon(INSERT, [n])
        assert len(await numbers(marks)) == n + 1


async def test_what_gathers_is_stored_in_one_transaction(marks: Store) -> None:
    async with Gate(marks):
        for n in range(50):
            marks.write_soon(INSERT, [n])
        last = asyncio.ensure_future(marks.write(INSERT, [50]))
        await asyncio.sleep(0)
    await last
    rows = await marks.read("SELECT count(*) AS rows, count(DISTINCT transaction_id) AS batches FROM mark")
    assert rows == [{"rows": 51, "batches": 1}]


async def test_concurrent_writers_share_transactions_and_all_get_an_answer(marks: Store) -> None:
    await asyncio.gather(*(marks.write(INSERT, [n]) for n in range(200)))
    [row] = await marks.read("SELECT count(*) AS rows, count(DISTINCT transaction_id) AS batches FROM mark")
    assert row["rows"] == 200
    assert row["batches"] < 100


async def test_a_faulty_write_fails_alone(marks: Store) -> None:
    async with Gate(marks):
        writing = [asyncio.ensure_future(marks.write(INSERT, [n])) for n in (1, 2, 1, 3)]
        marks.write_soon("INSERT INTO nowhere VALUES (1)")
        marks.write_soon(INSERT, [4])
        await asyncio.sleep(0)
    results = await asyncio.gather(*writing, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), type(None), ConstraintViolated, type(None)]
    assert await numbers(marks) == [1, 2, 3, 4]
    assert marks.failed_writes == 1


async def test_changes_written_together_are_stored_all_or_none(marks: Store) -> None:
    with pytest.raises(ConstraintViolated):
        await marks.write_together([Statement(INSERT, [1]), Statement(INSERT, [2]), Statement(INSERT, [1])])
    assert await numbers(marks) == []
    await marks.write_together([Statement(INSERT, [1]), Statement(INSERT, [2])])
    assert await numbers(marks) == [1, 2]


async def test_flush_returns_when_everything_is_stored(marks: Store, tmp_path: Path) -> None:
    for n in range(100):
        marks.write_soon(INSERT, [n])
    await marks.flush()
    stored = await marks._call(lambda database: len(database.read(Statement("SELECT n FROM mark"))))
    assert stored == 100


async def test_closing_stores_what_waits(tmp_path: Path) -> None:
    path = tmp_path / "queen.duckdb"
    async with Store(path, [MARKS], tmp_path / "backups") as first:
        for n in range(300):
            first.write_soon(INSERT, [n])
    async with Store(path, [MARKS], tmp_path / "backups") as second:
        assert await numbers(second) == list(range(300))


async def test_one_named_thread_does_all_the_work_and_ends(tmp_path: Path) -> None:
    async with Store(tmp_path / "hive.duckdb", [MARKS], tmp_path / "backups") as opened:
        name = await opened._call(lambda _database: threading.current_thread().name)
        assert name == "store-hive"
    assert "store-hive" not in [thread.name for thread in threading.enumerate()]


async def test_a_slow_statement_does_not_hold_up_the_loop(marks: Store) -> None:
    longest, started = 0.0, time.monotonic()
    last = started
    slow = asyncio.ensure_future(marks.read("SELECT sum(a.range * b.range) FROM range(20000) a, range(20000) b"))
    while not slow.done():
        await asyncio.sleep(0.01)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    assert longest < (last - started) / 2


async def test_a_cancelled_write_is_stored_all_the_same(marks: Store) -> None:
    async with Gate(marks):
        writing = asyncio.ensure_future(marks.write(INSERT, [1]))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert await numbers(marks) == [1]


async def test_a_cancelled_read_is_not_done_and_holds_up_nobody(marks: Store) -> None:
    done: list[str] = []
    async with Gate(marks):
        reading = asyncio.ensure_future(marks._call(lambda _database: done.append("read")))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.sleep(0)
    await marks.flush()
    assert done == []


async def test_a_faulty_read_tells_its_reader_only(marks: Store) -> None:
    with pytest.raises(StoreFailed, match="nope"):
        await marks.read("SELECT nope")
    await marks.write(INSERT, [1])


async def test_history_is_dropped_rather_than_kept_without_bound(marks: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_WAITING", 10)
    async with Gate(marks):
        for n in range(25):
            marks.write_soon(INSERT, [n])
        writing = asyncio.ensure_future(marks.write(INSERT, [99]))
        await asyncio.sleep(0)
    await writing
    assert await numbers(marks) == [*range(10), 99]
    assert marks.dropped_writes == 15


async def test_what_a_full_disk_refuses_is_stored_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RETRY_EACH_S", 0.1)
    monkeypatch.setattr(store, "MOST_HELD", 30)
    with small_disk(tmp_path / "disk", mebibytes=8) as disk:
        async with Store(disk.folder / "queen.duckdb", [MARKS], disk.folder / "backups") as marks:
            marks.write_soon(INSERT, [0])
            await marks.flush()
            await asyncio.to_thread(disk.fill)
            with pytest.raises(StoreFailed, match="No space left"):
                await _until_refused(marks)
            before = await numbers(marks)
            for n in range(1, 41):
                marks.write_soon(INSERT, [n])
            await marks.flush()
            assert await numbers(marks) == before, "reads go on"
            (notice,) = marks.notices.rows()
            assert "history is not stored for now, requests are served all the same" in notice.text
            assert notice.hint == f"df -h {disk.folder}"
            await asyncio.to_thread(disk.make_room)
            await _until_stored(marks, len(before) + 30)
            stored = await numbers(marks)
            assert [n for n in stored if n < 1000] == list(range(31)), "in order, the latest are lost"
            assert "10 changes to it were lost" in marks.notices.rows()[-1].text
        async with Store(disk.folder / "queen.duckdb", [MARKS], disk.folder / "backups") as again:
            assert await numbers(again) == stored
            assert again.notices.rows() == []


async def test_a_database_that_breaks_on_a_full_disk_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that fails makes DuckDB refuse everything from then on."""
    monkeypatch.setattr(store, "RETRY_EACH_S", 0.1)
    with small_disk(tmp_path / "disk", mebibytes=8) as disk:
        async with Store(disk.folder / "queen.duckdb", [MARKS], disk.folder / "backups") as marks:
            for n in range(100):
                marks.write_soon(INSERT, [n])
            await marks.flush()
            await asyncio.to_thread(disk.fill)
            with pytest.raises(StoreFailed):
                await marks.read("CHECKPOINT")
            assert len(await numbers(marks)) == 100
            marks.write_soon(INSERT, [100])
            await asyncio.to_thread(disk.make_room)
            await _until_stored(marks, 101)


async def test_a_block_that_cannot_be_read_any_more_is_mended_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "queen.duckdb"
    async with Store(path, [TEXTS], tmp_path / "backups") as texts:
        await texts.write("INSERT INTO texts SELECT md5(range::VARCHAR) FROM range(1000000)")
        await texts.backup("daily")
    async with Store(path, [TEXTS], tmp_path / "backups") as texts:
        await texts.read("SET memory_limit = '10MB'")  # else all blocks are in memory, and no damage is met with
        # Written past DuckDB, as a failing disk does; a descriptor of ours that is closed would drop the lock.
        await asyncio.to_thread(_damage_from_outside, path)
        assert await texts.read("SELECT count(text) AS n, min(length(text)) AS l FROM texts") == [
            {"n": 1000000, "l": 32}
        ]
        (notice,) = texts.notices.rows()
        assert "could not be read and was restored from the backup of" in notice.text
        await texts.write("INSERT INTO texts VALUES ('more')")


def _damage_from_outside(path: Path) -> None:
    middle = "os.path.getsize(sys.argv[1]) // 2"
    program = f"import os, sys; file = open(sys.argv[1], 'r+b'); file.seek({middle}); file.write(bytes(64))"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


async def _until_refused(of: Store) -> None:
    """The last page of the WAL may have room for some more."""
    for n in range(1000, 2000):
        await of.write(INSERT, [n])


async def _until_stored(of: Store, count: int) -> None:
    async with asyncio.timeout(10):
        while len(await numbers(of)) < count:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.05)


async def test_a_backup_is_made_each_day_while_it_is_open(tmp_path: Path) -> None:
    path, folder = tmp_path / "queen.duckdb", tmp_path / "backups"
    async with Store(path, [MARKS], folder, backup_s=0.2):
        async with asyncio.timeout(10):
            while len(await asyncio.to_thread(list_backups, path, folder, "daily")) < 2:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)


async def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    closed = Store(tmp_path / "queen.duckdb", [MARKS], tmp_path / "backups")
    with pytest.raises(RbeeError, match="is closed: its daemon is ending"):
        closed.write_soon(INSERT, [1])
    await closed.open()
    with pytest.raises(RuntimeError, match="open already"):
        await closed.open()
    await closed.close()
    await closed.close()
    with pytest.raises(RbeeError, match="is closed: its daemon is ending"):
        await closed.read("SELECT 1")


async def test_a_refused_open_leaves_no_thread_and_may_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "queen.duckdb"
    async with Store(path, [NODES], tmp_path / "backups"):
        pass
    second = Store(path, [NODES], tmp_path / "backups")
    with held_by_another_process(path) as pid:
        with pytest.raises(RbeeError) as caught:
            await second.open()
        assert (caught.value.code, caught.value.details["pid"]) == (Code.ALREADY_RUNNING, pid)
        assert "store-queen" not in [thread.name for thread in threading.enumerate()]
    await second.open()
    await second.close()


async def test_a_cancelled_open_gives_the_file_up_again(tmp_path: Path) -> None:
    path = tmp_path / "queen.duckdb"
    opening = asyncio.ensure_future(Store(path, [NODES], tmp_path / "backups").open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert "store-queen" not in [thread.name for thread in threading.enumerate()]
    assert opened_by_another_process(path) == "opened"


async def test_the_file_stays_ours_through_backups_and_is_given_up_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "queen.duckdb"
    async with Store(path, [NODES], tmp_path / "backups") as opened:
        backup = await opened.backup("daily")
        assert backup.parent == tmp_path / "backups"
        assert opened_by_another_process(path) == "refused"
    assert opened_by_another_process(path) == "opened"


def test_an_answered_write_survives_kill_9(tmp_path: Path) -> None:
    program = f"""
import asyncio, os
from pathlib import Path
from daemons.kit.store import Store
from tests.unit.kit.store.test_store import INSERT, MARKS
async def main():
    store = Store(Path({str(tmp_path / "queen.duckdb")!r}), [MARKS], Path({str(tmp_path / "backups")!r}))
    await store.open()
    await asyncio.gather(*(store.write(INSERT, [n]) for n in range(30)))
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    database = Database(tmp_path / "queen.duckdb", [MARKS], tmp_path / "backups")
    assert database.read(Statement("SELECT count(*) AS n FROM mark")) == [{"n": 30}]
    database.close()


def test_a_process_that_forgets_to_close_still_ends(tmp_path: Path) -> None:
    program = f"""
import asyncio
from pathlib import Path
from daemons.kit.store import Store
from tests.unit.kit.store.test_store import MARKS
asyncio.run(Store(Path({str(tmp_path / "queen.duckdb")!r}), [MARKS], Path({str(tmp_path)!r})).open())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30, env={**os.environ, "PYTHONDEVMODE": "0"})
