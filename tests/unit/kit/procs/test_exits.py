"""The end of a process is noticed at once, brought about in order, and reported as it was."""

import asyncio
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from daemons.kit.procs import (
    ChildProcess,
    ExitReport,
    ProcessIdentity,
    describe_exit,
    identify,
    is_alive,
    own_identity,
    send_signal,
    spawn,
    stop,
    wait_exit,
)
from tests.unit.kit.procs.conftest import SLEEP, StartPython

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
POLITE = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(60)"
ORPHAN = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-S", "-c", {SLEEP!r}], start_new_session=True)
print(child.pid, flush=True)
"""


@pytest.fixture(params=["pidfd", "polling"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With pidfd, and as on a system that has none."""
    if request.param == "polling":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    elif not hasattr(os, "pidfd_open"):
        pytest.skip("no pidfd here")
    return str(request.param)


@pytest.fixture
def adopted(tmp_path: Path) -> Iterator[ProcessIdentity]:
    """A running process that is not our child: its parent has ended."""
    log = tmp_path / "orphan.log"
    assert spawn([sys.executable, "-S", "-c", ORPHAN], log_path=log).reap() == 0
    identity = identify(int(log.read_text()))
    assert identity is not None
    yield identity
    send_signal(identity, signal.SIGKILL)


def until_up(log: Path) -> None:
    """Return when the child has set up its signal handler."""
    limit = time.monotonic() + 10
    while "up" not in log.read_text():
        assert time.monotonic() < limit
        time.sleep(0.01)


def suspend(child: ChildProcess) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)


def until_ended(child: ChildProcess) -> None:
    """Return when the child has ended, without reaping it."""
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.usefixtures("each_way")
async def test_exit_code_of_a_child_is_reported(start_python: StartPython) -> None:
    child = start_python("raise SystemExit(3)")
    report = await asyncio.wait_for(wait_exit(child), 10)
    assert (report.identity, report.returncode, report.sent) == (child.identity, 3, ())


@pytest.mark.usefixtures("each_way")
async def test_every_waiter_gets_the_code_of_one_child(start_python: StartPython) -> None:
    child = start_python(SLEEP)
    waiting = [asyncio.ensure_future(wait_exit(target)) for target in (child, child.identity, child)]
    await asyncio.sleep(0.1)
    assert not any(waiter.done() for waiter in waiting)
    os.kill(child.pid, signal.SIGKILL)
    reports = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert [report.returncode for report in reports] == [-signal.SIGKILL] * 3
    assert (await wait_exit(child)).returncode == -signal.SIGKILL


@pytest.mark.usefixtures("each_way")
async def test_the_end_of_an_adopted_process_is_noticed(adopted: ProcessIdentity) -> None:
    waiting = asyncio.ensure_future(wait_exit(adopted))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    os.kill(adopted.pid, signal.SIGKILL)
    report = await asyncio.wait_for(waiting, 10)
    assert (report.returncode, report.ended) == (None, True)
    assert not is_alive(adopted)


async def test_kill_is_noticed_at_once(start_python: StartPython) -> None:
    child = start_python(SLEEP)
    waiting = asyncio.ensure_future(wait_exit(child))
    await asyncio.sleep(0.1)
    killed = time.monotonic()
    os.kill(child.pid, signal.SIGKILL)
    await asyncio.wait_for(waiting, 10)
    assert time.monotonic() - killed < 0.5


@pytest.mark.usefixtures("each_way")
async def test_waiting_for_a_process_that_is_gone_returns_at_once(start_python: StartPython) -> None:
    child = start_python(SLEEP)
    reused = dataclasses.replace(child.identity, started=1)
    report = await asyncio.wait_for(wait_exit(reused), 1)
    assert report.returncode is None
    assert is_alive(child.identity)


