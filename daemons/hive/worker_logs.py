"""Log files of workers: ``<id>.log`` (structured, rotated) and ``<id>.out`` (what the process printed)."""

from collections.abc import Collection
from pathlib import Path

from daemons.hive.core.exits import LOG_LINES
from daemons.kit.log_files import files_of, worker_of
from daemons.kit.logs import parse_log_line
from daemons.kit.procs import last_lines

KEPT_LOGS = 8
"""Ended workers whose logs are kept."""


def out_path(logs: Path, worker_id: str) -> Path:
    return logs / f"{worker_id}.out"


def last_words(logs: Path, worker_id: str) -> tuple[str, ...]:
    """The last lines of a worker's two logs, LOG_LINES together, the printed ones at the end."""
    told = [_plain(line) for line in last_lines(logs / f"{worker_id}.log", LOG_LINES)]
    printed = last_lines(out_path(logs, worker_id), LOG_LINES)
    printed = printed[-max(LOG_LINES // 2, LOG_LINES - len(told)) :]
    left = LOG_LINES - len(printed)
    return (*told[max(0, len(told) - left) :], *printed)


def _plain(line: str) -> str:
    """A structured line as a person would read it."""
    row = parse_log_line(line, "", "")
    fields = " ".join(f"{key}={value}" for key, value in row.fields.items())
    return " ".join(part for part in (row.level.upper() if row.at else "", row.text, fields) if part)


def prune(logs: Path, alive: Collection[str]) -> None:
    """Remove the logs of ended workers but for those of the KEPT_LOGS that wrote last."""
    newest: dict[str, float] = {}
    for path in logs.glob("w-*"):
        worker_id = worker_of(path)
        if worker_id is not None and worker_id not in alive:
            newest[worker_id] = max(newest.get(worker_id, 0.0), path.stat().st_mtime)
    for worker_id in sorted(newest, key=newest.__getitem__, reverse=True)[KEPT_LOGS:]:
        remove(logs, worker_id)


def remove(logs: Path, worker_id: str) -> None:
    """Remove all log files of one worker."""
    for path in files_of(logs, worker_id):
        path.unlink(missing_ok=True)
