"""Worker processes: start, adopt, watch, ask, stop. Decides nothing; `daemons.hive.core` does."""

import asyncio
import os
import time
from dataclasses import dataclass

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import DrainRequest
from daemons.contracts.ids import new_worker_id
from daemons.contracts.routes import WORKER_END, WORKER_STATS
from daemons.contracts.workers import HiveWorker, WorkerHealth, WorkerSettings, WorkerState, WorkerStats
from daemons.hive.clock import SteadyClock
from daemons.hive.core import events as ev
from daemons.hive.core.exits import ProcessEnd
from daemons.hive.run_files import WorkerFile, WorkerFiles
from daemons.hive.runtime import WorkerRuntime, missing_program
from daemons.hive.worker_logs import last_words, out_path
from daemons.kit.auth import new_key
from daemons.kit.client import DaemonClient, Peer
from daemons.kit.logs import get_logger
from daemons.kit.paths import Paths
from daemons.kit.procs import ChildProcess, ExitReport, Target, bind_listening, is_alive, spawn, stop, wait_exit
from daemons.kit.server import url_of
from daemons.kit.settings import Settings

PORT_SPAN = 1000
"""Ports from the preferred one on that are tried for a worker."""

_BROKEN_STATES = frozenset({WorkerState.UNHEALTHY, WorkerState.FAILED})


@dataclass(frozen=True, slots=True)
class Home:
    """Where a hive lives: its folders, the address it answers at, and whether it is to leave nothing behind."""

    paths: Paths
    url: str
    ephemeral: bool


@dataclass(slots=True)
class _Handle:
    """What is held of one worker's process; `stopping` is the newest attempt to end it."""

    target: Target
    client: DaemonClient
    stopping: "asyncio.Future[ExitReport] | None" = None


def labels(row: HiveWorker, url: str) -> list[str]:
    """Arguments that tell whoever reads the process list what a worker is; its settings come on stdin."""
    return [
        "--id", row.id, "--model", row.model_ref, "--backend", row.backend.value, "--device", str(row.device),
        "--url", url,
    ]  # fmt: skip


def ended(at: float, worker_id: str, end: ProcessEnd) -> ev.ProcessEnded:
    """The event, with id and key for a worker that may come in the place of this one."""
    return ev.ProcessEnded(at, worker_id, end, (new_worker_id(), new_key("worker")))


def _file_of(child: ChildProcess, row: HiveWorker, asked: ev.StartProcess) -> WorkerFile:
    return WorkerFile(
        identity=child.identity, url=row.url, worker=row, request=asked.request, load_limit_s=asked.load_limit_s
    )


