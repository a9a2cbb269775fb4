"""What was generated before a cut is kept, privately and not without bound."""

import os
from pathlib import Path

import pytest

from rbee_tui.keeper.partials import KEPT, save_partial

TASK = "task-0123456789ab"


def test_the_text_is_there_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "partial"
    path = save_partial(folder, TASK, "Grüße 🐝\n")
    assert path == folder / f"{TASK}.txt"
    assert path.read_text(encoding="utf-8") == "Grüße 🐝\n"
    assert (path.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("task_id", ["", "../../etc/passwd", "task-../x", "/etc/passwd", "task-0123456789ab/x"])
def test_an_id_that_is_none_names_no_file(tmp_path: Path, task_id: str) -> None:
    with pytest.raises(ValueError, match="not an id"):
        save_partial(tmp_path / "partial", task_id, "x")
    assert not (tmp_path / "partial").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / f"{TASK}.txt").symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        save_partial(tmp_path, TASK, "x")
    assert target.read_text() == "mine"


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        path = save_partial(tmp_path, f"task-{number:012x}", "x")
        os.utime(path, ns=(number, number))
    save_partial(tmp_path, TASK, "x")
    kept = {path.stem for path in tmp_path.iterdir()}
    assert len(kept) == KEPT
    assert TASK in kept
    assert f"task-{3:012x}" not in kept
