"""Answers that were cut off: their text is kept in a file, so that nothing that was generated is lost."""

import os
from pathlib import Path

from daemons.contracts.ids import RUN_ID

KEPT = 100
"""Files that stay in the folder; the oldest go first."""


def save_partial(folder: Path, task_id: str, text: str) -> Path:
    """Write `text` to ``<folder>/<task_id>.txt``, readable by the owner only, and return that path.

    Raises OSError when it cannot be written, ValueError when `task_id` has not the form of an id.
    """
    if not RUN_ID.fullmatch(task_id):
        raise ValueError(f"{task_id!r} is not an id")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{task_id}.txt"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    _forget_oldest(folder)
    return path


def _forget_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.txt"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in files[KEPT:]:
        file.unlink(missing_ok=True)
