"""Queen and hive of this machine as daemons: start, stop, status."""

import asyncio
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import DrainRequest, Health
from daemons.contracts.routes import QUEEN_SHUTDOWN
from daemons.kit.client import DaemonClient, Peer
from daemons.kit.narration import Listener
from daemons.kit.paths import Paths
from daemons.kit.procs import ExitReport
from daemons.kit.runfile import RunFile, read_run_file, remove_run_file, run_path
from daemons.lifecycle.local import (
    end_abandoned_workers,
    ensure_hive,
    ensure_queen,
    find_crashed,
    find_daemon,
    living_workers,
    stop_daemon,
)
from daemons.lifecycle.plan import HIVE, KINDS, QUEEN, DaemonKind
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.packages import install_command, missing_modules
from rbee_tui.keeper.session import find_queen, narration

NAMES = tuple(KINDS)
"""``queen`` and ``hive``."""


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """A daemon that answers. Of one that runs elsewhere, `pid` and `started_at` (unix seconds) are None."""

    name: str
    url: str
    version: str
    pid: int | None
    started_at: float | None
    ephemeral: bool = False


@dataclass(frozen=True, slots=True)
class EndedDaemon:
    """A daemon whose process is gone, without having removed its run file: it was killed, or crashed."""

    name: str
    pid: int
    url: str
    log: str


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """What the run files of this machine tell without a queen. `workers` are the ids of those whose processes run."""

    hive: DaemonStatus | None
    workers: list[str]
    ended_unexpectedly: list[EndedDaemon]


def this_machine(paths: Paths) -> ThisMachine:
    """Hive, workers, and what ended unexpectedly on this machine. Reads files."""
    run = find_daemon(HIVE.name, paths)
    ended = [daemon for name in NAMES if (daemon := ended_unexpectedly(paths, name)) is not None]
    return ThisMachine(_status_of(run, run.version) if run else None, living_workers(paths), ended)


def ended_unexpectedly(paths: Paths, name: str) -> EndedDaemon | None:
    """The last queen or hive of this machine, if it did not end in order. Reads files."""
    run = find_crashed(name, paths)
    return EndedDaemon(name, run.identity.pid, run.url, str(paths.log_file(name))) if run else None


def check_address(status: DaemonStatus, *, host: str | None, port: int | None) -> None:
    """Nothing, when a daemon that runs already has the address that was asked for (None: any; port 0: any).

    Looks up `host`. Raises RbeeError(ALREADY_RUNNING) with the commands that would change the address.
    """
    bound = urlsplit(status.url)
    if port in (None, 0, bound.port) and (host is None or _is_host(host, bound.hostname)):
        return
    asked = {"--host": host, "--port": port}
    flags = [word for flag, value in asked.items() if value is not None for word in (flag, str(value))]
    raise RbeeError(
        Code.ALREADY_RUNNING,
        f"the {status.name} runs already and keeps its address {status.url}; "
        f"{shlex.join(flags)} counts only when it is started",
        details={"daemon": status.name, "url": status.url, "pid": status.pid, "host": host, "port": port},
        hint=f"rbee {status.name} stop; rbee {status.name} start {shlex.join(flags)}",
    )


def _is_host(asked: str, bound: str | None) -> bool:
    try:
        return bound in {asked, *(address[4][0] for address in socket.getaddrinfo(asked, None))}
    except (OSError, UnicodeError):
        return False


async def start_daemon(installation: Installation, name: str, say: Listener) -> tuple[DaemonStatus, bool]:
    """The queen or hive of this machine, started when it does not run; and whether it was started now.

    Raises as `lifecycle.local.ensure_queen` does, and DAEMON_START_FAILED when its packages are not installed.
    """
    missing = missing_modules(name)
    if missing:
        raise RbeeError(
            Code.DAEMON_START_FAILED,
            f"this installation cannot run a {name}: {', '.join(missing)} not installed",
            details={"missing": missing},
            hint=await asyncio.to_thread(install_command, name),
        )
    ensure = ensure_queen if name == QUEEN.name else ensure_hive
    daemon = await ensure(
        installation.paths,
        installation.settings,
        ephemeral=False,
        narrate=lambda text, **fields: say(narration(text, **fields)),
    )
    return _status_of(daemon.run, daemon.run.version), daemon.started_here


async def stop_local(installation: Installation, name: str, say: Listener) -> ExitReport | None:
    """End the queen or hive of this machine, of whatever version, and wait until it is gone; None when none runs.

    Ending a hive ends its workers; ending a queen leaves hives and workers running for the next one. The run file of
    one that ended unexpectedly is removed.
    """
    run = await asyncio.to_thread(find_daemon, name, installation.paths)
    if run is None:
        await asyncio.to_thread(_forget_ended, installation.paths, name)
        return None
    drain_s = installation.policy.drain_s
    say(narration(f"stopping the {name}; waiting up to {drain_s:g} s for running requests", pid=run.identity.pid))
    return await stop_daemon(name, installation.paths, installation.policy)


def _forget_ended(paths: Paths, name: str) -> None:
    path = run_path(paths, name)
    run = read_run_file(path)
    if run is not None and not run.is_alive:
        remove_run_file(path, run.identity)


async def end_workers_left(installation: Installation) -> Mapping[str, ExitReport]:
    """End the workers of a hive that died or was killed; worker id -> how it ended. None while a hive runs."""
    return await end_abandoned_workers(installation.paths, installation.policy)


async def ask_queen_to_end(installation: Installation) -> str | None:
    """Ask the configured queen, wherever and of whatever version it is, to drain and end; its address.

    None when none is configured. Raises RbeeError(QUEEN_UNREACHABLE) or INVALID_API_KEY.
    """
    if not installation.settings.queen.url:
        return None
    address = await asyncio.to_thread(find_queen, installation)
    assert address is not None
    peer = Peer(address.url, address.key, QUEEN.name, QUEEN.unreachable)
    async with DaemonClient(peer, installation.policy) as client:
        await client.call(QUEEN_SHUTDOWN, body=DrainRequest())
    return address.url


async def daemon_status(installation: Installation, name: str) -> DaemonStatus | None:
    """The configured queen, or the queen or hive of this machine, asked now; None when there is none.

    Raises RbeeError(QUEEN_UNREACHABLE) or HIVE_UNREACHABLE when it should be there and does not answer.
    """
    kind = KINDS[name]
    if kind is QUEEN and installation.settings.queen.url:
        url = installation.settings.queen.url
        health = await _health(installation, kind, url)
        return DaemonStatus(name, url, health.version, None, None)
    run = await asyncio.to_thread(find_daemon, name, installation.paths)
    if run is None:
        return None
    health = await _health(installation, kind, run.url)
    return _status_of(run, health.version)


async def _health(installation: Installation, kind: DaemonKind, url: str) -> Health:
    # Health is the one route that needs no key; a header without one is not valid HTTP.
    peer = Peer(url, "none", f"the {kind.name}", kind.unreachable)
    async with DaemonClient(peer, installation.policy) as client:
        return await client.get(kind.health, Health)


def _status_of(run: RunFile, version: str) -> DaemonStatus:
    return DaemonStatus(run.name, run.url, version, run.identity.pid, run.started_at, run.ephemeral)
