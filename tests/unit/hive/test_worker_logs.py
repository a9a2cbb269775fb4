"""Logs of workers: found by id, read from the end, and never more than a few left behind."""

import json
import os
from pathlib import Path

import pytest

from daemons.hive.worker_logs import KEPT_LOGS, last_words, prune, remove
from daemons.kit.log_files import files_of, worker_of


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("w-0a1b2c3d.log", "w-0a1b2c3d"),
        ("w-0a1b2c3d.log.2", "w-0a1b2c3d"),
        ("w-0a1b2c3d.out", "w-0a1b2c3d"),
        ("w-0a1b2c3d.json", None),
        ("hive.log", None),
        ("w-../x.log", None),
        ("w-nothex.log", None),
    ],
)
def test_names_tell_the_worker(name: str, owner: str | None) -> None:
    assert worker_of(Path("/logs") / name) == owner


def test_last_words_are_of_both_files_and_readable(tmp_path: Path) -> None:
    told = [{"at": 1.0, "level": "error", "text": f"told {n}", "code": "X"} for n in range(3)]
    (tmp_path / "w-00000001.log").write_text("".join(json.dumps(row) + "\n" for row in told))
    (tmp_path / "w-00000001.out").write_text("".join(f"printed {n}\n" for n in range(100)))
    words = last_words(tmp_path, "w-00000001")
    assert len(words) == 40
    assert words[:3] == ("ERROR told 0 code=X", "ERROR told 1 code=X", "ERROR told 2 code=X")
    assert words[-1] == "printed 99"


@pytest.mark.parametrize(
    ("told", "printed", "shown"), [(100, 0, (40, 0)), (0, 100, (0, 40)), (100, 100, (20, 20)), (5, 100, (5, 35))]
)
def test_the_two_files_share_the_lines(tmp_path: Path, told: int, printed: int, shown: tuple[int, int]) -> None:
    (tmp_path / "w-00000001.log").write_text("".join(f"told {n}\n" for n in range(told)))
    (tmp_path / "w-00000001.out").write_text("".join(f"printed {n}\n" for n in range(printed)))
    words = last_words(tmp_path, "w-00000001")
    assert (sum("told" in word for word in words), sum("printed" in word for word in words)) == shown


def test_a_worker_without_logs_said_nothing(tmp_path: Path) -> None:
    assert last_words(tmp_path, "w-00000001") == ()


def test_only_the_newest_logs_of_ended_workers_stay(tmp_path: Path) -> None:
    for number in range(KEPT_LOGS + 4):
        for suffix in ("log", "log.1", "out"):
            path = tmp_path / f"w-{number:08x}.{suffix}"
            path.write_text("x")
            os.utime(path, (1000 + number, 1000 + number))
    (tmp_path / "hive.log").write_text("x")
    prune(tmp_path, alive={"w-00000000"})
    left = {worker_of(path) for path in tmp_path.glob("w-*")}
    assert left == {"w-00000000", *(f"w-{number:08x}" for number in range(4, KEPT_LOGS + 4))}
    assert (tmp_path / "hive.log").exists()


def test_removing_takes_all_files_of_one_worker_only(tmp_path: Path) -> None:
    for name in ("w-00000001.log", "w-00000001.log.1", "w-00000001.out", "w-00000002.log"):
        (tmp_path / name).write_text("x")
    assert len(files_of(tmp_path, "w-00000001")) == 3
    remove(tmp_path, "w-00000001")
    assert [path.name for path in tmp_path.iterdir()] == ["w-00000002.log"]
