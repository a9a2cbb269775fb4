"""What running processes hold: memory and descriptors, by ``/proc`` (proc(5))."""

import os
from pathlib import Path


def rss_mib(pid: int) -> float:
    """Resident memory in MiB that is the process' own; pages of mapped files come and go with the system's cache."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGESIZE") / 2**20


def descriptors(pid: int) -> int:
    """Open files, sockets and pipes."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
