"""Queen and hive of this machine as daemons: start, stop, status."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import DrainRequest, Health
from daemons.contracts.routes import QUEEN_SHUTDOWN
from daemons.kit.client import DaemonClient, Peer
from daemons.kit.narration import Listener
from daemons.kit.procs import ExitReport
from daemons.kit.runfile import RunFile
from daemons.lifecycle.local import end_abandoned_workers, ensure_hive, ensure_queen, find_daemon, stop_daemon
from daemons.lifecycle.plan import KINDS, QUEEN, DaemonKind
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

    Ending a hive ends its workers; ending a queen leaves hives and workers running for the next one.
    """
    run = await asyncio.to_thread(find_daemon, name, installation.paths)
    if run is None:
        return None
    drain_s = installation.policy.drain_s
    say(narration(f"stopping the {name}; waiting up to {drain_s:g} s for running requests", pid=run.identity.pid))
    return await stop_daemon(name, installation.paths, installation.policy)


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
