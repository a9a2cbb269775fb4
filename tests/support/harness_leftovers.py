"""Who belongs to a home folder: by the run files that daemons write, and by what ``/proc`` says of every process."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemons.kit.procs.identity import ProcessIdentity, identify

_PROC = Path("/proc")
_LOST = ("was destroyed but it is pending", "was never retrieved", "was never awaited")


@dataclass(frozen=True, slots=True)
class DaemonRun:
    """What a run file says: which process, at which address."""

    identity: ProcessIdentity
    url: str


def read_daemon_run(path: Path) -> DaemonRun | None:
    """The run file of a queen, hive or worker; None when it is not (yet) there."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    process = fields.get("process") or fields.get("identity") or fields
    return DaemonRun(ProcessIdentity.from_json(process), str(fields["url"]))


def read_worker_runs(home: Path) -> dict[str, DaemonRun]:
    """Worker id -> its run file."""
    found: dict[str, DaemonRun] = {}
    for path in sorted((home / "run" / "workers").glob("*.json")):
        run = read_daemon_run(path)
        if run is not None:
            found[path.stem] = run
    return found


def processes_of(root: Path) -> dict[ProcessIdentity, str]:
    """Processes whose environment, working folder or open files lie below `root`; the label is the command line."""
    found: dict[ProcessIdentity, str] = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid() or not _belongs(entry, root):
            continue
        identity = identify(int(entry.name))
        if identity is not None:
            found[identity] = command_line(identity.pid)
    return found


def command_line(pid: int) -> str:
    """The command line of a process as everybody on the machine sees it."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def all_command_lines() -> dict[int, str]:
    """Every command line on this machine."""
    return {int(entry.name): command_line(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdigit()}


def _belongs(process: Path, root: Path) -> bool:
    try:
        if f"{root}/".encode() in (process / "environ").read_bytes():
            return True
        links = [process / "cwd", *(process / "fd").iterdir()]
    except OSError:
        return False  # ended meanwhile, or not ours
    return any(_points_below(link, root) for link in links)


def _points_below(link: Path, root: Path) -> bool:
    try:
        target = os.readlink(link)
    except OSError:
        return False
    return target == str(root) or target.startswith(f"{root}/")


def lost_tasks(root: Path) -> list[str]:
    """Lines in the daemons' logs below `root` by which asyncio tells of a task or a failure that nobody waited for."""
    return [
        f"{path}: {line.strip()}"
        for path in sorted(root.rglob("logs/*"))
        if path.is_file()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if any(fault in line for fault in _LOST)
    ]
