"""One function per fault: it does harm from outside, waits as long as the plan says, and heals as a person would."""

import asyncio
import contextlib
import fcntl
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from daemons.kit.procs.identity import ProcessIdentity, is_alive, send_signal
from tests.chaos.ledger import Ledger, Struck
from tests.chaos.plan import NODES, OF_THE_QUEEN, Fault, Strike
from tests.chaos.scene import Scene
from tests.support.harness import eventually
from tests.support.harness_keeper import Finished

HARMLESS_FAILURES: Final = frozenset(
    {
        "NO_NODE_AVAILABLE", "HIVE_UNREACHABLE", "QUEEN_UNREACHABLE", "WORKER_CRASHED", "UPSTREAM_LOST", "DRAINING",
        "QUEEN_RESTARTED", "INFERENCE_STALLED", "WORKER_START_FAILED", "HOME_UNUSABLE", "STATE_CORRUPT",
        "DAEMON_START_FAILED", "ALREADY_RUNNING",
    }
)  # fmt: skip
"""How a person's command may fail while other faults go on. Anything else is written down."""

_FILLER = "filler"
_FLIPS = 64
_NOBODY = "nobody there"


def question(node: str) -> tuple[str, ...]:
    """The command by which a person asks one node something short."""
    return ("infer", "--node", node, "--model", "demo", "--prompt", "hi", "--max-tokens", "2")


