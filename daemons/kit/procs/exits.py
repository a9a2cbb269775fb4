"""The end of processes, children and adopted ones alike: waiting for it, bringing it about, describing it.

Waiting uses pidfd (pidfd_open(2)) on the event loop, and looks each 50 ms where the system has none.
"""

import asyncio
import os
import signal
import time
from dataclasses import dataclass

from daemons.kit.procs.children import ChildProcess, find_child
from daemons.kit.procs.identity import ProcessIdentity, is_alive, open_pidfd, send_signal

Target = ChildProcess | ProcessIdentity

_LOOK_EACH_S = 0.05
# SIGKILL takes effect at once unless the kernel is stuck in I/O for the process; then waiting longer does not help.
_KILL_TAKES_AT_MOST_S = 10.0
_SHELL_SIGNAL_BASE = 128


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How a process ended. `returncode` is None for a process that is not our child; `sent` are the signals we sent."""

    identity: ProcessIdentity
    returncode: int | None
    sent: tuple[signal.Signals, ...] = ()
    waited_s: float = 0.0
    ended: bool = True

    @property
    def how(self) -> str:
        """``exited with code 0 after SIGTERM``."""
        what = describe_exit(self.returncode) if self.ended else "still runs"
        return what + (f" after {' and '.join(number.name for number in self.sent)}" if self.sent else "")

    def describe(self) -> str:
        """``pid 4711 exited with code 0 after SIGTERM (0.2 s)``."""
        return f"pid {self.identity.pid} {self.how} ({self.waited_s:.1f} s)"


def describe_exit(returncode: int | None) -> str:
    """``exited with code 3``, ``killed by SIGSEGV``, or ``ended`` for a process whose status nobody told us."""
    if returncode is None:
        return "ended"
    if returncode < 0:
        return f"killed by {_signal_name(-returncode)}"
    if _SHELL_SIGNAL_BASE < returncode < _SHELL_SIGNAL_BASE + signal.NSIG:
        return f"exited with code {returncode} ({_signal_name(returncode - _SHELL_SIGNAL_BASE)})"
    return f"exited with code {returncode}"


async def wait_exit(target: Target) -> ExitReport:
    """Wait until the process has ended; a child of ours is reaped. Any number of callers may wait for one process."""
    started = time.monotonic()
    identity, child = _resolve(target)
    await _until_ended(identity, child)
    return ExitReport(identity, child.reap() if child else None, waited_s=time.monotonic() - started)


async def stop(target: Target, *, term_after_s: float = 0.0, kill_after_s: float) -> ExitReport:
    """End a process: leave it `term_after_s` to end by itself, then SIGTERM, and `kill_after_s` later SIGKILL; reap it.

    Does nothing to a later process of the same pid. The report's `ended` is False only when even SIGKILL did not end
    it within 10 s. Raises PermissionError when the process belongs to somebody else.
    """
    started = time.monotonic()
    identity, _ = _resolve(target)
    waiting = asyncio.ensure_future(wait_exit(target))
    sent: list[signal.Signals] = []
    steps = ((signal.SIGTERM, term_after_s), (signal.SIGKILL, kill_after_s))
    try:
        for number, patience_s in steps:
            if await _done_within(waiting, patience_s) or not is_alive(identity):
                break
            if send_signal(identity, number):
                sent.append(number)
        ended = await _done_within(waiting, _KILL_TAKES_AT_MOST_S)
        returncode = waiting.result().returncode if ended else None
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    return ExitReport(identity, returncode, tuple(sent), time.monotonic() - started, ended)


async def _done_within(waiting: "asyncio.Future[ExitReport]", limit_s: float) -> bool:
    done, _ = await asyncio.wait({waiting}, timeout=limit_s)
    return bool(done)


def _resolve(target: Target) -> tuple[ProcessIdentity, ChildProcess | None]:
    if isinstance(target, ChildProcess):
        return target.identity, target
    return target, find_child(target)


async def _until_ended(identity: ProcessIdentity, child: ChildProcess | None) -> None:
    try:
        descriptor = open_pidfd(identity)
    except ProcessLookupError:
        return
    if descriptor is None:
        while is_alive(identity) and (child is None or child.poll() is None):  # noqa: ASYNC110 - no event
            await asyncio.sleep(_LOOK_EACH_S)
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
