"""A hive inside a test: the real service behind real HTTP, with fake or real worker processes."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from daemons.contracts import routes
from daemons.contracts.errors import Code
from daemons.contracts.fleet import DrainRequest
from daemons.contracts.routes import Daemon, Role
from daemons.contracts.workers import HiveWorker, HiveWorkerList, SpawnedWorker, WorkerState
from daemons.hive.clock import SteadyClock
from daemons.hive.http.handlers import HiveHandlers
from daemons.hive.service import HiveService
from daemons.hive.serving import drain_limit_s, make_parts
from daemons.hive.store import HiveStore
from daemons.hive.workers import Home
from daemons.kit.app import build_app
from daemons.kit.auth import Keyring
from daemons.kit.client import DaemonClient, Peer
from daemons.kit.notices import Notices
from daemons.kit.paths import Paths
from daemons.kit.procs import bind_listening, identify
from daemons.kit.server import serve, url_of
from daemons.kit.settings import Settings

REPOSITORY = Path(__file__).parents[2]
KEY = "the-key-of-the-hive"
T = TypeVar("T")

QUICK: Mapping[str, Any] = {
    "telemetry_interval_s": 0.1,
    "drain_s": 5.0,
    "term_s": 0.5,
    "http_timeout_s": 3.0,
    "worker_http_s": 20.0,
    "daemon_start_s": 20.0,
}
"""Limits that let tests be short; sections of settings given by a test are merged over these."""


def fake_worker_program(folder: Path) -> Path:
    """An executable file that is the fake worker."""
    program = folder / "fake-worker"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m tests.support.fake_worker "$@"\n')
    program.chmod(0o755)
    return program


def program_that(folder: Path, script: str) -> Path:
    """An executable shell script."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def paths_under(folder: Path) -> Paths:
    """A home of its own, with its folders made."""
    paths = Paths(home=folder / "home", models=folder / "home" / "models", user_config=folder / "config.toml")
    paths.create()
    paths.models.mkdir(exist_ok=True)
    return paths


def settings_with(program: Path | None, **sections: Mapping[str, Any]) -> Settings:
    """Settings for tests: any free port, quick limits, 8 cores to hand out, one thread each."""
    document: dict[str, dict[str, Any]] = {
        "hive": {"port": 0, "worker_port": 0, "cpu_cores": 8, **sections.get("hive", {})},
        "worker": {"threads": 1, "program": str(program or ""), **sections.get("worker", {})},
        "policy": {**QUICK, **sections.get("policy", {})},
        "models": {**sections.get("models", {})},
    }
    return Settings.model_validate(document)


@dataclass
class RunningHive:
    """A hive that serves; `client` has its admin key, `serving` is done when it has ended."""

    service: HiveService
    paths: Paths
    url: str
    client: DaemonClient
    serving: "asyncio.Future[None]"

    async def end(self, *, workers: bool = True, drain_s: float | None = None) -> None:
        """End it as its route does, and wait until it has."""
        self.service.shut_down(DrainRequest(workers=workers, drain_s=drain_s))
        await self.serving

    async def spawn(self, model: str = "demo", **fields: Any) -> SpawnedWorker:
        return await self.client.get(routes.HIVE_SPAWN, SpawnedWorker, body={"model_ref": model, **fields})

    async def workers(self) -> list[HiveWorker]:
        return (await self.client.get(routes.HIVE_WORKER_LIST, HiveWorkerList)).workers

    async def ready(self, worker_id: str) -> HiveWorker:
        """The row of a worker, once it is idle."""

        async def look() -> HiveWorker | None:
            rows = [row for row in await self.workers() if row.id == worker_id]
            return rows[0] if rows and rows[0].state is WorkerState.IDLE else None

        return await eventually(look)

    async def gone(self, worker_id: str) -> None:
        async def look() -> bool:
            return all(row.id != worker_id for row in await self.workers())

        await eventually(look)

    def model_file(self, words: str, source: Path) -> str:
        """A reference to a copy of a model whose name tells a fake worker how to behave."""
        path = self.paths.models / f"{words}.gguf"
        if not path.exists():
            path.write_bytes(source.read_bytes())
        return f"file://{path}"


async def eventually(look: Callable[[], Awaitable[T | None]], within_s: float = 20.0) -> T:
    """The first true answer of `look`."""
    deadline = time.monotonic() + within_s
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within_s} s"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def running_hive(
    paths: Paths, settings: Settings, *, ephemeral: bool = False, owner_pid: int | None = None
) -> AsyncIterator[RunningHive]:
    """Serve a hive on a free port until the context is left; its workers end with it."""
    clock = SteadyClock()
    store = HiveStore.at(paths.database("hive"), paths.backups)
    await store.open(now=clock.now(), history_days=1.0)
    sock = bind_listening("127.0.0.1", 0)
    home = Home(paths, url_of(sock), ephemeral)
    owner = identify(owner_pid) if owner_pid else None
    service = HiveService(make_parts(home, settings, store, clock, owner, Notices()))
    registry = service.parts.registry

    def keyring() -> Keyring:
        return Keyring({KEY: Role.ADMIN, **dict.fromkeys(registry.worker_keys, Role.WORKER)})

    app = build_app(Daemon.HIVE, HiveHandlers(service).table(), keyring=keyring, policy=settings.policy)
    serving = asyncio.ensure_future(serve(service, app, sock, drain_s=drain_limit_s(settings.policy), read_s=10.0))
    client = DaemonClient(Peer(home.url, KEY, "the hive", Code.HIVE_UNREACHABLE), settings.policy)
    try:
        await client.call(routes.HIVE_HEALTH, timeout_s=30.0)
        yield RunningHive(service, paths, home.url, client, serving)
    finally:
        if not serving.done():
            service.shut_down(DrainRequest(drain_s=0.0))
        await serving
        await client.close()
        sock.close()
