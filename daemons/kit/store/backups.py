"""Copies of a database, made through DuckDB itself.

A plain file copy is out of the question while the database is open: closing any descriptor of the file drops this
process's lock on it (fcntl(2), POSIX record locks), and a second process could then open it.
"""

import os
import time
from pathlib import Path

import duckdb

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.paths import discard
from daemons.kit.store.faults import StoreBroken, is_corruption

KEPT_PER_REASON = 5
_UNFINISHED = ".part"
_ALIAS = "rbee_backup"


def write_backup(connection: duckdb.DuckDBPyConnection, source: Path, folder: Path, reason: str, version: int) -> Path:
    """Copy the open database `source` into `folder` and drop the oldest copies made for the same reason.

    The file is called ``<database>-<reason>-<UTC time>-v<schema version>.duckdb`` (mode 0600) and appears whole or not
    at all. The copy reads every block, and each block has a checksum. Raises StoreBroken when `source` cannot be read
    through, RbeeError(HOME_UNUSABLE) when the copy cannot be written.
    """
    target = folder / f"{source.stem}-{reason}-{time_stamp()}-v{version}.duckdb"
    unfinished = target.with_suffix(_UNFINISHED)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        discard(*folder.glob(f"{source.stem}-*{_UNFINISHED}*"))  # of a process that died while it copied
        _copy(connection, unfinished)
        unfinished.chmod(0o600)
        os.replace(unfinished, target)
    except (duckdb.Error, OSError) as error:
        discard(unfinished, unfinished.with_name(unfinished.name + ".wal"))
        reason = str(error).splitlines()[0]
        if is_corruption(error):
            raise StoreBroken(f"{source} cannot be read: {reason}") from error
        raise RbeeError(
            Code.HOME_UNUSABLE, f"cannot write the backup {target}: {reason}", details={"path": str(target)}
        ) from error
    for old in list_backups(source, folder, reason)[KEPT_PER_REASON:]:
        old.unlink(missing_ok=True)
    return target


def list_backups(source: Path, folder: Path, reason: str = "*") -> list[Path]:
    """Backups of the database `source`, newest first."""
    found = folder.glob(f"{source.stem}-{reason}-*-v*.duckdb")
    return sorted(found, key=lambda path: path.name.split("-")[-2], reverse=True)


def time_stamp() -> str:
    """UTC now as ``20261125T091400.123``: names in this form sort by time."""
    now = time.time()
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}"


def _copy(connection: duckdb.DuckDBPyConnection, target: Path) -> None:
    name = connection.execute("SELECT current_database()").fetchall()[0][0]
    connection.execute(f"ATTACH {_quoted(str(target), chr(39))} AS {_ALIAS}")
    try:
        connection.execute(f"COPY FROM DATABASE {_quoted(name, chr(34))} TO {_ALIAS}")
    finally:
        connection.execute(f"DETACH {_ALIAS}")


def _quoted(text: str, quote: str) -> str:
    return quote + text.replace(quote, quote * 2) + quote
