"""The database of a daemon, used from the event loop: one named thread owns it and takes work from a queue.

Whatever has gathered in the queue when the thread wakes up is stored in one transaction. History that a full disk
refuses is held for a while, and stored once there is room. A database that breaks while it is open is opened again,
which mends it.
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

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.logs import get_logger
from daemons.kit.notices import Notices
from daemons.kit.store.database import Database, Migration, Row, Statement
from daemons.kit.store.faults import DiskRefused, StoreBroken, StoreFailed
from daemons.kit.store.recovery import open_mended

MOST_WAITING = 10_000
"""Writes that may wait for a slow disk before `write_soon` drops further ones."""

MOST_HELD = 2_000
"""Changes of history that are held while the disk refuses them; further ones are lost."""

RETRY_EACH_S = 2.0
"""Between two tries to store them; a read tries at once to open a database that broke."""

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
        self.restored = False
        """Whether the file was damaged or gone: what is in it now may be older than what was last stored."""
        self.dropped_writes = 0
        self.failed_writes = 0
        self._failing = False
        self._held: list[_Write] = []
        self._lost_meanwhile = 0
        self._refusal: DiskRefused | None = None
        self._backup_s = backup_s
        self._backed_up_at = 0.0
        self._database: Database | None = None
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
            raise RbeeError(Code.DRAINING, f"the history in {self.path} is closed: its daemon is ending")
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
            if self._held:
                get_logger().warning("history was lost: the disk refused it up to the end", changes=len(self._held))
            self._give_up()

    def _open_file(self) -> Database:
        database, mended = open_mended(self.path, self._migrations, self._backups_dir)
        if mended is not None:
            self.restored = True
            self.notices.tell(mended.text, hint=mended.hint)
        if database.start_backup_failure is not None:
            self._no_backup(database.start_backup_failure)
        self._backed_up_at = time.time()
        return database

    def _opened(self) -> Database:
        """The open database; one that broke is opened again. Raises DiskRefused as long as it cannot be."""
        if self._database is None:
            try:
                self._database = self._open_file()
            except RbeeError as error:
                raise DiskRefused(error.message) from error
        return self._database

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
        """Store what is held and these, in their order; while the disk refuses, only from time to time."""
        if self._refusal is not None and time.monotonic() - self._tried_at < RETRY_EACH_S:
            self._refused(writes, self._refusal)
            return
        together = [*self._held, *writes]
        if not together:
            return
        self._tried_at = time.monotonic()
        try:
            faults = self._attempt(lambda database: _written(database, together))
        except DiskRefused as closed:
            self._refused(writes, closed)
            return
        except StoreFailed as fault:
            faults = [fault] * len(together)
        self._held = []
        outcomes = list(zip(together, faults, strict=True))
        refusals = [fault for fault in faults if isinstance(fault, DiskRefused)]
        for write, outcome in outcomes:
            if not isinstance(outcome, DiskRefused):
                self._tell(write, outcome)
        if refusals:
            self._refused([write for write, outcome in outcomes if isinstance(outcome, DiskRefused)], refusals[0])
        else:
            self._accepted()

    def _tell(self, write: _Write, fault: StoreFailed | None) -> None:
        if write.done is None:
            self._count(fault)
        elif fault is None:
            write.done.set_result(None)
        else:
            write.done.set_exception(fault)

    def _refused(self, writes: Sequence[_Write], refusal: DiskRefused) -> None:
        """Hold history, and tell whoever waits for a write that it failed. The first of a row of refusals is told."""
        if self._refusal is None:
            self.notices.tell(
                f"history is not stored for now, requests are served all the same: {refusal.message}",
                hint=shlex.join(["df", "-h", str(self.path.parent)]),
            )
        self._refusal = refusal
        for write in writes:
            if write.done is not None:
                write.done.set_exception(refusal)
            elif len(self._held) < MOST_HELD:
                self._held.append(write)
            else:
                self.dropped_writes += 1
                self._lost_meanwhile += 1

    def _accepted(self) -> None:
        if self._refusal is None:
            return
        lost, self._lost_meanwhile, self._refusal = self._lost_meanwhile, 0, None
        self.notices.tell(f"history is stored again in {self.path}; {lost or 'no'} changes to it were lost")

    def _answer(self, call: _Call) -> None:
        if not call.done.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        try:
            call.done.set_result(self._attempt(call.work))
        except Exception as error:
            call.done.set_exception(error)

    def _count(self, fault: StoreFailed | None) -> None:
        """Log the first of a row of failures only: there may be thousands."""
        if fault is not None:
            self.failed_writes += 1
            if not self._failing:
                get_logger().error("history was not stored", reason=fault.message)
        self._failing = fault is not None

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
            left = min(max(self._backed_up_at + self._backup_s - time.time(), 0.0), _LOOK_EACH_S)
            job = self._jobs.get(timeout=left if self._refusal is None else RETRY_EACH_S)
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
