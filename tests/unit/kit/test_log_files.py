"""Log files: found by name, read in order of time, followed over rotation, and left out when they cannot be read."""

import asyncio
import json
import os
from contextlib import aclosing
from pathlib import Path

import pytest
import structlog

from daemons.kit.log_files import LONGEST_LINE, Follower, LogFiles, files_of, source_of, sources

WORKER = "w-00000001"


def line(at: float, text: str) -> str:
    return json.dumps({"at": at, "level": "info", "source": "x", "text": text}) + "\n"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def following(logs: Path) -> Follower:
    return Follower(lambda: sources(logs, None), "local")


def files(*paths: Path) -> LogFiles:
    return LogFiles(lambda: list(paths), "local")


def test_sources_are_of_hive_and_workers_or_of_one_worker(tmp_path: Path) -> None:
    for name in ("queen.log", "hive.log", "hive.log.1", "hive.out", f"{WORKER}.log", f"{WORKER}.out", "w-nothex.log"):
        (tmp_path / name).touch()
    assert [path.name for path in sources(tmp_path, None)] == ["hive.log", f"{WORKER}.log"]
    assert [path.name for path in sources(tmp_path, WORKER)] == [f"{WORKER}.out", f"{WORKER}.log"]
    assert [source_of(path) for path in sources(tmp_path, None)] == ["hive", WORKER]


@pytest.mark.parametrize("name", ["hive", "../logs/hive", "w-*", "w-00000002", ""])
def test_what_is_no_worker_with_logs_has_no_files(tmp_path: Path, name: str) -> None:
    for there in ("hive.log", f"{WORKER}.log", f"{WORKER}.out"):
        (tmp_path / there).touch()
    assert (sources(tmp_path, name), files_of(tmp_path, name)) == ([], [])


def test_lines_of_all_files_in_order_of_time(tmp_path: Path) -> None:
    one, two = tmp_path / "hive.log", tmp_path / f"{WORKER}.log"
    append(one, line(1, "a") + line(3, "c"))
    append(two, line(2, "b") + line(4, "d"))
    read = files(one, two, tmp_path / "gone.log")
    assert [(row.text, row.source) for row in read.read()] == [
        ("a", "hive"), ("b", WORKER), ("c", "hive"), ("d", WORKER),
    ]  # fmt: skip
    assert [row.text for row in read.read(tail=3)] == ["b", "c", "d"]
    assert [row.text for row in read.read(since=3)] == ["c", "d"]


async def test_what_is_appended_follows_until_the_end(tmp_path: Path) -> None:
    path, ending = tmp_path / "hive.log", asyncio.Event()
    append(path, line(1, "there"))
    told: list[list[str]] = []
    async with aclosing(files(path).follow(ending)) as looks:
        async for lines in looks:
            told.append([row.text for row in lines])
            if len(told) == 1:
                append(path, line(2, "appended"))
            if ["appended"] in told:
                ending.set()
    assert told[0] == ["there"]
    assert [texts for texts in told[1:] if texts] == [["appended"]]


async def test_a_file_that_cannot_be_read_is_left_out_and_told_of_once(tmp_path: Path) -> None:
    good, bad, ending = tmp_path / "hive.log", tmp_path / f"{WORKER}.log", asyncio.Event()
    bad.mkdir()  # opening it fails, for root as well
    append(good, line(1, "one"))
    with structlog.testing.capture_logs() as logged:
        async with aclosing(files(bad, good).follow(ending)) as looks:
            assert [row.text for row in await anext(looks)] == ["one"]
            assert [row["path"] for row in logged] == [str(bad)]
            for number in (2, 3):
                append(good, line(number, f"line {number}"))
                assert [row.text for row in await anext(looks)] == [f"line {number}"]
            bad.rmdir()
            append(bad, line(4, "readable now"))
            assert [row.text for row in await anext(looks)] == ["readable now"]
    assert len(logged) == 1


def test_a_file_that_fails_while_it_is_followed_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "hive.log", tmp_path / f"{WORKER}.log"
    one.touch()
    two.touch()
    follower = following(tmp_path)
    follower.skip_to_end()
    failing, fstat = [OSError(5, "Input/output error")], os.fstat

    def fails_once(descriptor: int) -> os.stat_result:
        if failing:
            raise failing.pop()
        return fstat(descriptor)

    monkeypatch.setattr(os, "fstat", fails_once)
    append(two, line(1, "of the other"))
    with structlog.testing.capture_logs() as logged:
        assert [row.text for row in follower.appended()] == ["of the other"]
    assert [(row["log_level"], row["path"]) for row in logged] == [("warning", str(one))]
    append(one, line(2, "again"))
    assert [row.text for row in follower.appended()] == ["again"]
    follower.close()


def test_after_its_end_a_follower_opens_nothing(tmp_path: Path) -> None:
    follower = following(tmp_path)
    follower.close()
    append(tmp_path / "hive.log", line(1, "x"))
    assert follower.appended() == []


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "hive.log"
    path.touch()
    follower = following(tmp_path)
    follower.skip_to_end()
    append(path, "half")
    assert follower.appended() == []
    append(path, " and half\nnext\n")
    assert [row.text for row in follower.appended()] == ["half and half", "next"]
    follower.close()


def test_a_line_without_end_does_not_fill_memory(tmp_path: Path) -> None:
    path = tmp_path / "hive.log"
    path.touch()
    follower = following(tmp_path)
    follower.skip_to_end()
    append(path, "x" * (3 * LONGEST_LINE))
    assert sum(len(row.text) for row in follower.appended()) == 3 * LONGEST_LINE
    follower.close()


def test_a_source_that_is_removed_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / f"{WORKER}.log"
    append(path, line(1, "x"))
    follower = following(tmp_path)
    follower.skip_to_end()
    path.unlink()
    assert follower.appended() == []
    append(path, line(2, "of a file of the same name"))
    assert [row.text for row in follower.appended()] == ["of a file of the same name"]
    follower.close()
