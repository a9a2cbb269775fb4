"""Starting a process that outlives its starter: own session, output to a file, secrets over stdin."""

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from daemons.kit.procs.identity import ProcessIdentity, identify_with_remains

LONGEST_STDIN_LINE = 16 * 1024
"""Bytes. What a fresh pipe takes at once on every system, so that writing it never waits for the child to read."""

_PRIVATE_UMASK = 0o077

# Mirrors the kernel's table of our unreaped children: an identity read from a file may be a child of ours, and whoever
# ends it must reap it. Keeps each Popen alive until then, too.
_unreaped: dict[ProcessIdentity, "ChildProcess"] = {}


@dataclass(frozen=True, slots=True, eq=False)
class ChildProcess:
    """A process that we started. Reaped exactly once, by whoever asks first after its end."""

    identity: ProcessIdentity
    argv: tuple[str, ...]
    log_path: Path
    _process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        return self.identity.pid

    def poll(self) -> int | None:
        """Exit code, negative signal number when killed by a signal, None while it runs."""
        code = self._process.poll()
        if code is not None:
            _unreaped.pop(self.identity, None)
        return code

    def reap(self) -> int:
        """As `poll`, for a child that is known to have ended."""
        code = self._process.wait()
        _unreaped.pop(self.identity, None)
        return code


def spawn(
    argv: Sequence[str],
    *,
    log_path: Path,
    stdin_line: str | None = None,
    pass_fds: Iterable[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> ChildProcess:
    """Start `argv` in a session of its own, without a shell; its output is appended to `log_path` (mode 0600).

    `stdin_line` is written to its stdin followed by a newline, and stdin is closed; None gives an empty stdin.
    `pass_fds` keep their numbers in the child. `env` and `cwd`: None inherits ours. Its umask is 077.
    The starter awaits `wait_exit` of what is returned, or ends itself and leaves the child to init.
    Raises OSError when the program cannot be started, ValueError when the line is longer than LONGEST_STDIN_LINE.
    """
    line = None if stdin_line is None else stdin_line.rstrip("\n").encode() + b"\n"
    if line is not None and (len(line) > LONGEST_STDIN_LINE or b"\n" in line[:-1]):
        raise ValueError(f"stdin takes one line of at most {LONGEST_STDIN_LINE} bytes, got {len(line)}")
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(log, 0o600)
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if line is None else subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=tuple(pass_fds),
            env=env,
            cwd=cwd,
            start_new_session=True,
            umask=_PRIVATE_UMASK,
        )
    finally:
        os.close(log)
    identity = identify_with_remains(process.pid) or ProcessIdentity(process.pid, "", 0)
    child = ChildProcess(identity, tuple(argv), log_path, process)
    _unreaped[identity] = child
    if line is not None:
        _write_stdin(process, line)
    return child


def find_child(identity: ProcessIdentity) -> ChildProcess | None:
    """The child of this process with that identity, unless it was reaped."""
    return _unreaped.get(identity)


def _write_stdin(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    try:
        with process.stdin:
            process.stdin.write(line)
    except BrokenPipeError:
        pass  # it ended before it read; its exit tells
