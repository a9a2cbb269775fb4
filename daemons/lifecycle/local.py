"""Queen and hive on this machine: found, started once however many want one, stopped."""

import asyncio
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ValidationError

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import Health
from daemons.kit.auth import ensure_key
from daemons.kit.client import DaemonClient, Peer
from daemons.kit.paths import Paths, unusable
from daemons.kit.policy import Policy
from daemons.kit.procs import ChildProcess, ExitReport, ProcessIdentity, is_alive, last_lines, spawn, stop, wait_exit
from daemons.kit.runfile import RunFile, read_run_file, remove_run_file, run_path
from daemons.kit.settings import Settings
from daemons.lifecycle.plan import (
    HIVE,
    KINDS,
    LOG_LINES,
    QUEEN,
    DaemonKind,
    binding_of,
    daemon_argv,
    daemon_environment,
    ended_too_early,
    never_answered,
    start_error_in,
    stop_limit_s,
)

__all__ = [
    "RunningDaemon",
    "end_abandoned_workers",
    "ensure_hive",
    "ensure_queen",
    "find_crashed",
    "find_daemon",
    "living_workers",
    "read_start_error",
    "stop_daemon",
]

Narrate = Callable[..., object]
"""As `Narrator.say`: a sentence, and its figures as keywords."""

