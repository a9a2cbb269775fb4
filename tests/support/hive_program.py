"""The hive program as a process of its own, for tests of its command line, its signals and its end."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemons.contracts import routes
from daemons.contracts.errors import Code
from daemons.contracts.workers import HiveWorker, HiveWorkerList, SpawnedWorker, WorkerState
from daemons.kit.auth import HIVE_KEY, key_path, read_key
from daemons.kit.client import DaemonClient, Event, Peer
from daemons.kit.paths import Paths
from daemons.kit.policy import Policy
from daemons.kit.procs import ProcessIdentity, identify, stop
from daemons.kit.runfile import RunFile, read_run_file, run_path
from tests.support.hive_harness import eventually

REPOSITORY = Path(__file__).parents[2]
POLICY = Policy()


@dataclass
class HiveProgram:
    """One home, and the hive processes that are started on it."""

    paths: Paths
    settings: Mapping[str, str]

    def environ(self, **changes: str) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.paths.home.parent),
            "PYTHONPATH": str(REPOSITORY),
            "RBEE_HOME": str(self.paths.home),
            "RBEE_HIVE_PORT": "0",
            "RBEE_HIVE_WORKER_PORT": "0",
            "RBEE_HIVE_CPU_CORES": "8",
            "RBEE_WORKER_THREADS": "1",
            **self.settings,
            **changes,
        }

    async def begin(self, *arguments: str, **changes: str) -> Process:
        """Start `rbee-hive serve` and return at once."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "daemons.hive.main", "serve", *arguments,
            env=self.environ(**changes), stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=PIPE,
            start_new_session=True,
        )  # fmt: skip

    async def fails(self, *arguments: str, **changes: str) -> dict[str, Any]:
        """Run a hive that cannot start; the error it prints. It exits with 1."""
        process = await self.begin(*arguments, **changes)
        out, err = await asyncio.wait_for(process.communicate(), 60.0)
        assert process.returncode == 1, (process.returncode, out, err)
        error: dict[str, Any] = json.loads(out.splitlines()[-1])["error"]
        return error

    @asynccontextmanager
    async def running(self, *arguments: str, **changes: str) -> AsyncIterator["Serving"]:
        """A hive that answers; ended with SIGTERM if it still runs, and its workers with it."""
        process = await self.begin(*arguments, **changes)
        identity = identify(process.pid)
        assert identity is not None
        try:
            run = await eventually(self._run_file_of(identity, process), 60.0)
            key = read_key(key_path(self.paths, HIVE_KEY))
            async with DaemonClient(Peer(run.url, key, "the hive", Code.HIVE_UNREACHABLE), POLICY) as client:
                yield Serving(process, identity, run, client)
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.communicate(), 60.0)

    def _run_file_of(self, identity: ProcessIdentity, process: Process) -> Any:
        async def look() -> RunFile | None:
            assert process.returncode is None, await process.communicate()
            run = read_run_file(run_path(self.paths, "hive"))
            return run if run is not None and run.identity == identity else None

        return look

    async def end_workers(self) -> None:
        """End whatever workers the run files still name."""
        for path in self.paths.worker_run.glob("*.json"):
            await stop(ProcessIdentity.from_json(json.loads(path.read_text())["identity"]), kill_after_s=5.0)


@dataclass
class Serving:
    """A hive process that answers."""

    process: Process
    identity: ProcessIdentity
    run: RunFile
    client: DaemonClient

    async def ended(self) -> int:
        """Exit code, once it has ended."""
        return await asyncio.wait_for(self.process.wait(), 60.0)

    async def spawn(self, model: str = "demo", **fields: Any) -> SpawnedWorker:
        return await self.client.get(
            routes.HIVE_SPAWN, SpawnedWorker, body={"model_ref": model, **fields}, timeout_s=60.0
        )

    async def ready(self, **fields: Any) -> HiveWorker:
        """A new worker, once it is idle."""
        spawned = await self.spawn(**fields)

        async def look() -> HiveWorker | None:
            rows = (await self.client.get(routes.HIVE_WORKER_LIST, HiveWorkerList)).workers
            return next((row for row in rows if row.id == spawned.id and row.state is WorkerState.IDLE), None)

        return await eventually(look, 60.0)


@asynccontextmanager
async def generating(row: HiveWorker, tokens: int) -> AsyncIterator[AsyncIterator[Event]]:
    """The event stream of one request to a worker."""
    body = {"id": "task-0001", "prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True}
    peer = Peer(row.url, row.key, row.id, Code.UPSTREAM_LOST)
    async with DaemonClient(peer, POLICY) as client, client.stream(routes.WORKER_INFER, body=body) as events:
        yield events
