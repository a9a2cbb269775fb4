"""The keeper as a person starts it: a process of its own, whose output arrives line by line and is never invented."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

KEEPER_MODULE = "rbee_tui.cli.main"
FINISHED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Finished:
    """A keeper command that ended: its arguments, exit code, output, and how long it ran."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float

    def __str__(self) -> str:
        command = f"rbee {' '.join(self.args)} -> {self.code} after {self.seconds:.2f} s"
        return f"{command}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Keeper:
    """A keeper command that runs. Threads read its output, so that it never waits for us."""

    def __init__(
        self,
        args: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
        *,
        stdin: str | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.args = tuple(args)
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", KEEPER_MODULE, *args],
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=dict(environ),
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._changed = threading.Condition()
        self._texts: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
        self._readers = [self._read("out", self._process.stdout), self._read("err", self._process.stderr)]
        if stdin is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(stdin.encode())

    @property
    def out(self) -> str:
        """What came on stdout so far."""
        return self._text("out")

    @property
    def err(self) -> str:
        return self._text("err")

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> float:
        """Send a signal to this process alone; returns when (monotonic seconds)."""
        self._process.send_signal(number)
        return time.monotonic()

    def wait_out(self, wanted: str, *, within_s: float = FINISHED_WITHIN_S) -> None:
        """Wait until `wanted` stands on stdout ("": until anything does)."""
        self._wait_text("out", wanted, within_s)

    def wait_err(self, wanted: str, *, within_s: float = FINISHED_WITHIN_S) -> None:
        self._wait_text("err", wanted, within_s)

    def wait(self, *, within_s: float = FINISHED_WITHIN_S) -> Finished:
        """Wait for the end. Raises AssertionError, and kills the command, when it takes too long."""
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"rbee {' '.join(self.args)} still ran after {within_s:g} s\n{self.err}") from None
        seconds = time.monotonic() - self._started
        for reader in self._readers:
            # A daemon that inherited our pipes would hold them open: that is a defect, not something to wait for.
            reader.join(5.0)
            assert not reader.is_alive(), f"something that rbee {' '.join(self.args)} started holds its output open"
        return Finished(self.args, code, self.out, self.err, seconds)

    def kill(self) -> None:
        """End the command at once, if it still runs, and reap it."""
        if self.runs:
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join(5.0)

    def _text(self, name: str) -> str:
        with self._changed:
            return self._texts[name].decode("utf-8", errors="replace")

    def _wait_text(self, name: str, wanted: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        with self._changed:
            while not self._texts[name] or wanted.encode() not in self._texts[name]:
                left = deadline - time.monotonic()
                ended = not any(reader.is_alive() for reader in self._readers)
                if ended or left <= 0:
                    why = "the command ended" if ended else f"not within {within_s:g} s"
                    raise AssertionError(f"{wanted!r} did not come on std{name}: {why}\n{self.out}\n{self.err}")
                self._changed.wait(min(left, 0.5))

    def _read(self, name: str, pipe: IO[bytes] | None) -> threading.Thread:
        assert pipe is not None
        reader = threading.Thread(target=self._copy, args=(name, pipe), name=f"keeper-{name}", daemon=True)
        reader.start()
        return reader

    def _copy(self, name: str, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := pipe.read1(65_536):  # type: ignore[attr-defined] # Popen's pipes are BufferedReader
                with self._changed:
                    self._texts[name] += chunk
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