class Striker:
    """Does what the plan says. One daemon suffers one fault at a time; different ones may suffer together."""

    def __init__(self, scene: Scene, ledger: Ledger) -> None:
        self._scene = scene
        self._ledger = ledger
        self._victims: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._ways: Mapping[Fault, Callable[[Struck], Awaitable[None]]] = {
            Fault.KILL_WORKER: self._kill_worker,
            Fault.FREEZE_WORKER: self._freeze_worker,
            Fault.KILL_HIVE: self._kill,
            Fault.FREEZE_HIVE: self._freeze,
            Fault.TERM_HIVE: self._term,
            Fault.RESTART_HIVE: self._restart,
            Fault.CORRUPT_HIVE: self._corrupt,
            Fault.TRUNCATE_HIVE_WAL: self._truncate_wal,
            Fault.LOSE_HIVE_RUN_FILE: self._lose_run_file,
            Fault.LOSE_WORKER_RUN_FILES: self._lose_worker_run_files,
            Fault.FILL_DISK: self._fill_disk,
            Fault.KILL_QUEEN: self._kill,
            Fault.FREEZE_QUEEN: self._freeze,
            Fault.TERM_QUEEN: self._term,
            Fault.RESTART_QUEEN: self._restart,
            Fault.CORRUPT_QUEEN: self._corrupt,
            Fault.TRUNCATE_QUEEN_WAL: self._truncate_wal,
            Fault.LOSE_QUEEN_RUN_FILE: self._lose_run_file,
        }

    async def strike(self, strike: Strike) -> None:
        """Let the fault happen and pass."""
        victim = _victim(strike)
        async with self._victims[victim]:
            struck = Struck(strike, time.time())
            self._ledger.struck.append(struck)
            try:
                await self._ways[strike.fault](struck)
            finally:
                struck.healed = time.time()

    # -- processes -------------------------------------------------------------------------------------------------

    def _daemon(self, struck: Struck) -> ProcessIdentity | None:
        run = self._scene.run_of(_daemon(struck.strike), struck.strike.node)
        return _noted(struck, run.identity if run else None)

    def _worker(self, struck: Struck) -> ProcessIdentity | None:
        runs = sorted(self._scene.worker_runs(struck.strike.node).items())
        if not runs:
            return _noted(struck, None)
        id, run = random.Random(struck.strike.draw).choice(runs)
        _noted(struck, run.identity)
        struck.note = f"{id}, {struck.note}"
        return run.identity

    async def _kill_worker(self, struck: Struck) -> None:
        identity = self._worker(struck)
        if identity is not None:
            send_signal(identity, signal.SIGKILL)

    async def _freeze_worker(self, struck: Struck) -> None:
        await _frozen(self._worker(struck), struck.strike.hold_s)

    async def _freeze(self, struck: Struck) -> None:
        await _frozen(self._daemon(struck), struck.strike.hold_s)

    async def _kill(self, struck: Struck) -> None:
        await self._end(struck, signal.SIGKILL)

    async def _term(self, struck: Struck) -> None:
        await self._end(struck, signal.SIGTERM)

    async def _end(self, struck: Struck, how: signal.Signals) -> None:
        identity = self._daemon(struck)
        if identity is not None:
            send_signal(identity, how)
        await asyncio.sleep(struck.strike.hold_s)
        await self._somebody_asks(struck)

    async def _restart(self, struck: Struck) -> None:
        daemon, node = _daemon(struck.strike), struck.strike.node
        stopped = await self._person(daemon, "stop", node=node)
        struck.note = stopped.out.strip()
        await asyncio.sleep(struck.strike.hold_s)
        await self._person(daemon, "start", node=node)

    # -- state -----------------------------------------------------------------------------------------------------

    async def _corrupt(self, struck: Struck) -> None:
        def flip(database: Path) -> None:
            draw = random.Random(struck.strike.draw)
            size = database.stat().st_size
            with database.open("r+b") as file:
                for _ in range(_FLIPS):
                    at = draw.randrange(size)
                    file.seek(at)
                    old = file.read(1)[0]
                    file.seek(at)
                    file.write(bytes([old ^ (1 << draw.randrange(8))]))
            struck.note += f", {_FLIPS} bits of {size} bytes flipped"

        await self._harm_database(struck, flip)

    async def _truncate_wal(self, struck: Struck) -> None:
        def truncate(database: Path) -> None:
            wal = database.with_name(database.name + ".wal")
            if not wal.exists():
                struck.note += ", it had no WAL"
                return
            size = wal.stat().st_size
            left = random.Random(struck.strike.draw).randrange(size)
            os.truncate(wal, left)
            struck.note += f", WAL cut from {size} to {left} bytes"

        await self._harm_database(struck, truncate)

    async def _harm_database(self, struck: Struck, harm: Callable[[Path], None]) -> None:
        """Kill the daemon and harm its database before anybody can start another one."""
        daemon, node = _daemon(struck.strike), struck.strike.node
        home = self._scene.home(node)
        if daemon == "queen":
            self._ledger.history |= await asyncio.to_thread(self._scene.ended_rows)
        with _starts_held_up(home / "run" / f"{daemon}.lock") as held:
            identity = self._daemon(struck)
            if identity is None or not held:
                struck.happened = False
            else:
                send_signal(identity, signal.SIGKILL)
                await asyncio.to_thread(eventually, lambda: not is_alive(identity), f"pid {identity.pid} is gone")
                harm(home / f"{daemon}.duckdb")
        await asyncio.sleep(struck.strike.hold_s)
        await self._somebody_asks(struck)

    async def _lose_run_file(self, struck: Struck) -> None:
        if self._daemon(struck) is not None:
            path = self._scene.home(struck.strike.node) / "run" / f"{_daemon(struck.strike)}.json"
            path.unlink(missing_ok=True)
        await asyncio.sleep(struck.strike.hold_s)
        await self._somebody_asks(struck)

    async def _lose_worker_run_files(self, struck: Struck) -> None:
        files = list((self._scene.home(struck.strike.node) / "run" / "workers").glob("*.json"))
        for file in files:
            file.unlink(missing_ok=True)
        struck.note, struck.happened = f"{len(files)} files", bool(files)

    async def _fill_disk(self, struck: Struck) -> None:
        node = struck.strike.node
        if node not in self._scene.small_disks:
            struck.note, struck.happened = self._scene.no_small_disks, False
            return
        filler = self._scene.home(node) / _FILLER
        written = await asyncio.to_thread(_fill, filler)
        struck.note = f"{written} bytes written"
        try:
            await asyncio.sleep(struck.strike.hold_s)
        finally:
            filler.unlink(missing_ok=True)

    # -- people ----------------------------------------------------------------------------------------------------

    async def _somebody_asks(self, struck: Struck) -> None:
        """What a person does when rbee seems to be away: ask again. That starts whatever is missing."""
        await self._person(*question(struck.strike.node))

    async def _person(self, *args: str, node: str = NODES[0]) -> Finished:
        finished = await asyncio.to_thread(self._scene.person, *args, node=node)
        failed_well = any(f"error {code}:" in finished.err for code in HARMLESS_FAILURES)
        if finished.code and not failed_well:
            self._ledger.commands.append(str(finished))
        return finished


def _victim(strike: Strike) -> str:
    if strike.fault in OF_THE_QUEEN:
        return "queen"
    return f"{'disk' if strike.fault is Fault.FILL_DISK else _daemon(strike)} {strike.node}"


def _daemon(strike: Strike) -> str:
    return "queen" if strike.fault in OF_THE_QUEEN else "worker" if "worker" in strike.fault else "hive"


def _noted(struck: Struck, identity: ProcessIdentity | None) -> ProcessIdentity | None:
    struck.note = f"pid {identity.pid}" if identity else _NOBODY
    struck.happened = identity is not None
    return identity


async def _frozen(identity: ProcessIdentity | None, seconds: float) -> None:
    if identity is None:
        return
    send_signal(identity, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        send_signal(identity, signal.SIGCONT)


def _fill(path: Path) -> int:
    """Write until the disk is full; how much that was."""
    written = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    written += os.write(descriptor, b"\0" * size)
    finally:
        os.close(descriptor)
    return written


@contextlib.contextmanager
def _starts_held_up(lock: Path) -> Iterator[bool]:
    """Hold the lock that starters of this daemon take; False when one of them has it right now."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
