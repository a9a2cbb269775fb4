"""What DuckDB's own exceptions mean to a person.

DuckDB tells most failures to open a file apart only by their words, so the words are matched here, in one place.
"""

import re
from pathlib import Path

import duckdb

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.paths import free_space

_HELD_BY = re.compile(r"PID (\d+)")


class StoreFailed(RbeeError):
    """A statement failed; nothing of it was stored."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INTERNAL, message)


class ConstraintViolated(StoreFailed):
    """A statement would break a constraint, such as a second row of one primary key."""


class StoreBroken(StoreFailed):
    """The open database is of no more use, or a part of it cannot be read: it has to be opened again."""


class DiskRefused(StoreFailed):
    """The disk took nothing, as when it is full: the same may succeed later."""


_REFUSED = ("No space left on device", "Could not write file", "Disk quota exceeded")

_CORRUPT = (
    "Corrupt database file",  # the checksum of a block does not fit
    "Corrupt WAL file",
    "not a valid DuckDB database file",
    "Could not read",
    "replaying WAL",
)
"""Words of a message that blames the bytes of a file, not the place where it lies."""

# Words in DuckDB's message -> (code, what to say). The first that fits counts; none: the file cannot be read.
_OPEN_FAULTS: tuple[tuple[str, Code, str], ...] = (
    ("Could not set lock on file", Code.ALREADY_RUNNING, "another process has {path} open"),
    ("created with a newer version", Code.STATE_SCHEMA_NEWER, "{path} was written by a newer DuckDB: {reason}"),
    ("Permission denied", Code.HOME_UNUSABLE, "cannot open {path}: permission denied"),
    ("Read-only file system", Code.HOME_UNUSABLE, "cannot open {path}: the file system is read-only"),
    ("No such file or directory", Code.HOME_UNUSABLE, "cannot open {path}: its folder does not exist"),
    ("Is a directory", Code.HOME_UNUSABLE, "cannot open {path}: it is a folder"),
    ("No space left on device", Code.HOME_UNUSABLE, "cannot open {path}: no space left on the device, {free}"),
    ("Cannot open file", Code.HOME_UNUSABLE, "cannot open {path}: {reason}"),
    ("Out of Memory", Code.HOME_UNUSABLE, "cannot open {path}: {reason}"),
)


def is_corruption(error: Exception) -> bool:
    """Whether DuckDB says that bytes of a file are not what was written."""
    return isinstance(error, duckdb.Error) and any(words in str(error) for words in _CORRUPT)


def open_fault(path: Path, error: Exception) -> RbeeError:
    """The failure to open a database file, as a person can act on it."""
    text = str(error)
    reason = text.splitlines()[0]
    details: dict[str, object] = {"path": str(path), "reason": reason}
    for words, code, sentence in _OPEN_FAULTS:
        if words not in text:
            continue
        message = sentence.format(path=path, reason=reason, free=free_space(path))
        holder = _HELD_BY.search(text)
        if code is Code.ALREADY_RUNNING and holder:
            details["pid"] = int(holder[1])
            message += f" (pid {holder[1]})"
        return RbeeError(code, message, details=details)
    return corrupt(path, reason)


def corrupt(path: Path, reason: str) -> RbeeError:
    """A database file that cannot be read."""
    return RbeeError(
        Code.STATE_CORRUPT,
        f"the database {path} cannot be read: {reason}",
        details={"path": str(path), "reason": reason},
        hint=f"ls -l {path.parent / 'backups'}",
    )


def statement_fault(sql: str, error: Exception) -> StoreFailed:
    """The failure of one statement. Parameters are left out of it: they may be private."""
    kind: type[StoreFailed] = StoreFailed
    if isinstance(error, duckdb.ConstraintException):
        kind = ConstraintViolated
    elif isinstance(error, duckdb.FatalException) or is_corruption(error):
        kind = StoreBroken
    elif any(words in str(error) for words in _REFUSED):
        kind = DiskRefused
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return kind(f"{reason} (in: {' '.join(sql.split())[:120]})")
