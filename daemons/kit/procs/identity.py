"""Who a process is: its pid, the boot it lives in, and when it started. Together they are never used twice.

On Linux the start time is field 22 of ``/proc/<pid>/stat`` (proc(5)), in clock ticks since boot, and the boot is
``/proc/sys/kernel/random/boot_id``. Elsewhere the start time is psutil's, in microseconds of unix time, which needs no
boot beside it.
"""

import errno
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_PROC = Path("/proc")
_BOOT_ID_FILE = _PROC / "sys/kernel/random/boot_id"
_HAS_PROC = _BOOT_ID_FILE.exists()
_BOOT_ID = _BOOT_ID_FILE.read_text(encoding="ascii").strip() if _HAS_PROC else ""
_ENDED_STATES = frozenset({"Z", "X", "x"})
# What a kernel or sandbox without pidfd answers; it says nothing about the process.
_NO_PIDFD = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ENODEV})


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process for all time. `started` counts clock ticks since boot on Linux, microseconds elsewhere."""

    pid: int
    boot_id: str
    started: int

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "boot_id": self.boot_id, "started": self.started}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ProcessIdentity":
        """Read back what `to_json` gave. Raises ValueError when a field is missing or of another type."""
        pid, boot_id, started = fields.get("pid"), fields.get("boot_id"), fields.get("started")
        if type(pid) is not int or type(started) is not int or not isinstance(boot_id, str) or pid <= 0:
            raise ValueError(f"not a process identity: {dict(fields)!r}")
        return cls(pid, boot_id, started)


def identify(pid: int) -> ProcessIdentity | None:
    """The running process of that pid; None when there is none, or only its not yet reaped remains."""
    seen = _look_up(pid)
    return seen[0] if seen is not None and seen[1] else None


def own_identity() -> ProcessIdentity:
    """Identity of the calling process."""
    identity = identify(os.getpid())
    assert identity is not None
    return identity


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether exactly this process still runs. One that ended but is not reaped counts as ended."""
    return identify(identity.pid) == identity


def identify_with_remains(pid: int) -> ProcessIdentity | None:
    """As `identify`, but an ended process that its parent has not reaped counts too."""
    seen = _look_up(pid)
    return seen[0] if seen is not None else None


def open_pidfd(identity: ProcessIdentity) -> int | None:
    """A descriptor pinned to this process (pidfd_open(2)), readable when it ends; None where there are none.

    The identity is checked after opening, so that the descriptor cannot stand for a later process of the same pid.
    Raises ProcessLookupError when the process is gone.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor: int = os.pidfd_open(identity.pid)
    except OSError as error:
        if error.errno in _NO_PIDFD:
            return None
        raise
    if identify_with_remains(identity.pid) != identity:
        os.close(descriptor)
        raise ProcessLookupError(errno.ESRCH, "the pid belongs to another process now")
    return descriptor


def send_signal(identity: ProcessIdentity, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False when it has ended. Raises PermissionError."""
    try:
        descriptor = open_pidfd(identity)
    except ProcessLookupError:
        return False
    if descriptor is None:
        return _send_by_pid(identity, number)
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def _send_by_pid(identity: ProcessIdentity, number: signal.Signals) -> bool:
    if not is_alive(identity):
        return False
    try:
        os.kill(identity.pid, number)
    except ProcessLookupError:
        return False
    return True


def _look_up(pid: int) -> tuple[ProcessIdentity, bool] | None:
    """(identity, still running) of a pid, or None."""
    return _from_proc(pid) if _HAS_PROC else _from_psutil(pid)


def _from_proc(pid: int) -> tuple[ProcessIdentity, bool] | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started = parse_stat(stat)
    return ProcessIdentity(pid, _BOOT_ID, started), state not in _ENDED_STATES


def parse_stat(stat: bytes) -> tuple[str, int]:
    """(state, start time in ticks) of a ``/proc/<pid>/stat`` line; the name in it may hold spaces and brackets."""
    fields = stat[stat.rindex(b")") + 2 :].split()
    return fields[0].decode(), int(fields[19])


def _from_psutil(pid: int) -> tuple[ProcessIdentity, bool] | None:
    try:
        process = psutil.Process(pid)
        started = round(process.create_time() * 1_000_000)
        running = process.status() != psutil.STATUS_ZOMBIE
    except psutil.ZombieProcess:
        return None
    except psutil.NoSuchProcess:
        return None
    return ProcessIdentity(pid, _BOOT_ID, started), running
