"""From a command line to a running queen: settings, log, database, address, parts, and the end of all that."""

import asyncio
import importlib.util
import shlex
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from daemons.contracts.ids import LOCAL_NODE
from daemons.contracts.routes import Daemon, Role
from daemons.kit.app import build_app
from daemons.kit.auth import ADMIN_KEY, INFER_KEY, KeyFiles
from daemons.kit.notices import Notices
from daemons.kit.paths import Paths
from daemons.kit.runfile import RunFile, published, run_path
from daemons.kit.server import serve, url_of
from daemons.kit.settings import Settings
from daemons.kit.startup import Options, listen, prepare
from daemons.kit.store import Store
from daemons.queen.core.state import Limits
from daemons.queen.fleet import QueenIdentity
from daemons.queen.hives import Hive, LocalHive
from daemons.queen.http.table import queen_handlers
from daemons.queen.logs import QueenLogs
from daemons.queen.owner import InFlight, OwnerWatch
from daemons.queen.service import Parts, QueenService
from daemons.queen.store import MIGRATIONS, QueenStore

NAME: Final = "queen"
SWITCH_S = 0.0005
HIVE_MODULES = ("gguf", "duckdb")
"""What a hive imports beyond what the queen has; without them this machine is no node."""


async def run_queen(options: Options) -> None:
    """Serve until told to end.

    Raises RbeeError: ALREADY_RUNNING, PORT_IN_USE, INSECURE_BIND, CONFIG_INVALID, HOME_UNUSABLE, KEY_FILE_INVALID,
    STATE_SCHEMA_NEWER, STATE_CORRUPT.
    """
    paths, settings = prepare(NAME, options)
    keys = KeyFiles(paths, {ADMIN_KEY: Role.ADMIN, INFER_KEY: Role.INFER})
    # Log and database have threads; by default each may hold the interpreter for 5 ms, which every token would feel.
    sys.setswitchinterval(SWITCH_S)
    await _serve(paths, settings, keys, options)


async def _serve(paths: Paths, settings: Settings, keys: KeyFiles, options: Options) -> None:
    async with AsyncExitStack() as stack:
        # Whoever has the database open is the queen of this home; one that loses a race ends here.
        notices = Notices()
        database = Store(
            paths.database(NAME), MIGRATIONS, paths.backups, notices=notices, backup_s=settings.policy.backup_s
        )
        store = QueenStore(database)
        await store.open()
        stack.push_async_callback(store.close)
        sock = stack.enter_context(listen(NAME, settings))
        identity = QueenIdentity(time.time(), options.ephemeral, url_of(sock))
        service = QueenService(make_parts(paths, settings, store, identity, notices))
        logs = QueenLogs(paths.log_file(NAME), service.watchers, service.closing)
        app = build_app(Daemon.QUEEN, queen_handlers(service, logs), keyring=keys.keyring, policy=settings.policy)
        owner = options.owner()
        run = RunFile.of_this_process(NAME, identity.url, ephemeral=options.ephemeral, owner=owner)
        counted = InFlight(app, lambda: None)
        if owner is not None:
            watch = OwnerWatch(owner, lambda: service.idle and not counted.count, lambda: service.stop())
            counted.on_none = watch.look
            service.when_idle(watch.look)
            stack.push_async_callback(_cancel, asyncio.create_task(watch.run()))

        async def publish() -> None:
            await asyncio.to_thread(stack.enter_context, published(run_path(paths, NAME), run))

        async def hang_up() -> None:
            await asyncio.to_thread(keys.reload)
            for watcher in service.watchers.values():
                await watcher.read_key_again()

        limits = {"drain_s": settings.policy.drain_s, "read_s": settings.policy.request_read_s}
        await serve(service, counted, sock, **limits, on_serving=publish, on_hangup=hang_up)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def make_parts(paths: Paths, settings: Settings, store: QueenStore, identity: QueenIdentity, notices: Notices) -> Parts:
    """Everything a queen is made of, from its settings."""
    policy = settings.policy
    hives: dict[str, Hive] = {}
    if settings.queen.local_hive and can_run_hive():
        hives[LOCAL_NODE] = LocalHive(paths, settings, ephemeral=identity.ephemeral)
        hives |= {name: _hive_at(name, home, paths, settings, identity) for name, home in settings.queen.homes.items()}
    limits = Limits(
        queue_limit=settings.queen.queue_limit,
        queue_wait_s=policy.queue_wait_s,
        default_slots=settings.worker.slots,
        finish_loads=settings.queen.finish_loads,
    )
    return Parts(policy=policy, limits=limits, hives=hives, store=store, identity=identity, notices=notices)


def _hive_at(name: str, home: Path, paths: Paths, settings: Settings, identity: QueenIdentity) -> LocalHive:
    """The hive of another state folder on this machine; any port will do, since its run file tells."""
    folders = replace(paths, home=home, models=home / "models")
    own = settings.hive.model_copy(update={"node": name, "port": 0})
    return LocalHive(
        folders,
        settings.model_copy(update={"hive": own}),
        ephemeral=identity.ephemeral,
        environ=f"RBEE_HOME={shlex.quote(str(home))} RBEE_HIVE_NODE={name} RBEE_HIVE_PORT=0",
    )


def can_run_hive() -> bool:
    """Whether this installation has what a hive imports."""
    return all(importlib.util.find_spec(module) is not None for module in HIVE_MODULES)
