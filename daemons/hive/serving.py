"""From a command line to a running hive: settings, log, database, address, parts, and the end of all that."""

import asyncio
from contextlib import AsyncExitStack
from typing import Final

from daemons.contracts.routes import Daemon, Role
from daemons.hive.catalog import Catalog
from daemons.hive.clock import SteadyClock
from daemons.hive.core.placement import Defaults
from daemons.hive.core.registry import Registry, Rules
from daemons.hive.devices import Devices
from daemons.hive.gpus import GpuReader
from daemons.hive.http.handlers import HiveHandlers
from daemons.hive.instruments import Instruments
from daemons.hive.runtime import WorkerRuntime
from daemons.hive.service import HiveService, Parts
from daemons.hive.store import HiveStore
from daemons.hive.workers import Home, WorkerProcesses
from daemons.kit.app import build_app
from daemons.kit.auth import HIVE_KEY, KeyFiles, Keyring
from daemons.kit.notices import Notices
from daemons.kit.paths import Paths
from daemons.kit.policy import Policy
from daemons.kit.procs import ProcessIdentity
from daemons.kit.runfile import RunFile, published, run_path
from daemons.kit.server import serve, url_of
from daemons.kit.settings import Settings
from daemons.kit.startup import Options, listen, prepare
from daemons.models.locations import model_folders

NAME: Final = "hive"
_KILL_MARGIN_S = 10.0


async def run_hive(options: Options) -> None:
    """Serve until told to end.

    Raises RbeeError: ALREADY_RUNNING, PORT_IN_USE, INSECURE_BIND, CONFIG_INVALID, HOME_UNUSABLE, KEY_FILE_INVALID,
    STATE_SCHEMA_NEWER, STATE_CORRUPT.
    """
    paths, settings = prepare(NAME, options)
    await _serve(paths, settings, KeyFiles(paths, {HIVE_KEY: Role.ADMIN}), options)


async def _serve(paths: Paths, settings: Settings, keys: KeyFiles, options: Options) -> None:
    clock, policy = SteadyClock(), settings.policy
    async with AsyncExitStack() as stack:
        # Whoever has the database open is the hive of this home; one that loses a race ends here.
        notices = Notices()
        store = HiveStore.at(paths.database(NAME), paths.backups, notices=notices, backup_s=policy.backup_s)
        await store.open(now=clock.now(), history_days=policy.history_days)
        stack.push_async_callback(store.close)
        sock = stack.enter_context(listen(NAME, settings))
        owner = options.owner()
        home = Home(paths, url_of(sock), options.ephemeral)
        service = HiveService(make_parts(home, settings, store, clock, owner, notices))
        registry = service.parts.registry

        def keyring() -> Keyring:
            return keys.keyring(dict.fromkeys(registry.worker_keys, Role.WORKER))

        app = build_app(Daemon.HIVE, HiveHandlers(service).table(), keyring=keyring, policy=policy)
        run = RunFile.of_this_process(NAME, home.url, ephemeral=options.ephemeral, owner=owner)

        async def publish() -> None:
            await asyncio.to_thread(stack.enter_context, published(run_path(paths, NAME), run))

        async def hang_up() -> None:
            await asyncio.to_thread(keys.reload)

        limits = {"drain_s": drain_limit_s(policy), "read_s": policy.request_read_s}
        await serve(service, app, sock, **limits, on_serving=publish, on_hangup=hang_up)


def drain_limit_s(policy: Policy) -> float:
    """How long the end of a hive may take: its workers drain, get SIGTERM, get SIGKILL."""
    return policy.drain_s + policy.term_s + _KILL_MARGIN_S


def make_parts(
    home: Home,
    settings: Settings,
    store: HiveStore,
    clock: SteadyClock,
    owner: ProcessIdentity | None,
    notices: Notices,
) -> Parts:
    """Everything a hive is made of, from its settings. Call on the event loop."""
    policy, worker, node = settings.policy, settings.worker, settings.hive.node
    runtime = WorkerRuntime(worker.program, limit_s=policy.worker_http_s)
    defaults = Defaults(ctx=worker.ctx, slots=worker.slots, batch=worker.batch, threads=worker.threads)
    gpus = GpuReader(policy.telemetry_interval_s) if settings.hive.nvml else None
    return Parts(
        paths=home.paths,
        policy=policy,
        node=node,
        registry=Registry(Rules(node, policy, defaults, home.ephemeral)),
        workers=WorkerProcesses(home, settings, runtime, clock),
        instruments=Instruments(runtime, Devices(runtime, settings.hive), gpus, home.paths.models),
        catalog=Catalog(store, model_folders(home.paths.models, settings.models.allowed_folders), clock, node),
        store=store,
        clock=clock,
        owner=owner,
        notices=notices,
    )
