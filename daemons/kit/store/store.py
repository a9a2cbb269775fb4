"""The database of a daemon, used from the event loop: one named thread owns it and takes work from a queue.

Whatever has gathered in the queue when the thread wakes up is stored in one transaction.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemons.kit.logs import get_logger
from daemons.kit.store.database import Database, Migration, Row, Statement
from daemons.kit.store.faults import StoreFailed

MOST_WAITING = 10_000
"""Writes that may wait for a slow disk before `write_soon` drops further ones."""


@dataclass(frozen=True, slots=True)
class _Write:
    statements: Sequence[Statement]
    done: "Future[None] | None"


@dataclass(frozen=True, slots=True)
class _Call:
    """Anything else than a write, in its place between the writes."""

    work: Callable[[Database], Any]
    done: "Future[Any]"


_Job = _Write | _Call


class Store:
    """One database file. Use as an async context manager, or `open` and `close` it.

    Work is done in the order in which it is asked for, so a read sees every write before it.
    """

    def __init__(self, path: Path, migrations: Sequence[Migration], backups_dir: Path) -> None:
        self.path = path
        self.dropped_writes = 0
        self.failed_writes = 0
        self._failing = False
        self._migrations = migrations
        self._backups_dir = backups_dir
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def __aenter__(self) -> "Store":
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open, back up and migrate the database. Raises RbeeError as `Database` does."""
        if self._thread is not None:
            raise RuntimeError(f"{self.path} is open already")
        opened: Future[None] = Future()
        opened.set_running_or_notify_cancel()  # from here on it is answered, whoever still waits
        # A daemon thread: a process that dies without closing must not hang on it; DuckDB's WAL has what was stored.
        thread = threading.Thread(target=self._run, args=(opened,), name=f"store-{self.path.stem}", daemon=True)
        thread.start()
        try:
            await asyncio.wrap_future(opened)
        except BaseException:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)
            self._jobs = queue.SimpleQueue()
            raise
        self._thread = thread

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """Rows as dictionaries. Raises StoreFailed."""
        statement = Statement(sql, params)
        rows: list[Row] = await self._call(lambda database: database.read(statement))
        return rows

    async def write(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Store one change; returns when it is on the disk. Raises StoreFailed, of it ConstraintViolated."""
        await self.write_together([Statement(sql, params)])

    async def write_together(self, statements: Sequence[Statement]) -> None:
        """Store several changes, all or none. Raises as `write`."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # a caller that is cancelled does not take its change back
        self._put(_Write(list(statements), done))
        await asyncio.wrap_future(done)

    def write_soon(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Store one change without waiting; a failure is logged. For history: dropped when too much waits already."""
        if self._jobs.qsize() >= MOST_WAITING:
            self.dropped_writes += 1
            if self.dropped_writes == 1:
                get_logger().warning("history is dropped: the database is too slow", waiting=MOST_WAITING)
            return
        self._put(_Write([Statement(sql, params)], None))

    async def flush(self) -> None:
        """Return when everything asked for so far is stored or has failed."""
        await self._call(lambda _database: None)

    async def backup(self, reason: str) -> Path:
        """Copy the database into the backups folder. Raises RbeeError(HOME_UNUSABLE)."""
        path: Path = await self._call(lambda database: database.backup(reason))
        return path

    async def close(self) -> None:
        """Store what waits, then give up the file. A second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    async def _call(self, work: Callable[[Database], Any]) -> Any:
        done: Future[Any] = Future()
        self._put(_Call(work, done))
        return await asyncio.wrap_future(done)

    def _put(self, job: _Job) -> None:
        if self._thread is None:
            raise RuntimeError(f"{self.path} is not open")
        self._jobs.put(job)

    def _run(self, opened: "Future[None]") -> None:
        """Body of the thread."""
        try:
            database = Database(self.path, self._migrations, self._backups_dir)
        except BaseException as error:
            opened.set_exception(error)
            return
        if database.start_backup_failure is not None:
            get_logger().warning("no backup at start", reason=database.start_backup_failure.message)
        opened.set_result(None)
        try:
            closing = False
            while not closing:
                jobs, closing = self._next_batch()
                self._do(database, jobs)
        finally:
            database.close()

    def _do(self, database: Database, jobs: Sequence[_Job]) -> None:
        writes: list[_Write] = []
        for job in jobs:
            if isinstance(job, _Write):
                writes.append(job)
                continue
            self._store(database, writes)
            writes = []
            _answer(database, job)
        self._store(database, writes)

    def _store(self, database: Database, writes: Sequence[_Write]) -> None:
        if not writes:
            return
        faults = database.write([write.statements for write in writes])
        for write, fault in zip(writes, faults, strict=True):
            if write.done is None:
                self._count(fault)
            elif fault is None:
                write.done.set_result(None)
            else:
                write.done.set_exception(fault)

    def _count(self, fault: StoreFailed | None) -> None:
        """Log the first of a row of failures only: on a full disk there would be thousands."""
        if fault is None:
            self._failing = False
            return
        self.failed_writes += 1
        if not self._failing:
            get_logger().error("history was not stored", reason=fault.message)
        self._failing = True

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Everything that waits now (at least one job), and whether closing was asked for behind it."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True


def _answer(database: Database, call: _Call) -> None:
    if not call.done.set_running_or_notify_cancel():
        return  # nobody waits for it any more
    try:
        call.done.set_result(call.work(database))
    except Exception as error:
        call.done.set_exception(error)
