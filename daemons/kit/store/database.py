"""One DuckDB file and its one connection, synchronously: open, migrate, read, write, back up, close.

Use from a single thread. Time stamps are kept as unix seconds (DOUBLE): DuckDB's TIMESTAMPTZ needs pytz in Python.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.store.backups import write_backup
from daemons.kit.store.faults import (
    ConstraintViolated,
    DiskRefused,
    StoreBroken,
    StoreFailed,
    open_fault,
    statement_fault,
)

__all__ = ["ConstraintViolated", "Database", "Migration", "Row", "Statement", "StoreFailed"]

Row = dict[str, Any]

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "256MB",
    "threads": 1,
    # Nothing is ever fetched from the network on behalf of a statement.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
# A parameter that DuckDB cannot take (a lone surrogate, an integer over 128 bits) raises one of Python's own.
_FAULTS = (duckdb.Error, ValueError, TypeError, OverflowError, RuntimeError)
_VERSION_TABLE = "CREATE TABLE IF NOT EXISTS schema_version (number INTEGER, name VARCHAR, applied_at DOUBLE)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema; numbers count from 1 without gaps. `sql` may hold several statements."""

    number: int
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL and its positional parameters (``?``)."""

    sql: str
    params: Sequence[Any] = ()


class Database:
    """An open database. Making one opens, backs up and migrates the file.

    Raises RbeeError: ALREADY_RUNNING (with the pid where it is known) when another process has it open,
    STATE_SCHEMA_NEWER with both versions, STATE_CORRUPT when it cannot be read from end to end (the file is left as it
    is), HOME_UNUSABLE when the folder or a backup cannot be written.
    """

    def __init__(self, path: Path, migrations: Sequence[Migration], backups_dir: Path) -> None:
        if [step.number for step in migrations] != list(range(1, len(migrations) + 1)):
            raise ValueError("migrations must be numbered 1, 2, 3, … without gaps")
        self.path = path
        self.backups_dir = backups_dir
        self.start_backup_failure: RbeeError | None = None
        """Why the backup at start could not be made; the database is open all the same."""
        self._connection = connect(path)
        try:
            self.version = self._prepare(migrations)
            self._make_private()
        except (duckdb.Error, StoreBroken) as error:
            self._connection.close()
            raise open_fault(path, error) from error
        except BaseException:
            self._connection.close()
            raise

    def read(self, statement: Statement) -> list[Row]:
        """Rows as dictionaries. Raises StoreFailed."""
        try:
            cursor = self._connection.execute(statement.sql, list(statement.params))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except _FAULTS as error:
            raise statement_fault(statement.sql, error) from error

    def write(self, groups: Sequence[Sequence[Statement]]) -> list[StoreFailed | None]:
        """Store groups of statements, each group whole or not at all; the fault of each group, or None.

        All groups share one transaction. When one of them fails, DuckDB has to abort it, and then each group gets a
        transaction of its own, so that one faulty group costs no other. A disk that refused one would refuse the rest.
        """
        try:
            self._transact([statement for group in groups for statement in group])
            faults: list[StoreFailed | None] = [None] * len(groups)
        except StoreFailed as fault:
            hopeless = len(groups) == 1 or isinstance(fault, StoreBroken | DiskRefused)
            faults = [fault] * len(groups) if hopeless else [self._fault_of(group) for group in groups]
        self._make_private()
        return faults

    def backup(self, reason: str) -> Path:
        """Copy the database into the backups folder. Raises RbeeError(HOME_UNUSABLE), StoreBroken."""
        return write_backup(self._connection, self.path, self.backups_dir, reason, self.version)

    def close(self) -> None:
        """Write everything into the database file and give it up."""
        self._connection.close()

    def _fault_of(self, group: Sequence[Statement]) -> StoreFailed | None:
        try:
            self._transact(group)
        except StoreFailed as fault:
            return fault
        return None

    def _transact(self, statements: Sequence[Statement]) -> None:
        sql = "BEGIN"
        try:
            self._connection.execute(sql)
            for statement in statements:
                sql = statement.sql
                self._connection.execute(sql, list(statement.params))
            sql = "COMMIT"
            self._connection.execute(sql)
        except _FAULTS as error:
            self._roll_back()
            raise statement_fault(sql, error) from error

    def _roll_back(self) -> None:
        try:
            self._connection.execute("ROLLBACK")
        except (duckdb.TransactionException, duckdb.FatalException):
            pass  # a failed BEGIN or COMMIT leaves no transaction behind, a broken database nothing at all

    def _prepare(self, migrations: Sequence[Migration]) -> int:
        """Refuse a newer schema, back up what is there, bring it to the newest version, and return that."""
        self.version = stored_version(self._connection)
        newest = len(migrations)
        if self.version > newest:
            raise RbeeError(
                Code.STATE_SCHEMA_NEWER,
                f"{self.path} has schema version {self.version}; this rbee knows versions up to {newest}",
                details={"path": str(self.path), "found": self.version, "known": newest},
            )
        if 0 < self.version < newest:
            self.backup("migration")
        elif self.version:
            self._backup_at_start()
        for step in migrations[self.version :]:
            self._migrate(step)
        return newest

    def _backup_at_start(self) -> None:
        try:
            self.backup("start")
        except StoreBroken:
            raise
        except RbeeError as error:
            # A full disk must not stop a daemon from serving; only a migration insists on its backup.
            self.start_backup_failure = error

    def _migrate(self, step: Migration) -> None:
        stamp = Statement("INSERT INTO schema_version VALUES (?, ?, ?)", (step.number, step.name, time.time()))
        try:
            self._transact([Statement(_VERSION_TABLE), Statement(step.sql), stamp])
        except StoreFailed as fault:
            raise StoreFailed(f"migration {step.number} ({step.name}) of {self.path}: {fault.message}") from fault

    def _make_private(self) -> None:
        """DuckDB makes its files (the WAL anew after each checkpoint) with the umask of the process."""
        for file in (self.path, self.path.with_name(self.path.name + ".wal")):
            try:
                if os.stat(file).st_mode & 0o077:
                    os.chmod(file, 0o600)
            except OSError:
                pass  # a checkpoint removes the WAL, and some file systems know no modes


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """A connection to the database file at `path`, made when there is none. Raises RbeeError as `Database` does."""
    try:
        return duckdb.connect(str(path), config=_CONFIG)
    except duckdb.Error as error:
        raise open_fault(path, error) from error


def stored_version(connection: duckdb.DuckDBPyConnection) -> int:
    """Schema version of an open database; 0 when it has none yet. Raises duckdb.Error."""
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'schema_version'").fetchall():
        return 0
    return int(connection.execute("SELECT coalesce(max(number), 0) FROM schema_version").fetchall()[0][0])
