"""An identity stands for one process and no other."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.kit.procs import ProcessIdentity, identify, identity, is_alive, own_identity, send_signal
from daemons.kit.procs.identity import open_pidfd, parse_stat
from tests.unit.kit.procs.conftest import SLEEP, StartPython

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_the_same_process_is_identified_alike_each_time() -> None:
    assert identify(os.getpid()) == own_identity()
    assert is_alive(own_identity())


def test_a_pid_that_is_free_has_no_identity(start_python: StartPython) -> None:
    child = start_python("pass")
    child.reap()
    assert identify(child.pid) is None
    assert not is_alive(child.identity)


def test_a_process_that_ended_but_is_not_reaped_is_not_alive(start_python: StartPython) -> None:
    child = start_python("pass")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists() or not sys.platform.startswith("linux")
    assert not is_alive(child.identity)
    assert identify(child.pid) is None


@pytest.mark.parametrize("boot_id", [None, "an-earlier-boot"])
def test_a_later_process_of_the_same_pid_is_another(start_python: StartPython, boot_id: str | None) -> None:
    child = start_python(SLEEP)
    mine = child.identity
    reused = dataclasses.replace(mine, boot_id=boot_id) if boot_id else dataclasses.replace(mine, started=1)
    assert not is_alive(reused)
    assert send_signal(reused, signal.SIGKILL) is False
    assert is_alive(child.identity)
    with pytest.raises(ProcessLookupError):
        open_pidfd(reused)


def test_without_pidfd_a_later_process_is_not_signalled_either(
    start_python: StartPython, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    child = start_python(SLEEP)
    assert send_signal(dataclasses.replace(child.identity, started=1), signal.SIGKILL) is False
    assert is_alive(child.identity)
    assert send_signal(child.identity, signal.SIGKILL) is True
    assert child.reap() == -signal.SIGKILL


def test_a_signal_reaches_the_process_and_says_so(start_python: StartPython) -> None:
    child = start_python(SLEEP)
    assert send_signal(child.identity, signal.SIGTERM) is True
    assert child.reap() == -signal.SIGTERM
    assert send_signal(child.identity, signal.SIGTERM) is False


@linux_only
def test_pidfd_leaves_no_descriptor_open_for_a_foreign_process(start_python: StartPython) -> None:
    child = start_python(SLEEP)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(ProcessLookupError):
            open_pidfd(dataclasses.replace(child.identity, started=1))
        send_signal(child.identity, signal.SIGCONT)
    assert len(os.listdir("/proc/self/fd")) == before


@linux_only
def test_psutil_path_tells_processes_apart_as_well(start_python: StartPython, monkeypatch: pytest.MonkeyPatch) -> None:
    child = start_python(SLEEP)
    monkeypatch.setattr(identity, "_HAS_PROC", False)
    seen = identify(child.pid)
    assert seen is not None
    assert is_alive(seen)
    assert not is_alive(dataclasses.replace(seen, started=seen.started + 1))
    send_signal(seen, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(seen)
    child.reap()
    assert not is_alive(seen)


@linux_only
def test_start_time_is_field_22_whatever_the_program_is_called(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 ("
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "60"]) as process:
        try:
            seen = identify(process.pid)
            assert seen is not None
            assert is_alive(seen)
            assert seen.started >= own_identity().started
        finally:
            process.kill()


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n"), max_size=16))
def test_any_program_name_may_stand_in_the_stat_line(name: str) -> None:
    line = f"7 ({name}) S 1 7 7 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 1 0 123456 99 1 2\n".encode()
    assert parse_stat(line) == ("S", 123456)


def test_identity_survives_json() -> None:
    mine = own_identity()
    assert ProcessIdentity.from_json(json.loads(json.dumps(mine.to_json()))) == mine


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pid": "7", "boot_id": "b", "started": 1},
        {"pid": True, "boot_id": "b", "started": 1},
        {"pid": 0, "boot_id": "b", "started": 1},
        {"pid": 7, "boot_id": None, "started": 1},
        {"pid": 7, "boot_id": "b", "started": 1.5},
    ],
)
def test_json_that_is_no_identity_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a process identity"):
        ProcessIdentity.from_json(fields)
