"""A run file names one process; readers see it whole; only its owner removes it."""

import dataclasses
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from daemons import __version__
from daemons.contracts.errors import Code, RbeeError
from daemons.kit.paths import Paths
from daemons.kit.procs import identify, own_identity
from daemons.kit.runfile import RunFile, published, read_run_file, remove_run_file, run_path, write_run_file
from tests.support.harness import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queen.json"


def mine(url: str = "http://127.0.0.1:8080") -> RunFile:
    return RunFile.of_this_process("queen", url)


def test_what_is_written_is_read_back(path: Path) -> None:
    run = RunFile.of_this_process("hive", "http://127.0.0.1:9200", ephemeral=True, owner=own_identity())
    write_run_file(path, run)
    assert read_run_file(path) == run
    assert run.version == __version__
    assert run.is_alive


def test_it_stands_under_the_run_folder(tmp_path: Path) -> None:
    paths = Paths(home=tmp_path, models=tmp_path / "models", user_config=tmp_path / "config.toml")
    assert run_path(paths, "hive") == tmp_path / "run" / "hive.json"


def test_it_is_readable_by_its_owner_only_and_nothing_else_is_left(path: Path) -> None:
    before = os.umask(0)
    try:
        write_run_file(path, mine())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "queen"}', '{"name": "queen", "identity": {"pid": "x"}}'])
def test_what_is_no_run_file_counts_as_none(path: Path, text: str) -> None:
    path.write_text(text)
    assert read_run_file(path) is None


def test_a_missing_file_counts_as_none(path: Path) -> None:
    assert read_run_file(path) is None


def test_fields_of_a_newer_rbee_are_ignored(path: Path) -> None:
    text = mine().model_dump_json()
    path.write_text(text[:-1] + ', "colour": "yellow"}')
    assert read_run_file(path) is not None


def test_the_file_of_a_process_that_ended_is_stale(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        identity = identify(process.pid)
        assert identity is not None
        write_run_file(path, mine().model_copy(update={"identity": identity}))
        run = read_run_file(path)
        assert run is not None
        assert run.is_alive
        process.kill()
        process.wait()
        assert not run.is_alive


def test_a_later_process_of_the_same_pid_is_not_taken_for_the_daemon(path: Path) -> None:
    reused = mine().model_copy(update={"identity": dataclasses.replace(own_identity(), started=1)})
    write_run_file(path, reused)
    run = read_run_file(path)
    assert run is not None
    assert not run.is_alive


def test_one_that_is_lost_while_published_is_written_again(path: Path) -> None:
    run = mine()
    with published(path, run, look_each_s=0.01):
        for lose in (path.unlink, lambda: path.write_text(""), lambda: path.write_text(of_a_dead_process(run))):
            lose()
            eventually(lambda: read_run_file(path) == run, "the file is back", within_s=5.0)
    assert not path.exists()


def test_the_file_of_another_living_process_is_left_alone(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        identity = identify(process.pid)
        with published(path, mine(), look_each_s=0.01):
            write_run_file(path, mine("http://127.0.0.1:1").model_copy(update={"identity": identity}))
            time.sleep(0.1)  # ten looks
            told = read_run_file(path)
        process.kill()
    assert told is not None
    assert told.identity == identity


def test_a_folder_that_is_gone_for_a_while_costs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with published(folder / "queen.json", mine(), look_each_s=0.01):
        folder.rename(tmp_path / "away")
        time.sleep(0.05)  # some looks
        folder.mkdir()
        eventually((folder / "queen.json").exists, "the file is back", within_s=5.0)


def of_a_dead_process(run: RunFile) -> str:
    return run.model_copy(update={"identity": dataclasses.replace(run.identity, started=1)}).model_dump_json()


def test_it_is_there_while_published_also_when_that_fails(path: Path) -> None:
    def fail_while_published() -> None:
        with published(path, mine()):
            assert read_run_file(path) is not None
            raise KeyError

    with pytest.raises(KeyError):
        fail_while_published()
    assert not path.exists()


def test_only_its_own_process_removes_it(path: Path) -> None:
    other = mine().model_copy(update={"identity": dataclasses.replace(own_identity(), started=1)})
    with published(path, mine()):
        write_run_file(path, other)  # another daemon has taken over
    assert read_run_file(path) == other
    assert remove_run_file(path, own_identity()) is False
    assert remove_run_file(path, other.identity) is True
    assert remove_run_file(path, other.identity) is False


def test_readers_never_see_half_a_file(path: Path) -> None:
    write_run_file(path, mine())
    done = threading.Event()

    def write_many() -> None:
        for number in range(300):
            write_run_file(path, mine("http://127.0.0.1:8080/" + "x" * number))
        done.set()

    writer = threading.Thread(target=write_many)
    writer.start()
    seen = 0
    while not done.is_set():
        assert read_run_file(path) is not None
        seen += 1
    writer.join()
    assert seen > 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RbeeError) as caught:
        write_run_file(tmp_path / "missing" / "queen.json", mine())
    assert caught.value.code is Code.HOME_UNUSABLE
    assert str(tmp_path / "missing") in caught.value.message