class WorkerProcesses:
    """The processes of this hive's workers, by worker id."""

    def __init__(self, home: Home, settings: Settings, runtime: WorkerRuntime, clock: SteadyClock) -> None:
        self._home = home
        self._settings = settings
        self._runtime = runtime
        self._clock = clock
        self._files = WorkerFiles(home.paths.worker_run)
        self._handles: dict[str, _Handle] = {}
        self._undoing: set[asyncio.Task[None]] = set()

    async def start(self, asked: ev.StartProcess) -> ev.ProcessStarted:
        """Bind the worker's socket, start it with its settings on stdin, write its run file.

        When this is cancelled, what was begun goes on to its end beside it, and the process is then ended.
        Raises RbeeError: PORT_IN_USE, CONFIG_INVALID (the address), WORKER_RUNTIME_MISSING, HOME_UNUSABLE.
        """
        starting = asyncio.create_task(self._start(asked))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            undoing = asyncio.create_task(self._undo(starting, asked.row.id))
            self._undoing.add(undoing)
            undoing.add_done_callback(self._undoing.discard)
            raise

    async def _undo(self, starting: "asyncio.Task[ev.ProcessStarted]", worker_id: str) -> None:
        """End a worker that nobody waits for any more."""
        await asyncio.wait({starting})
        if starting.cancelled() or starting.exception() is not None:
            return
        handle = self._handles.pop(worker_id)
        report = await stop(handle.target, kill_after_s=self._settings.policy.term_s)
        get_logger().warning("ended a worker whose start took too long", worker=worker_id, how=report.describe())
        await handle.client.close()
        await asyncio.to_thread(self._files.remove, worker_id)

    async def _start(self, asked: ev.StartProcess) -> ev.ProcessStarted:
        hive = self._settings.hive
        sock = await asyncio.to_thread(bind_listening, hive.host, hive.worker_port, span=PORT_SPAN)
        with sock:
            url = url_of(sock)
            argv = self._runtime.argv("serve", *labels(asked.row, url))
            line = self._worker_settings(asked, sock.fileno()).model_dump_json()
            child = await asyncio.to_thread(self._spawn, argv, asked.row.id, line, sock.fileno())
        started = ev.ProcessStarted(self._clock.now(), asked.row.id, child.pid, url, argv)
        row = asked.row.model_copy(update={"url": url, "pid": child.pid, "command": argv, "started_at": started.at})
        self._handles[row.id] = _Handle(child, self._client(row))
        try:
            await asyncio.to_thread(self._files.write, _file_of(child, row, asked))
        except OSError as error:
            # It works, but the next hive will not find it; it ends then by itself.
            get_logger().warning("no run file for a worker", worker=row.id, reason=str(error))
        return started

    def _spawn(self, argv: list[str], worker_id: str, line: str, descriptor: int) -> ChildProcess:
        log_path = out_path(self._home.paths.logs, worker_id)
        try:
            return spawn(argv, log_path=log_path, stdin_line=line, pass_fds=(descriptor,), env=self._runtime.environ)
        except OSError as error:
            if error.filename != str(log_path):
                raise missing_program(argv[0], error) from error
            raise RbeeError(Code.HOME_UNUSABLE, f"cannot write {log_path}: {error.strerror or error}") from error

    def _worker_settings(self, asked: ev.StartProcess, descriptor: int) -> WorkerSettings:
        row, policy = asked.row, self._settings.policy
        return WorkerSettings(
            worker_id=row.id,
            key=row.key,
            listen_fd=descriptor,
            host=self._settings.hive.host,
            model_ref=row.model_ref,
            model_path=asked.model.path,
            backend=row.backend,
            device=row.device,
            device_name=asked.device_name,
            ctx=row.ctx,
            slots=row.slots_total,
            batch=asked.batch,
            threads=row.threads,
            mmap=asked.mmap,
            hive_pid=os.getpid(),
            ready_url=f"{self._home.url}/v1/workers/ready",
            log_path=str(self._home.paths.log_file(row.id)),
            log_level=self._settings.log.level,
            orphan_grace_s=0.0 if self._home.ephemeral else policy.orphan_grace_s,
            drain_s=policy.drain_s,
            max_body_bytes=policy.max_body_bytes,
        )

    def _client(self, row: HiveWorker) -> DaemonClient:
        return DaemonClient(Peer(row.url, row.key, f"worker {row.id}", Code.UPSTREAM_LOST), self._settings.policy)

    async def adopt(self) -> list[ev.Adopted]:
        """The workers of an earlier hive that answer; one that runs and does not answer is ended."""
        files = await asyncio.to_thread(self._files.read_all)
        found = await asyncio.gather(*(self._adopt_one(file) for file in files))
        return [adopted for adopted in found if adopted is not None]

    async def _adopt_one(self, file: WorkerFile) -> ev.Adopted | None:
        row = file.worker
        if not is_alive(file.identity):
            get_logger().info("a worker ended while no hive was there", worker=row.id, pid=row.pid)
            await asyncio.to_thread(self._files.remove, row.id)
            return None
        client = self._client(row)
        try:
            stats = await client.get(WORKER_STATS, WorkerStats, tries=1)
        except RbeeError as error:
            await client.close()
            report = await stop(file.identity, kill_after_s=self._settings.policy.term_s)
            get_logger().warning(
                "ended a worker that did not answer", worker=row.id, why=error.message, how=report.describe()
            )
            await asyncio.to_thread(self._files.remove, row.id)
            return None
        self._handles[row.id] = _Handle(file.identity, client)
        return ev.Adopted(self._clock.now(), row, file.spawn_request, file.load_limit_s, stats)

    async def watch(self, worker_id: str) -> ev.ProcessEnded:
        """Wait for the end of a worker; its run file is gone when this returns, unless the disk refuses that."""
        handle = self._handles[worker_id]
        try:
            report = await wait_exit(handle.target)
            at = self._clock.now()
            if handle.stopping is not None:
                report = await handle.stopping  # the same end, and what we did to bring it about
            log = await asyncio.to_thread(self._remains, worker_id)
        finally:
            self._handles.pop(worker_id, None)  # nothing is left when the hive itself has let go
            await handle.client.close()
        return ended(at, worker_id, ProcessEnd(report.returncode, report.how, log))

    def _remains(self, worker_id: str) -> tuple[str, ...]:
        """The last words of an ended worker; its run file goes. A disk that fails hides no exit."""
        log: tuple[str, ...] = ()
        try:
            log = last_words(self._home.paths.logs, worker_id)
        except OSError as error:
            get_logger().warning("the log of a worker cannot be read", worker=worker_id, reason=str(error))
        try:
            self._files.remove(worker_id)
        except OSError as error:
            get_logger().warning("the run file of a worker stays", worker=worker_id, reason=str(error))
        return log

    async def ask_stats(self, worker_id: str) -> ev.StatsSeen | ev.StatsMissed | None:
        """One question, one try; None when the worker is gone."""
        handle = self._handles.get(worker_id)
        if handle is None:
            return None
        try:
            stats = await handle.client.get(WORKER_STATS, WorkerStats, tries=1)
        except RbeeError as error:
            return ev.StatsMissed(self._clock.now(), worker_id, error.message)
        return ev.StatsSeen(self._clock.now(), worker_id, stats)

    async def health(self, row: HiveWorker) -> WorkerHealth:
        """Ask one worker now and measure its answer; one without a process tells why it has none."""
        started = time.monotonic()
        seen = await self.ask_stats(row.id)
        if not isinstance(seen, ev.StatsSeen):
            why = seen.why if seen else row.problem or "it ended a moment ago"
            return WorkerHealth(
                id=row.id, node=row.node, model_ref=row.model_ref, state=row.state, healthy=False, error=why
            )
        state = seen.stats.state
        return WorkerHealth(
            id=row.id,
            node=row.node,
            model_ref=row.model_ref,
            state=state,
            healthy=state not in _BROKEN_STATES,
            answer_ms=round((time.monotonic() - started) * 1000, 2),
            error=f"it says that it is {state.value}" if state in _BROKEN_STATES else None,
        )

    async def stop(self, asked: ev.StopProcess) -> None:
        """Ask the worker to drain and end; SIGTERM at the drain limit, then SIGKILL. Returns when it has ended."""
        handle = self._handles.get(asked.worker_id)
        if handle is None:
            return
        ending = asyncio.ensure_future(
            stop(handle.target, term_after_s=asked.drain_s, kill_after_s=self._settings.policy.term_s)
        )
        handle.stopping = ending
        asking = asyncio.create_task(self._ask_to_end(handle, asked)) if asked.drain_s > 0 else None
        report = await asyncio.shield(ending)
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        if report.sent:
            get_logger().warning(
                "a worker needed signals to end",
                worker=asked.worker_id,
                pid=report.identity.pid,
                reason=asked.reason.value,
                how=report.describe(),
            )

    async def _ask_to_end(self, handle: _Handle, asked: ev.StopProcess) -> None:
        try:
            await handle.client.call(WORKER_END, body=DrainRequest(drain_s=asked.drain_s), tries=1)
        except RbeeError as error:
            get_logger().info("a worker cannot be asked to end", worker=asked.worker_id, why=error.message)

    async def close(self) -> None:
        """Let go of the workers that are left; they go on running, but for those whose start was given up."""
        if self._undoing:
            await asyncio.wait(self._undoing)
        for handle in self._handles.values():
            await handle.client.close()
        self._handles.clear()
