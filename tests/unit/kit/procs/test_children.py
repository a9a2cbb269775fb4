"""A started process has its own session, a private log file, one line of stdin, and nothing else of ours."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from daemons.kit.procs import ChildProcess, spawn, wait_exit
from daemons.kit.procs.children import LONGEST_STDIN_LINE, find_child

REPORT = """
import json, os, sys
print(json.dumps({
    "stdin": sys.stdin.read(), "session": os.getsid(0), "pid": os.getpid(), "umask": os.umask(0),
    "fds": sorted(int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")),
    "env": os.environ.get("RBEE_TEST"),
}))
"""

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def python(program: str) -> list[str]:
    return [sys.executable, "-S", "-c", program]


def report_of(child: ChildProcess) -> dict[str, object]:
    assert child.reap() == 0
    fields: dict[str, object] = json.loads(child.log_path.read_text().splitlines()[-1])
    return fields


@linux_only
def test_child_has_its_own_session_and_umask_and_no_other_descriptor(tmp_path: Path) -> None:
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        fields = report_of(spawn(python(REPORT), log_path=tmp_path / "log"))
    finally:
        os.close(leak)
    assert fields["session"] == fields["pid"]
    assert fields["umask"] == 0o077
    assert fields["fds"] == [0, 1, 2]
    assert fields["stdin"] == ""


@linux_only
def test_passed_descriptors_keep_their_numbers(tmp_path: Path) -> None:
    wanted = os.open("/dev/null", os.O_RDONLY)
    try:
        fields = report_of(spawn(python(REPORT), log_path=tmp_path / "log", pass_fds=(wanted,)))
    finally:
        os.close(wanted)
    assert fields["fds"] == [0, 1, 2, wanted]


@linux_only
def test_one_line_reaches_stdin_and_is_followed_by_its_end(tmp_path: Path) -> None:
    fields = report_of(spawn(python(REPORT), log_path=tmp_path / "log", stdin_line='{"key": "…"}'))
    assert fields["stdin"] == '{"key": "…"}\n'


@linux_only
def test_environment_is_replaced_when_given(tmp_path: Path) -> None:
    fields = report_of(spawn(python(REPORT), log_path=tmp_path / "log", env={"RBEE_TEST": "yes"}))
    assert fields["env"] == "yes"


def test_output_is_appended_to_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("earlier\n")
    log.chmod(0o644)
    child = spawn(python("import sys; print('out', flush=True); print('err', file=sys.stderr)"), log_path=log)
    assert child.reap() == 0
    assert log.read_text() == "earlier\nout\nerr\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_link_in_the_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "log").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        spawn(python("print('overwritten')"), log_path=tmp_path / "log")
    assert victim.read_text() == "mine"


def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    text = f"$(touch {canary}); `touch {canary}` && touch {canary}"
    child = spawn([*python("import sys; print(sys.argv[1])"), text], log_path=tmp_path / "log")
    assert child.reap() == 0
    assert (tmp_path / "log").read_text() == text + "\n"
    assert not canary.exists()


def test_a_missing_program_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spawn([str(tmp_path / "nothing")], log_path=tmp_path / "log")


@pytest.mark.parametrize("line", ["x" * LONGEST_STDIN_LINE, "two\nlines"])
def test_stdin_takes_one_short_line_only(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match="one line of at most"):
        spawn(python("pass"), log_path=tmp_path / "log", stdin_line=line)


async def test_a_child_that_never_reads_its_stdin_blocks_nobody(tmp_path: Path) -> None:
    child = spawn(python("pass"), log_path=tmp_path / "log", stdin_line="x" * (LONGEST_STDIN_LINE - 1))
    assert (await wait_exit(child)).returncode == 0


def test_a_child_is_known_by_identity_until_it_is_reaped(tmp_path: Path) -> None:
    child = spawn(python("raise SystemExit(3)"), log_path=tmp_path / "log")
    assert find_child(child.identity) is child
    assert child.reap() == 3
    assert find_child(child.identity) is None
    assert child.poll() == 3
