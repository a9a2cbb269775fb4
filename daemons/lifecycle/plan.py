"""How a daemon is started, as pure functions: command line, environment, and what a failed start means."""

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import HIVE_HEALTH, QUEEN_HEALTH, Route
from daemons.kit.auth import ADMIN_KEY, HIVE_KEY
from daemons.kit.paths import Paths
from daemons.kit.policy import Policy, Seconds
from daemons.kit.procs import ExitReport, describe_exit
from daemons.kit.settings import Settings

LOG_LINES = 20
"""Lines of a daemon's output that a failed start shows."""

KEEP_WORKERS_SIGNAL = signal.SIGUSR1
"""Ends a hive as SIGTERM does, but leaves its workers to the next hive."""


@dataclass(frozen=True, slots=True)
class DaemonKind:
    """One of the two daemons that run for longer than a command."""

    name: str
    module: str
    health: Route
    key_name: str
    unreachable: Code


QUEEN = DaemonKind("queen", "daemons.queen.main", QUEEN_HEALTH, ADMIN_KEY, Code.QUEEN_UNREACHABLE)
HIVE = DaemonKind("hive", "daemons.hive.main", HIVE_HEALTH, HIVE_KEY, Code.HIVE_UNREACHABLE)
KINDS: Mapping[str, DaemonKind] = {kind.name: kind for kind in (QUEEN, HIVE)}


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a daemon is to listen, and the program to start; "" is this installation's. `node` is a hive's name."""

    host: str
    port: int
    program: str
    node: str = ""


def binding_of(kind: DaemonKind, settings: Settings, *, ephemeral: bool = False) -> Binding:
    """The settings of one kind of daemon. Nobody has to know an ephemeral one's port, so it takes any free one."""
    section = settings.queen if kind is QUEEN else settings.hive
    node = "" if kind is QUEEN else settings.hive.node
    return Binding(section.host, 0 if ephemeral else section.port, section.program, node)


def daemon_argv(kind: DaemonKind, binding: Binding, *, python: str, owner_pid: int | None) -> tuple[str, ...]:
    """Command line of a daemon; `owner_pid` makes it ephemeral: it ends some time after that process.

    ``-P`` keeps the folder that the person stands in from being searched for modules.
    """
    program = (binding.program,) if binding.program else (python, "-P", "-m", kind.module)
    ephemeral = ("--ephemeral", "--owner-pid", str(owner_pid)) if owner_pid is not None else ()
    return (*program, "serve", *ephemeral)


def worker_argv(program: str, *arguments: str, python: str) -> list[str]:
    """Command line of the worker program; `program` "" is this installation's. ``-P`` as for a daemon."""
    return [*([program] if program else [python, "-P", "-m", "daemons.worker.main"]), *arguments]


def daemon_environment(
    kind: DaemonKind, binding: Binding, paths: Paths, environ: Mapping[str, str], here: Path
) -> dict[str, str]:
    """Environment of a daemon: ours, with the folders, host and port that its starter has settled on.

    The daemon works in another folder than its starter (`here`), so ``RBEE_CONFIG`` is made absolute.
    """
    settled = {
        f"RBEE_{kind.name.upper()}_HOST": binding.host,
        f"RBEE_{kind.name.upper()}_PORT": str(binding.port),
    }
    if binding.node:
        settled["RBEE_HIVE_NODE"] = binding.node
    if paths.models == paths.home / "models":  # else the folders follow from HOME, see kit.paths
        settled["RBEE_HOME"] = str(paths.home)
    if environ.get("RBEE_CONFIG"):
        settled["RBEE_CONFIG"] = str(here / Path(environ["RBEE_CONFIG"]).expanduser())
    return {**environ, **settled}


def stop_limit_s(policy: Policy) -> Seconds:
    """How long a daemon may take from SIGTERM to its end: its drain, then SIGTERM and SIGKILL to what it owns."""
    return policy.drain_s + 3 * policy.term_s


def start_error_in(lines: Sequence[str]) -> RbeeError | None:
    """The failure that a daemon printed before it ended, from the last lines of its output.

    The line is ``{"error": {…}}``; the interpreter may have written something behind it.
    """
    for line in reversed(lines):
        try:
            document = json.loads(line)
        except ValueError:
            continue
        error = document.get("error") if isinstance(document, dict) else None
        if isinstance(error, dict) and "code" in error:
            return RbeeError.from_dict(error)
    return None


def ended_too_early(kind: DaemonKind, report: ExitReport, lines: Sequence[str], log_path: Path) -> RbeeError:
    """A daemon that ended before it answered: the error it printed, else its exit and last lines."""
    told = start_error_in(lines)
    if told is not None:
        return told
    return _start_failed(kind, f"{describe_exit(report.returncode)} before it answered", lines, log_path)


def never_answered(kind: DaemonKind, limit_s: float, lines: Sequence[str], log_path: Path) -> RbeeError:
    """A daemon that ran and did not answer within the limit."""
    return _start_failed(kind, f"did not answer within {limit_s:g} s and was stopped", lines, log_path)


def _start_failed(kind: DaemonKind, what: str, lines: Sequence[str], log_path: Path) -> RbeeError:
    shown = "".join(f"\n  {line}" for line in lines[-LOG_LINES:])
    return RbeeError(
        Code.DAEMON_START_FAILED,
        f"the {kind.name} {what}; the last lines of {log_path}:{shown or ' (none)'}",
        details={"daemon": kind.name, "log": str(log_path), "lines": list(lines[-LOG_LINES:])},
        hint=f"tail -n 100 {log_path}",
    )
