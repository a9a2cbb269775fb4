"""Numbers as people read them: sizes, times, ages."""

import time

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
UNKNOWN = "-"


def size(count: int) -> str:
    """``7.9 GiB``; bytes below 1024 stay whole."""
    value = float(count)
    unit = _UNITS[0]
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """``0.4s``, ``12s``, ``3m05s``, ``2h10m``, ``5d03h``."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def age(at: float | None, now: float) -> str:
    """Time since `at` (unix seconds); ``-`` when it never was."""
    return duration(now - at) if at else UNKNOWN


def local_time(at: float) -> str:
    """``2026-03-01 09:30:00``, on the clock of this machine; ``-`` when it never was."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else UNKNOWN


def figure(value: object) -> str:
    """A field of a log line or sentence; measured numbers in six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}%"