_LOOK_EACH_S = 0.02


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A daemon that answers: its run file, our key for it, and whether this call started it."""

    run: RunFile
    key: str = field(repr=False)
    started_here: bool

    @property
    def url(self) -> str:
        return self.run.url


async def ensure_queen(paths: Paths, settings: Settings, *, ephemeral: bool, narrate: Narrate) -> RunningDaemon:
    """The queen of this home, started when there is none; `ephemeral` only matters for one that is started.

    An ephemeral queen gets our pid as its owner. Of several callers at once one starts it and the others attach.
    Raises what the queen itself reports (PORT_IN_USE, STATE_SCHEMA_NEWER, CONFIG_INVALID, …), DAEMON_START_FAILED with
    its last lines when it ends or does not answer in time, QUEEN_UNREACHABLE when one runs but does not answer,
    HOME_UNUSABLE, KEY_FILE_INVALID.
    """
    return await _Starter(QUEEN, paths, settings, ephemeral, narrate).ensure()


async def ensure_hive(paths: Paths, settings: Settings, *, ephemeral: bool, narrate: Narrate) -> RunningDaemon:
    """The hive of this home; as `ensure_queen`, with HIVE_UNREACHABLE."""
    return await _Starter(HIVE, paths, settings, ephemeral, narrate).ensure()


def find_daemon(name: str, paths: Paths) -> RunFile | None:
    """Run file of the ``queen`` or ``hive`` that runs on this home; None when none runs."""
    run = read_run_file(run_path(paths, name))
    return run if run is not None and run.is_alive else None


def find_crashed(name: str, paths: Paths) -> RunFile | None:
    """Run file of the last ``queen`` or ``hive``, when its process is gone although nobody asked it to end.

    One that ends in order removes its file first. So the file is looked at again after the process.
    """
    path = run_path(paths, name)
    run = read_run_file(path)
    return run if run is not None and not run.is_alive and read_run_file(path) == run else None


async def stop_daemon(name: str, paths: Paths, policy: Policy) -> ExitReport | None:
    """Ask the daemon to drain and end (SIGTERM), and wait until it has; None when none runs.

    It has the drain limit and some seconds for what it owns; after that it is killed. Raises PermissionError.
    """
    run = await asyncio.to_thread(find_daemon, name, paths)
    if run is None:
        return None
    report = await stop(run.identity, kill_after_s=stop_limit_s(policy))
    if report.ended:
        # One that was killed could not remove its file.
        await asyncio.to_thread(remove_run_file, run_path(paths, name), run.identity)
    return report


class _WorkerRun(BaseModel):
    """What matters here of ``run/workers/<id>.json``, which the hive writes."""

    identity: ProcessIdentity


async def end_abandoned_workers(paths: Paths, policy: Policy) -> Mapping[str, ExitReport]:
    """End the workers whose hive died without ending them; worker id -> how it ended. All at once, SIGTERM first.

    Does nothing while a hive runs or is being started: they are its own then. Raises PermissionError.
    """
    lock = _StartLock(paths.run / f"{HIVE.name}.lock")
    runs = await asyncio.to_thread(_abandoned, paths, lock)
    try:
        reports = await asyncio.gather(*(stop(identity, kill_after_s=policy.term_s) for identity in runs.values()))
        ended = dict(zip(runs, reports, strict=True))
        gone = [paths.worker_run / f"{worker_id}.json" for worker_id, report in ended.items() if report.ended]
        await asyncio.to_thread(_remove, gone)
        return ended
    finally:
        lock.give_back()


def living_workers(paths: Paths) -> list[str]:
    """Ids of the workers of this home whose processes run, with their hive or without it. Reads files."""
    return [file.stem for file, identity in _worker_runs(paths) if is_alive(identity)]


def _worker_runs(paths: Paths) -> Iterator[tuple[Path, ProcessIdentity]]:
    for file in sorted(paths.worker_run.glob("*.json")):
        try:
            yield file, _WorkerRun.model_validate_json(file.read_bytes()).identity
        except (OSError, ValidationError):
            continue  # names no process; the next hive removes it


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _abandoned(paths: Paths, lock: "_StartLock") -> Mapping[str, ProcessIdentity]:
    """Workers that live without a hive; the lock is taken so that none comes meanwhile. Removes files of dead ones."""
    runs = list(_worker_runs(paths))
    if not runs or not lock.take() or find_daemon(HIVE.name, paths) is not None:
        return {}
    living: dict[str, ProcessIdentity] = {}
    for file, identity in runs:
        if is_alive(identity):
            living[file.stem] = identity
        else:
            file.unlink(missing_ok=True)
    return living


def output_path(name: str, paths: Paths) -> Path:
    """What a daemon prints outside its log: a failed start, a crash of the interpreter or of a library."""
    return paths.logs / f"{KINDS[name].name}.out"


def read_start_error(log_path: Path) -> RbeeError | None:
    """The failure that a daemon printed at the end of its output before it ended."""
    return start_error_in(last_lines(log_path, LOG_LINES))


class _StartLock:
    """``run/<name>.lock``, held while a daemon is started; the kernel frees it when its holder dies (flock(2))."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def take(self) -> bool:
        """Whether it is ours now; never waits. Raises RbeeError(HOME_UNUSABLE)."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise unusable(self._path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def give_back(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Starter:
    """One attempt to have a daemon: attach to one that answers, or start it, or wait for whoever is starting it."""

    def __init__(self, kind: DaemonKind, paths: Paths, settings: Settings, ephemeral: bool, narrate: Narrate) -> None:
        self._kind = kind
        self._paths = paths
        self._settings = settings
        self._policy = settings.policy
        self._ephemeral = ephemeral
        self._narrate = narrate
        self._key = ""
        self._out = output_path(kind.name, paths)
        self._refusal: RbeeError | None = None

    async def ensure(self) -> RunningDaemon:
        self._key = await asyncio.to_thread(self._prepare)
        lock = _StartLock(self._paths.run / f"{self._kind.name}.lock")
        deadline = time.monotonic() + self._policy.daemon_start_s
        while True:
            run = await self._answering()
            if run is not None:
                return RunningDaemon(run, self._key, started_here=False)
            if self._refusal is None and await asyncio.to_thread(self._may_start, lock):
                try:
                    started = await self._start()
                finally:
                    lock.give_back()
                if started is not None:
                    return started
            if time.monotonic() >= deadline:
                raise await asyncio.to_thread(self._out_of_time)
            await asyncio.sleep(_LOOK_EACH_S)

    def _prepare(self) -> str:
        if find_daemon(self._kind.name, self._paths) is None:  # one that runs is of use on a full disk, too
            self._paths.create()
        return ensure_key(self._paths, self._kind.key_name)

    def _may_start(self, lock: _StartLock) -> bool:
        """Nobody runs and nobody else starts. Looks again behind the lock: its last holder may have been successful."""
        if find_daemon(self._kind.name, self._paths) is not None or not lock.take():
            return False
        if find_daemon(self._kind.name, self._paths) is not None:
            lock.give_back()
            return False
        return True

    async def _start(self) -> RunningDaemon | None:
        """Start the daemon and wait until it answers; None when it found another one running, whose file is to come."""
        child = await asyncio.to_thread(self._spawn)
        began = time.monotonic()
        self._narrate(f"starting the {self._kind.name}", pid=child.pid, ephemeral=self._ephemeral)
        answering = asyncio.ensure_future(self._until_answering())
        ending = asyncio.ensure_future(wait_exit(child))
        try:
            await asyncio.wait(
                {answering, ending}, timeout=self._policy.daemon_start_s, return_when=asyncio.FIRST_COMPLETED
            )
            if answering.done():
                run = answering.result()
                took = round(time.monotonic() - began, 3)
                self._narrate(f"the {self._kind.name} answers at {run.url}", pid=run.identity.pid, seconds=took)
                # A daemon whose starter was killed may answer first; ours finds the state taken then, and ends.
                return RunningDaemon(run, self._key, started_here=run.identity == child.identity)
            if ending.done():
                await self._ended(ending.result())
                return None
            await stop(child, kill_after_s=self._policy.term_s)
        finally:
            for task in (answering, ending):
                task.cancel()
            await asyncio.gather(answering, ending, return_exceptions=True)
        lines = await asyncio.to_thread(self._last_lines)
        raise never_answered(self._kind, self._policy.daemon_start_s, lines, self._out)

    def _spawn(self) -> ChildProcess:
        binding = binding_of(self._kind, self._settings, ephemeral=self._ephemeral)
        owner_pid = os.getpid() if self._ephemeral else None
        argv = daemon_argv(self._kind, binding, python=sys.executable, owner_pid=owner_pid)
        environment = daemon_environment(self._kind, binding, self._paths, os.environ, Path.cwd())
        if self._out.exists() and self._out.stat().st_size:
            self._out.replace(self._out.with_name(self._out.name + ".1"))
        try:
            return spawn(argv, log_path=self._out, env=environment, cwd=self._paths.home)
        except OSError as error:
            raise RbeeError(
                Code.DAEMON_START_FAILED,
                f"cannot start the {self._kind.name} as {argv[0]}: {error.strerror or error}",
                details={"daemon": self._kind.name, "program": argv[0]},
                hint="rbee config show",
            ) from error

    async def _ended(self, report: ExitReport) -> None:
        """Raise why the daemon ended; but when another one has the state, wait for that one to answer."""
        failure = ended_too_early(self._kind, report, await asyncio.to_thread(self._last_lines), self._out)
        if failure.code is not Code.ALREADY_RUNNING:
            raise failure
        self._refusal = failure
        self._narrate(f"another {self._kind.name} was faster", reason=failure.message)

    async def _until_answering(self) -> RunFile:
        while True:
            run = await self._answering()
            if run is not None:
                return run
            await asyncio.sleep(_LOOK_EACH_S)

    async def _answering(self) -> RunFile | None:
        """The daemon's run file when it runs and its health route answers."""
        run = await asyncio.to_thread(find_daemon, self._kind.name, self._paths)
        if run is None:
            return None
        peer = Peer(run.url, self._key, f"the {self._kind.name}", self._kind.unreachable)
        try:
            async with DaemonClient(peer, self._policy) as client:
                await client.get(self._kind.health, Health, tries=1)
        except RbeeError:
            return None
        return run

    def _last_lines(self) -> list[str]:
        return last_lines(self._out, LOG_LINES)

    def _out_of_time(self) -> RbeeError:
        name, limit_s = self._kind.name, self._policy.daemon_start_s
        run = find_daemon(name, self._paths)
        if run is None:
            return self._refusal or RbeeError(
                Code.DAEMON_START_FAILED,
                f"another process is starting the {name}, which did not answer within {limit_s:g} s",
                details={"daemon": name},
            )
        return RbeeError(
            self._kind.unreachable,
            f"the {name} (pid {run.identity.pid}) runs, but did not answer at {run.url} within {limit_s:g} s",
            details={"daemon": name, "pid": run.identity.pid, "url": run.url},
        )
