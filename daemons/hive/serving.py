"""From a command line to a running hive: settings, log, database, address, parts, and the end of all that."""

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.ids import LOCAL_NODE
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
from daemons.kit.auth import HIVE_KEY, Keyring, ensure_key
from daemons.kit.logs import configure_logs, log_start_line
from daemons.kit.paths import Paths, find_paths
from daemons.kit.policy import Policy
from daemons.kit.procs import ProcessIdentity, bind_listening, identify
from daemons.kit.runfile import RunFile, published, read_run_file, run_path
from daemons.kit.server import check_bind, serve, url_of
from daemons.kit.settings import Settings, load_settings

NAME = "hive"
_KILL_MARGIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """The command line; None is not given."""

    host: str | None = None
    port: int | None = None
    ephemeral: bool = False
    owner_pid: int | None = None


async def run_hive(options: Options) -> None:
    """Serve until told to end.

    Raises RbeeError: ALREADY_RUNNING, PORT_IN_USE, INSECURE_BIND, CONFIG_INVALID, HOME_UNUSABLE, KEY_FILE_INVALID,
    STATE_SCHEMA_NEWER, STATE_CORRUPT.
    """
    paths = find_paths()
    flags = {"hive.host": options.host, "hive.port": options.port}
    settings = load_settings(paths, flags=flags).settings
    paths.create()
    configure_logs(NAME, paths.log_file(NAME), settings.log)
    log_start_line(ephemeral=options.ephemeral, owner_pid=options.owner_pid)
    _refuse_second(paths)
    key = ensure_key(paths, HIVE_KEY)
    check_bind(settings.hive.host, secured=False)
    await _serve(paths, settings, key, options)


def _refuse_second(paths: Paths) -> None:
    run = read_run_file(run_path(paths, NAME))
    if run is not None and run.is_alive:
        raise RbeeError(
            Code.ALREADY_RUNNING,
            f"a hive runs on {paths.home} as pid {run.identity.pid} at {run.url}",
            details={"pid": run.identity.pid, "url": run.url, "home": str(paths.home)},
            hint="rbee hive status",
        )


async def _serve(paths: Paths, settings: Settings, key: str, options: Options) -> None:
    clock, policy = SteadyClock(), settings.policy
    async with AsyncExitStack() as stack:
        # Whoever has the database open is the hive of this home; one that loses a race ends here.
        store = HiveStore.at(paths.database(NAME), paths.backups)
        await store.open(now=clock.now(), history_days=policy.history_days)
        stack.push_async_callback(store.close)
        sock = stack.enter_context(_bind(settings))
        owner = _owner(options)
        home = Home(paths, url_of(sock), options.ephemeral)
        service = HiveService(make_parts(home, settings, store, clock, owner))
        registry = service.parts.registry

        def keyring() -> Keyring:
            return Keyring({key: Role.ADMIN, **dict.fromkeys(registry.worker_keys, Role.WORKER)})

        app = build_app(Daemon.HIVE, HiveHandlers(service).table(), keyring=keyring, policy=policy)
        run = RunFile.of_this_process(NAME, home.url, ephemeral=options.ephemeral, owner=owner)

        async def publish() -> None:
            await asyncio.to_thread(stack.enter_context, published(run_path(paths, NAME), run))

        await serve(service, app, sock, drain_s=drain_limit_s(policy), on_serving=publish)


def _bind(settings: Settings) -> socket.socket:
    try:
        return bind_listening(settings.hive.host, settings.hive.port)
    except RbeeError as error:
        if error.code is not Code.PORT_IN_USE:
            raise
        hint = "RBEE_HIVE_PORT=0 rbee hive start"
        raise RbeeError(error.code, error.message, details=error.details, hint=hint) from error


def drain_limit_s(policy: Policy) -> float:
    """How long the end of a hive may take: its workers drain, get SIGTERM, get SIGKILL."""
    return policy.drain_s + policy.term_s + _KILL_MARGIN_S


def _owner(options: Options) -> ProcessIdentity | None:
    """The process to end with. One that is gone already is named by a pid that will never run: we end at once."""
    if options.owner_pid is None or not options.ephemeral:
        return None
    return identify(options.owner_pid) or ProcessIdentity(options.owner_pid, "", 0)


def make_parts(
    home: Home, settings: Settings, store: HiveStore, clock: SteadyClock, owner: ProcessIdentity | None
) -> Parts:
    """Everything a hive is made of, from its settings. Call on the event loop."""
    policy, worker = settings.policy, settings.worker
    runtime = WorkerRuntime(worker.program, limit_s=policy.worker_http_s)
    defaults = Defaults(ctx=worker.ctx, slots=worker.slots, batch=worker.batch, threads=worker.threads)
    gpus = GpuReader(policy.telemetry_interval_s) if settings.hive.nvml else None
    return Parts(
        paths=home.paths,
        policy=policy,
        node=LOCAL_NODE,
        registry=Registry(Rules(LOCAL_NODE, policy, defaults, home.ephemeral)),
        workers=WorkerProcesses(home, settings, runtime, clock),
        instruments=Instruments(runtime, Devices(runtime, settings.hive), gpus, home.paths.models),
        catalog=Catalog(store, model_folders(home.paths, settings), clock, LOCAL_NODE),
        store=store,
        clock=clock,
        owner=owner,
    )


def model_folders(paths: Paths, settings: Settings) -> list[Path]:
    """Folders that ``file://`` models may come from."""
    return [paths.models, *(Path(folder).expanduser() for folder in settings.models.allowed_folders)]
