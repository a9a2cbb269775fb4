"""A daemon is started once however many want it, and found by identity; a failed start is told in its own words."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.paths import Paths
from daemons.kit.policy import Policy
from daemons.kit.procs import identify, is_alive, own_identity, send_signal
from daemons.kit.runfile import RunFile, run_path, write_run_file
from daemons.kit.settings import HiveSettings, QueenSettings, Settings
from daemons.lifecycle.local import (
    RunningDaemon,
    end_abandoned_workers,
    ensure_hive,
    ensure_queen,
    find_daemon,
    output_path,
    read_start_error,
    stop_daemon,
)
from tests.support.held_database import held_by_another_process

REPOSITORY = Path(__file__).parents[3]
QUICK = Policy(daemon_start_s=20, http_timeout_s=0.5, term_s=0.2, drain_s=0.2)
IMPATIENT = Policy(daemon_start_s=1.0, http_timeout_s=0.3, term_s=0.2, drain_s=0.2)


def silent(_text: str, **_fields: object) -> None:
    """Listens to no narration."""


class Home:
    """A fresh home whose queen and hive are fakes."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(home=root, models=root / "models", user_config=root / "config.toml")
        self.paths.create()
        self.settings()

    def settings(self, policy: Policy = QUICK) -> Settings:
        programs = {name: str(self._program(name)) for name in ("queen", "hive")}
        return Settings(
            queen=QueenSettings(port=0, program=programs["queen"]),
            hive=HiveSettings(port=0, program=programs["hive"]),
            policy=policy,
        )

    def _program(self, name: str) -> Path:
        program = self.paths.home / f"{name}-program"
        if program.exists():  # a file that another process may be executing cannot be opened for writing
            return program
        program.write_text(
            f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m tests.support.fake_daemon {name} "$@"\n'
        )
        program.chmod(0o755)
        return program

    async def found(self, name: str = "queen") -> RunFile | None:
        return await asyncio.to_thread(find_daemon, name, self.paths)

    async def queen(self, policy: Policy = QUICK, *, ephemeral: bool = False) -> RunningDaemon:
        return await ensure_queen(self.paths, self.settings(policy), ephemeral=ephemeral, narrate=silent)

    def starts(self) -> list[dict[str, Any]]:
        """Every start of a fake so far: its arguments, its RBEE_ environment, its folder."""
        try:
            return [json.loads(line) for line in (self.paths.home / "starts").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def lines_of(self, processes: Path = Path("/proc")) -> list[int]:
        """Pids of the fakes of this home that run."""
        pids = [int(entry.name) for entry in processes.iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if self._is_fake(pid) and identify(pid)]

    def _is_fake(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return f"RBEE_HOME={self.paths.home}\0".encode() in environment + b"\0" and b"fake_daemon" in command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.delenv("FAKE_DAEMON", raising=False)
    made = Home(tmp_path / "home")
    yield made
    for pid in made.lines_of():
        identity = identify(pid)
        if identity is not None:
            send_signal(identity, signal.SIGKILL)
    wait_until(lambda: made.lines_of() == [])


def wait_until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


async def test_a_daemon_is_started_answers_and_is_stopped(home: Home) -> None:
    said: list[str] = []
    queen = await ensure_queen(
        home.paths, home.settings(), ephemeral=False, narrate=lambda text, **_fields: said.append(text)
    )
    assert queen.started_here
    assert queen.key == (home.paths.keys / "admin.key").read_text().strip()
    assert await home.found() == queen.run
    assert await home.found("hive") is None
    assert said == ["starting the queen", f"the queen answers at {queen.url}"]
    report = await stop_daemon("queen", home.paths, QUICK)
    assert report is not None
    assert (report.returncode, report.sent) == (0, (signal.SIGTERM,))
    assert await home.found() is None
    assert not run_path(home.paths, "queen").exists()
    assert await stop_daemon("queen", home.paths, QUICK) is None


async def test_a_running_daemon_is_attached_to_and_left_as_it_is(home: Home) -> None:
    first = await home.queen()
    second = await home.queen(ephemeral=True)
    assert (second.started_here, second.run) == (False, first.run)
    assert len(home.starts()) == 1


async def test_queen_and_hive_are_told_apart(home: Home) -> None:
    queen, hive = await asyncio.gather(
        home.queen(), ensure_hive(home.paths, home.settings(), ephemeral=False, narrate=silent)
    )
    assert queen.run.identity != hive.run.identity
    assert (queen.run.name, hive.run.name) == ("queen", "hive")
    assert hive.key == (home.paths.keys / "hive.key").read_text().strip()


async def test_an_ephemeral_daemon_gets_us_as_its_owner(home: Home) -> None:
    queen = await home.queen(ephemeral=True)
    assert home.starts()[0]["arguments"] == ["serve", "--ephemeral", "--owner-pid", str(os.getpid())]
    assert queen.run.ephemeral
    assert queen.run.owner == own_identity()


async def test_the_daemon_gets_home_address_and_a_private_folder_to_work_in(home: Home) -> None:
    await home.queen()
    [start] = home.starts()
    assert start["cwd"] == str(home.paths.home)
    assert start["env"]["RBEE_HOME"] == str(home.paths.home)
    assert start["env"]["RBEE_QUEEN_PORT"] == "0"


async def test_of_several_at_once_one_starts_and_the_others_attach(home: Home) -> None:
    daemons = await asyncio.gather(*(home.queen() for _ in range(5)))
    assert len({daemon.run.identity for daemon in daemons}) == 1
    assert sorted(daemon.started_here for daemon in daemons) == [False] * 4 + [True]
    assert len(home.starts()) == 1


STARTER = """
import asyncio, sys
from pathlib import Path
from tests.unit.lifecycle.test_local import Home
print(asyncio.run(Home(Path(sys.argv[1])).queen()).run.identity.pid)
"""


def start_keepers(home: Home, count: int, **environment: str) -> list["subprocess.Popen[str]"]:
    return [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, str(home.paths.home)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]


def test_of_several_processes_one_starts_and_the_others_attach(home: Home) -> None:
    keepers = start_keepers(home, 3)
    pids = {keeper.communicate(timeout=60)[0] for keeper in keepers}
    assert [keeper.returncode for keeper in keepers] == [0, 0, 0]
    assert len(pids) == 1
    assert len(home.starts()) == 1
    assert len(home.lines_of()) == 1


async def attach_once_refused(home: Home) -> RunningDaemon:
    """Ask for a queen while one has the state but does not answer yet; let it answer when a second was refused."""
    refused: list[str] = []

    def listen(text: str, **_fields: object) -> None:
        if text == "another queen was faster":
            refused.append(text)
            (home.paths.home / "go").touch()

    queen = await ensure_queen(home.paths, home.settings(), ephemeral=False, narrate=listen)
    assert refused
    assert not queen.started_here
    assert home.lines_of() == [queen.run.identity.pid]
    return queen


async def test_whoever_follows_a_killed_starter_attaches_to_what_it_started(home: Home) -> None:
    [keeper] = start_keepers(home, 1, FAKE_DAEMON="gated")
    await asyncio.to_thread(wait_until, lambda: home.paths.database("queen").exists())
    keeper.kill()
    keeper.communicate()
    await attach_once_refused(home)
    assert len(home.starts()) == 2


async def test_state_that_a_stranger_holds_is_told_with_its_pid(home: Home) -> None:
    with held_by_another_process(home.paths.database("queen")) as pid, pytest.raises(RbeeError) as caught:
        await home.queen(Policy(daemon_start_s=4.0, http_timeout_s=0.3))
    assert (caught.value.code, caught.value.details["pid"]) == (Code.ALREADY_RUNNING, pid)
    assert len(home.starts()) == 1


async def test_a_crash_while_starting_is_told_at_once_with_the_last_lines(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DAEMON", "crash")
    began = time.monotonic()
    with pytest.raises(RbeeError) as caught:
        await home.queen()
    assert time.monotonic() - began < QUICK.daemon_start_s / 2
    error = caught.value
    assert error.code is Code.DAEMON_START_FAILED
    assert "exited with code 3 before it answered" in error.message
    assert error.details["lines"] == ["first line", "ModuleNotFoundError: No module named 'bees'"]
    assert error.details["log"] == str(output_path("queen", home.paths))


async def test_a_signal_while_starting_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DAEMON", "segv")
    with pytest.raises(RbeeError, match="killed by SIGSEGV before it answered"):
        await home.queen()


async def test_the_daemons_own_error_is_raised(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DAEMON", "port")
    with pytest.raises(RbeeError) as caught:
        await home.queen()
    error = caught.value
    assert (error.code, error.details, error.hint) == (Code.PORT_IN_USE, {"port": 8080}, "change it")
    printed = await asyncio.to_thread(read_start_error, output_path("queen", home.paths))
    assert printed is not None
    assert printed.as_dict() == error.as_dict()


async def test_an_error_of_an_earlier_start_is_not_told_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DAEMON", "port")
    with pytest.raises(RbeeError):
        await home.queen()
    monkeypatch.setenv("FAKE_DAEMON", "segv")
    with pytest.raises(RbeeError) as caught:
        await home.queen()
    assert caught.value.code is Code.DAEMON_START_FAILED
    assert sorted(file.name for file in home.paths.logs.iterdir()) == ["queen.out", "queen.out.1"]


async def test_a_daemon_that_never_answers_is_stopped_at_the_limit(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DAEMON", "mute")
    with pytest.raises(RbeeError, match="did not answer within 1 s and was stopped") as caught:
        await home.queen(IMPATIENT)
    assert caught.value.code is Code.DAEMON_START_FAILED
    assert home.lines_of() == []


async def test_a_program_that_is_not_there_is_named(home: Home) -> None:
    settings = Settings(queen=QueenSettings(program="/nowhere/queen"), policy=QUICK)
    with pytest.raises(RbeeError, match="cannot start the queen as /nowhere/queen") as caught:
        await ensure_queen(home.paths, settings, ephemeral=False, narrate=silent)
    assert caught.value.code is Code.DAEMON_START_FAILED


async def test_a_killed_daemon_is_not_found_and_another_is_started(home: Home) -> None:
    first = await home.queen()
    send_signal(first.run.identity, signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: not is_alive(first.run.identity))
    assert run_path(home.paths, "queen").exists()
    assert await home.found() is None
    second = await home.queen()
    assert second.started_here
    assert second.run.identity != first.run.identity


async def test_a_stale_run_file_whose_pid_is_used_again_is_seen_through(home: Home) -> None:
    stale = RunFile.of_this_process("queen", "http://127.0.0.1:1")
    earlier = stale.model_copy(update={"identity": type(stale.identity)(os.getpid(), stale.identity.boot_id, 1)})
    await asyncio.to_thread(write_run_file, run_path(home.paths, "queen"), earlier)
    assert await stop_daemon("queen", home.paths, QUICK) is None
    assert (await home.queen()).started_here


async def test_a_daemon_that_runs_but_does_not_answer_is_told_with_its_pid(home: Home) -> None:
    queen = await home.queen()
    send_signal(queen.run.identity, signal.SIGSTOP)
    with pytest.raises(RbeeError) as caught:
        await home.queen(IMPATIENT)
    assert caught.value.code is Code.QUEEN_UNREACHABLE
    assert f"(pid {queen.run.identity.pid}) runs, but did not answer" in caught.value.message
    assert len(home.starts()) == 1
    send_signal(queen.run.identity, signal.SIGCONT)


async def test_a_daemon_that_will_not_end_is_killed_and_its_run_file_removed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DAEMON", "stubborn")
    await home.queen()
    report = await stop_daemon("queen", home.paths, QUICK)
    assert report is not None
    assert report.sent == (signal.SIGTERM, signal.SIGKILL)
    assert not run_path(home.paths, "queen").exists()


async def test_a_start_that_is_cancelled_frees_the_lock(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DAEMON", "gated")
    starting = asyncio.ensure_future(home.queen())
    await asyncio.to_thread(wait_until, lambda: home.paths.database("queen").exists())
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await attach_once_refused(home)


class Left:
    """Processes that stand for workers, each with a run file."""

    def __init__(self, home: Home) -> None:
        self.folder = home.paths.worker_run
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, worker_id: str, script: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        identity = identify(process.pid)
        assert identity is not None
        self.write(worker_id, identity.to_json())
        return process

    def write(self, worker_id: str, identity: dict[str, Any]) -> None:
        (self.folder / f"{worker_id}.json").write_text(json.dumps({"identity": identity, "url": "http://127.0.0.1:1"}))


@pytest.fixture
def left(home: Home) -> Iterator[Left]:
    made = Left(home)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


async def test_workers_of_a_dead_hive_are_ended_each_as_it_needs(home: Home, left: Left) -> None:
    await asyncio.to_thread(left.start, "w-1", "echo; exec sleep 60")
    await asyncio.to_thread(left.start, "w-2", "trap '' TERM; echo; while :; do sleep 1; done")
    own = own_identity()
    left.write("w-3", {**own.to_json(), "started": own.started - 1})  # its pid is ours now
    (left.folder / "w-4.json").write_text("{")
    ended = await end_abandoned_workers(home.paths, QUICK)
    assert {worker_id: report.sent for worker_id, report in ended.items()} == {
        "w-1": (signal.SIGTERM,),
        "w-2": (signal.SIGTERM, signal.SIGKILL),
    }
    assert [file.name for file in left.folder.iterdir()] == ["w-4.json"]
    assert await end_abandoned_workers(home.paths, QUICK) == {}


async def test_workers_of_a_hive_that_runs_or_starts_are_left_alone(
    home: Home, left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await asyncio.to_thread(left.start, "w-1", "echo; exec sleep 60")
    monkeypatch.setenv("FAKE_DAEMON", "gated")
    starting = asyncio.ensure_future(ensure_hive(home.paths, home.settings(), ephemeral=False, narrate=silent))
    await asyncio.to_thread(wait_until, lambda: home.paths.database("hive").exists())
    assert await end_abandoned_workers(home.paths, QUICK) == {}
    (home.paths.home / "go").touch()
    await starting
    assert await end_abandoned_workers(home.paths, QUICK) == {}
    assert worker.poll() is None