def test_waiting_works_on_uvloop(tmp_path: Path) -> None:
    async def main() -> ExitReport:
        child = spawn([sys.executable, "-S", "-c", SLEEP], log_path=tmp_path / "log")
        asyncio.get_running_loop().call_later(0.1, os.kill, child.pid, signal.SIGKILL)
        return await asyncio.wait_for(wait_exit(child), 10)

    assert uvloop.run(main()).returncode == -signal.SIGKILL


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
async def test_a_cancelled_wait_leaves_no_descriptor(start_python: StartPython) -> None:
    child = start_python(SLEEP)
    before = open_descriptors()
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait_exit(child), 0.01)
    assert open_descriptors() == before
    assert is_alive(child.identity)


@pytest.mark.usefixtures("each_way")
async def test_stop_terminates_and_reports_the_exit_code(start_python: StartPython, tmp_path: Path) -> None:
    child = start_python(POLITE)
    until_up(tmp_path / "child.log")
    report = await stop(child, kill_after_s=10)
    assert (report.returncode, report.sent, report.ended) == (7, (signal.SIGTERM,), True)
    assert identify(child.pid) is None


@pytest.mark.usefixtures("each_way")
async def test_stop_kills_what_ignores_sigterm(start_python: StartPython, tmp_path: Path) -> None:
    child = start_python(STUBBORN)
    until_up(tmp_path / "child.log")
    report = await stop(child.identity, kill_after_s=0.2)
    assert (report.returncode, report.sent) == (-signal.SIGKILL, (signal.SIGTERM, signal.SIGKILL))
    assert report.waited_s >= 0.2
    assert "killed by SIGKILL after SIGTERM and SIGKILL" in report.describe()


async def test_stop_kills_a_suspended_process(start_python: StartPython) -> None:
    child = start_python(SLEEP)
    suspend(child)
    report = await stop(child, kill_after_s=0.2)
    assert report.returncode == -signal.SIGKILL


async def test_stop_sends_nothing_to_a_process_that_ends_by_itself(start_python: StartPython) -> None:
    child = start_python("import time; time.sleep(0.2)")
    report = await stop(child, term_after_s=10, kill_after_s=10)
    assert (report.returncode, report.sent) == (0, ())


async def test_stop_sends_nothing_to_one_that_has_ended(start_python: StartPython) -> None:
    child = start_python("raise SystemExit(4)")
    until_ended(child)
    report = await stop(child, kill_after_s=10)
    assert (report.returncode, report.sent) == (4, ())


@pytest.mark.usefixtures("each_way")
async def test_stop_ends_an_adopted_process(adopted: ProcessIdentity) -> None:
    report = await stop(adopted, kill_after_s=10)
    assert (report.returncode, report.sent, report.ended) == (None, (signal.SIGTERM,), True)
    assert not is_alive(adopted)


@pytest.mark.usefixtures("each_way")
async def test_stop_leaves_a_later_process_of_the_same_pid_alone(start_python: StartPython) -> None:
    child = start_python(SLEEP)
    report = await stop(dataclasses.replace(child.identity, started=1), kill_after_s=0.1)
    assert (report.sent, report.ended) == ((), True)
    assert is_alive(child.identity)


@pytest.mark.parametrize(
    ("returncode", "sentence"),
    [
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-11, "killed by SIGSEGV"),
        (-4, "killed by SIGILL"),
        (-signal.SIGKILL, "killed by SIGKILL"),
        (139, "exited with code 139 (SIGSEGV)"),
        (143, "exited with code 143 (SIGTERM)"),
        (-63, "killed by signal 63"),
        (255, "exited with code 255"),
        (None, "ended"),
    ],
)
def test_exits_are_described_in_words(returncode: int | None, sentence: str) -> None:
    assert describe_exit(returncode) == sentence


def test_a_report_of_a_process_that_would_not_end_says_so() -> None:
    report = ExitReport(own_identity(), None, (signal.SIGKILL,), 10.0, ended=False)
    assert report.describe() == f"pid {os.getpid()} still runs after SIGKILL (10.0 s)"
