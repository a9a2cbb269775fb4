"""Queen and hive of this machine as daemons: start, stop, status."""

import asyncio
import shlex
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import DrainRequest, Health
from daemons.contracts.routes import HIVE_SHUTDOWN, HIVE_WORKER_LIST, QUEEN_SHUTDOWN
from daemons.contracts.workers import HiveWorkerList
from daemons.kit.auth import ensure_key
from daemons.kit.client import DaemonClient, Peer
from daemons.kit.narration import Listener
from daemons.kit.paths import Paths
from daemons.kit.procs import ExitReport, send_signal, stop
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


@dataclass(frozen=True, slots=True)
class RestartedHive:
    """A hive in the place of another one, None if none ran. `found` and `lost` are ids of workers that had run."""

    hive: DaemonStatus
    before: ExitReport | None
    found: list[str]
    lost: list[str]


async def restart_hive(installation: Installation, say: Listener) -> RestartedHive:
    """End the hive of this machine without its workers, and start one that adopts them, whatever ended the last one.

    A hive that does not take that order is killed, so that it cannot end its workers. The installation names the
    address of the new one. Raises as `start_daemon` does.
    """
    paths = installation.paths
    workers = await asyncio.to_thread(lambda: sorted(file.stem for file in paths.worker_run.glob("*.json")))
    run = await asyncio.to_thread(find_daemon, HIVE.name, paths)
    before = await _end_hive_alone(installation, run, say) if run else None
    if before is None:
        await asyncio.to_thread(_forget_ended, paths, HIVE.name)
    status, _ = await start_daemon(installation, HIVE.name, say)
    async with _hive_client(installation, status.url) as client:
        rows = (await client.get(HIVE_WORKER_LIST, HiveWorkerList)).workers
    there = {row.id for row in rows if row.has_process}
    found, lost = ([id for id in workers if (id in there) is wanted] for wanted in (True, False))
    return RestartedHive(status, before, found, lost)


async def _end_hive_alone(installation: Installation, run: RunFile, say: Listener) -> ExitReport:
    policy = installation.policy
    say(narration("ending the hive; its workers go on", pid=run.identity.pid))
    try:
        async with _hive_client(installation, run.url) as client:
            await client.call(HIVE_SHUTDOWN, body=DrainRequest(workers=False), tries=1)
    except RbeeError as error:
        say(narration(f"{error.message}: killing it; its workers go on", pid=run.identity.pid))
        send_signal(run.identity, signal.SIGKILL)
    report = await stop(run.identity, term_after_s=policy.drain_s, kill_after_s=policy.term_s)
    await asyncio.to_thread(remove_run_file, run_path(installation.paths, HIVE.name), run.identity)
    return report


def _hive_client(installation: Installation, url: str) -> DaemonClient:
    key = ensure_key(installation.paths, HIVE.key_name)
    return DaemonClient(Peer(url, key, f"the {HIVE.name}", HIVE.unreachable), installation.policy)


def restart_flags(installation: Installation, name: str) -> Mapping[str, str | int]:
    """Settings that give the next queen or hive the address of this one; none when any free port will do.

    Reads files. Raises RbeeError(ALREADY_RUNNING) for an ephemeral one, which ends with the command that started it.
    """
    run = find_daemon(name, installation.paths)
    if run is None:
        return {}
    if run.ephemeral:
        raise RbeeError(
            Code.ALREADY_RUNNING,
            f"the {name} (pid {run.identity.pid}) is ephemeral: it ends with the command that started it",
            details={"daemon": name, "pid": run.identity.pid},
            hint=f"rbee {name} status",
        )
    settings = installation.settings.queen if name == QUEEN.name else installation.settings.hive
    address = urlsplit(run.url)
    if settings.port == 0 or address.port is None or address.hostname is None:
        return {}
    return {f"{name}.host": address.hostname, f"{name}.port": address.port}


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
