"""A database file that cannot be read, or is gone: kept aside, and replaced by the newest backup that can be read.

The replacement is made and read through first, and only then put in the place of the file. So nothing is moved when
it is the disk that fails, and a process that is killed in between leaves a file that is gone: the same case again.
"""

import fcntl
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.paths import discard, unusable
from daemons.kit.store.backups import list_backups, time_stamp
from daemons.kit.store.database import Database, Migration, connect, stored_version

KEPT_ASIDE = 3
"""Damaged files of one database that are kept; the oldest go first."""

_MAKING = ".mending"


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done to open a database, as a sentence, and a command that shows what there is."""

    text: str
    hint: str


def open_mended(path: Path, migrations: Sequence[Migration], backups_dir: Path) -> tuple[Database, Mended | None]:
    """The database at `path`, mended before when it had to be.

    Raises RbeeError as `Database` does; STATE_CORRUPT when the replacement cannot be read either.
    """
    with _alone_in(path.parent):
        cause = ""
        if not _is_lost(path, backups_dir):
            try:
                return Database(path, migrations, backups_dir), None
            except RbeeError as error:
                if error.code is not Code.STATE_CORRUPT:
                    raise
                cause = str(error.details["reason"])
        mended = _mend(path, cause, backups_dir, newest=len(migrations))
        return Database(path, migrations, backups_dir), mended


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Of two processes that open a damaged database at once, the second finds it mended, and in use."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise unusable(folder, error, "the state folder ") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_lost(path: Path, backups_dir: Path) -> bool:
    """Whether the file is not there although it has been."""
    return not os.path.lexists(path) and bool(_wal(path).exists() or list_backups(path, backups_dir))


def _mend(path: Path, cause: str, backups_dir: Path, newest: int) -> Mended:
    """Replace the file. `cause` is what DuckDB says of it; empty: it is gone."""
    making = path.with_name(path.name + _MAKING)
    try:
        discard(making, _wal(making))
        backup = _newest_readable(path, backups_dir, making, newest)
        if backup is None:
            connect(making).close()
        making.chmod(0o600)
        kept = _set_aside(path)
        making.replace(path)
    except OSError as error:
        raise unusable(path, error) from error
    finally:
        discard(making, _wal(making))
    text = f"the database {path} {'could not be read' if cause else 'was gone'}"
    if backup is not None:
        text += f" and was restored from the backup of {_made_at(backup)}; what was stored after that is lost"
    else:
        text += " and there is no backup that can be; an empty one was made, and the history is lost"
    if kept is not None:
        text += f"; what was there is kept as {kept}"
    return Mended(
        text + (f" (DuckDB: {cause})" if cause else ""), shlex.join(["ls", "-l", str(path.parent), str(backups_dir)])
    )


def _newest_readable(path: Path, backups_dir: Path, copy: Path, newest: int) -> Path | None:
    """The newest backup that this version can use, copied to `copy`; None when there is none. Raises OSError."""
    for backup in list_backups(path, backups_dir):
        shutil.copyfile(backup, copy)
        if _can_be_used(copy, newest):
            return backup
        discard(copy, _wal(copy))
    return None


def _can_be_used(copy: Path, newest: int) -> bool:
    """Whether every block of every table can be read, in a schema that this version knows."""
    try:
        with duckdb.connect(str(copy), read_only=True) as connection:
            tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal").fetchall()
            for (table,) in tables:
                connection.execute(f'SELECT bit_xor(hash(t)) FROM "{table}" t').fetchall()  # noqa: S608 - a name of ours
            return 0 < stored_version(connection) <= newest
    except duckdb.Error:
        return False


def _set_aside(path: Path) -> Path | None:
    """Move the file and its WAL away, and forget the oldest that were moved before; where the file is now."""
    kept = path.with_name(f"{path.name}.corrupt-{time_stamp()}")
    moved = [target for source, target in ((path, kept), (_wal(path), _wal(kept))) if _moved(source, target)]
    names = sorted({file.name.removesuffix(".wal") for file in path.parent.glob(f"{path.name}.corrupt-*")})
    for name in names[:-KEPT_ASIDE]:
        discard(path.with_name(name), path.with_name(name + ".wal"))
    return moved[0] if moved else None


def _moved(source: Path, target: Path) -> bool:
    try:
        source.rename(target)
    except FileNotFoundError:
        return False
    return True


def _wal(path: Path) -> Path:
    return path.with_name(path.name + ".wal")


def _made_at(backup: Path) -> str:
    """``2026-11-25 09:14:00 UTC``, from the name of a backup."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.strptime(backup.name.split("-")[-2][:15], "%Y%m%dT%H%M%S"))
