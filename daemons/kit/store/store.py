"""The database of a daemon, used from the event loop: one named thread owns it and takes work from a queue.

Whatever has gathered in the queue when the thread wakes up is stored in one transaction. A database that breaks while
it is open is opened again, which mends it; as long as that fails there is no history, and the daemon serves without.
"""

import asyncio
import queue
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemons.contracts.errors import RbeeError
from daemons.kit.logs import get_logger
from daemons.kit.notices import Notices
from daemons.kit.store.database import Database, Migration, Row, Statement
from daemons.kit.store.faults import StoreBroken, StoreFailed
from daemons.kit.store.recovery import open_mended

MOST_WAITING = 10_000
"""Writes that may wait for a slow disk before `write_soon` drops further ones."""

REOPEN_EACH_S = 2.0
"""Between two tries to open a database that broke and could not be opened again."""

DAY_S = 86_400.0
_LOOK_EACH_S = 3600.0
"""The clock may be set, and a laptop sleeps: the time of the next backup is looked at this often."""


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

    Work is done in the order in which it is asked for, so a read sees every write before it. What becomes of a damaged
    file or a full disk is told to `notices`. A backup is made at start and each `backup_s` seconds.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[Migration],
        backups_dir: Path,
        *,
        notices: Notices | None = None,
        backup_s: float = DAY_S,
    ) -> None:
        self.path = path
        self.notices = notices or Notices()
        self.dropped_writes = 0
        self.failed_writes = 0
        self._lost_in_a_row = 0
        self._backup_s = backup_s
        self._backed_up_at = 0.0
        self._database: Database | None = None
        self._why_closed: RbeeError | None = None
        self._tried_at = 0.0
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
        """Open, back up and migrate the database; mend it before where needed. Raises RbeeError as `open_mended`."""
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
        """Copy the database into the backups folder. Raises RbeeError(HOME_UNUSABLE), StoreFailed."""
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

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _run(self, opened: "Future[None]") -> None:
        """Body of the thread."""
        try:
            self._database = self._open_file()
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result(None)
        try:
            closing = False
            while not closing:
                jobs, closing = self._next_batch()
                self._do(jobs)
                self._backup_in_time()
        finally:
            self._give_up()

    def _open_file(self) -> Database:
        database, mended = open_mended(self.path, self._migrations, self._backups_dir)
        if mended is not None:
            self.notices.tell(mended.text, hint=mended.hint)
        if database.start_backup_failure is not None:
            self._no_backup(database.start_backup_failure)
        self._backed_up_at = time.time()
        return database

    def _opened(self) -> Database:
        """The open database; one that broke is opened again. Raises StoreFailed as long as it cannot be."""
        if self._database is None:
            if time.monotonic() - self._tried_at >= REOPEN_EACH_S:
                self._reopen()
            if self._database is None:
                raise StoreFailed(f"the database is closed: {self._why_closed}")
        return self._database

    def _reopen(self) -> None:
        self._tried_at = time.monotonic()
        try:
            self._database = self._open_file()
        except RbeeError as error:
            self._why_closed = error
            get_logger().warning("the database cannot be opened again", reason=error.message)

    def _give_up(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _attempt(self, work: Callable[[Database], Any]) -> Any:
        """Do it; once more when the database broke over it. Raises as `work` does, StoreFailed."""
        try:
            return work(self._opened())
        except StoreBroken as fault:
            get_logger().error("the database broke and is opened again", path=str(self.path), reason=fault.message)
            self._give_up()
            self._reopen()
            return work(self._opened())

    def _do(self, jobs: Sequence[_Job]) -> None:
        writes: list[_Write] = []
        for job in jobs:
            if isinstance(job, _Write):
                writes.append(job)
                continue
            self._store(writes)
            writes = []
            self._answer(job)
        self._store(writes)

    def _store(self, writes: Sequence[_Write]) -> None:
        if not writes:
            return
        faults: list[StoreFailed | None]
        try:
            faults = self._attempt(lambda database: _written(database, writes))
        except StoreFailed as failure:
            faults = [failure] * len(writes)
        for write, fault in zip(writes, faults, strict=True):
            if write.done is None:
                self._count(fault)
            elif fault is None:
                write.done.set_result(None)
            else:
                write.done.set_exception(fault)

    def _answer(self, call: _Call) -> None:
        if not call.done.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        try:
            call.done.set_result(self._attempt(call.work))
        except Exception as error:
            call.done.set_exception(error)

    def _count(self, fault: StoreFailed | None) -> None:
        """Tell the first of a row of failures, and their end: on a full disk there would be thousands."""
        if fault is not None:
            self.failed_writes += 1
            self._lost_in_a_row += 1
            if self._lost_in_a_row == 1:
                self.notices.tell(
                    f"history is not stored, requests are served all the same: {fault.message}",
                    hint=shlex.join(["df", "-h", str(self.path.parent)]),
                )
        elif self._lost_in_a_row:
            lost, self._lost_in_a_row = self._lost_in_a_row, 0
            self.notices.tell(f"history is stored again in {self.path}; {lost} changes to it were lost")

    def _backup_in_time(self) -> None:
        if time.time() - self._backed_up_at < self._backup_s:
            return
        self._backed_up_at = time.time()
        try:
            self._attempt(lambda database: database.backup("daily"))
        except RbeeError as error:
            self._no_backup(error)

    def _no_backup(self, error: RbeeError) -> None:
        self.notices.tell(error.message, hint=error.hint)

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Everything that waits (nothing, when it is time to look at the clock), and whether closing was asked for."""
        jobs: list[_Job] = []
        try:
            left = self._backed_up_at + self._backup_s - time.time()
            job = self._jobs.get(timeout=min(max(left, 0.0), _LOOK_EACH_S))
            while job is not None:
                jobs.append(job)
                job = self._jobs.get_nowait()
        except queue.Empty:
            return jobs, False
        return jobs, True


def _written(database: Database, writes: Sequence[_Write]) -> list[StoreFailed | None]:
    """The fault of each write. Raises StoreBroken when the database broke over one: then nothing is certain of any."""
    faults = database.write([write.statements for write in writes])
    broken = next((fault for fault in faults if isinstance(fault, StoreBroken)), None)
    if broken is not None:
        raise broken
    return faults
