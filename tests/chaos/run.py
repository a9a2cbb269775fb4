"""`make chaos`: three nodes under load, one fault after the other, and everybody's books compared at the end.

python -m tests.chaos.run [--seconds 600] [--seed N] [--every 5] [--clients 8] [--only FAULT …] [--without FAULT …]
                          [--calm] [--json] [--keep FOLDER]
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.chaos.audit import Audit, Finding, Row
from tests.chaos.clients import Client
from tests.chaos.faults import Striker, question
from tests.chaos.leaks import Descriptors, descriptors, leaks
from tests.chaos.ledger import End, Ledger
from tests.chaos.plan import NODES, Fault, Strike, behaviours, strikes
from tests.chaos.report import Report
from tests.chaos.scene import HEALTHY_WITHIN_S, PROMPTS, Scene

LAST_REQUESTS_S = 90.0
"""After the last fault clients may finish what they asked; the queue may hold a request for a minute."""

QUIET_S = 3.0
"""Connections that are done with are closed within this."""


@dataclass(frozen=True, slots=True)
class Options:
    """How long, how hard, from which seed."""

    seconds: float = 600.0
    seed: int = 0
    every_s: float = 5.0
    clients: int = 8
    faults: tuple[Fault, ...] = tuple(Fault)
    keep: Path | None = None


class Chaos:
    """One run on one scene."""

    def __init__(self, scene: Scene, options: Options, *, progress: bool = False) -> None:
        self._scene = scene
        self._options = options
        self._progress = progress
        self._ledger = Ledger()
        self._over = asyncio.Event()
        self._began = time.monotonic()
        self._healthy_s: float | None = None
        self._findings: list[Finding] = []

    async def run(self) -> Report:
        """Load, faults, healing, audit."""
        before = await asyncio.to_thread(self._warm)
        self._began = time.monotonic()
        clients = [asyncio.create_task(self._client(number)) for number in range(self._options.clients)]
        watch = asyncio.create_task(self._show())
        striker = Striker(self._scene, self._ledger)
        plan = strikes(self._options.seed, self._options.seconds, self._options.faults, self._options.every_s)
        await asyncio.gather(*(self._strike(striker, strike) for strike in plan), self._until(self._options.seconds))
        self._over.set()
        await self._recover(clients)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        return await asyncio.to_thread(self._judge, before)

    def _warm(self) -> dict[str, Descriptors]:
        """Descriptors of queen and hive after everything was used once."""
        self._scene.begin()
        time.sleep(QUIET_S)
        runs = {name: self._scene.run_of(name, NODES[0]) for name in ("queen", "hive")}
        return {name: descriptors(run.identity.pid) for name, run in runs.items() if run is not None}

    async def _client(self, number: int) -> None:
        client = Client(self._ledger, PROMPTS, self._scene.find_queen, self._scene.person)
        try:
            for behaviour in behaviours(self._options.seed, number, len(PROMPTS)):
                await client.ask(behaviour)
                await self._rest(behaviour.pause_s)
                if self._over.is_set():
                    return
        finally:
            await client.close()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            pass

    async def _strike(self, striker: Striker, strike: Strike) -> None:
        await self._until(strike.at_s)
        try:
            await striker.strike(strike)
        except AssertionError as error:
            self._findings.append(Finding("a fault could not be injected or healed", f"{strike}: {error}"))

    async def _until(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, self._began + seconds - time.monotonic()))

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _recover(self, clients: list["asyncio.Task[None]"]) -> None:
        """Everything is healed: a person asks each node once, clients finish, and the fleet has to become healthy."""
        healed = time.monotonic()
        asking = asyncio.gather(*(asyncio.to_thread(self._ask, node) for node in NODES))
        left = ["not asked yet"]
        while left and time.monotonic() - healed < HEALTHY_WITHIN_S:
            await asyncio.sleep(0.1)
            if asking.done():
                left = await asyncio.to_thread(self._scene.unhealthy)
        if left:
            why = "; ".join(left)
            self._findings.append(Finding(f"the fleet is healthy within {HEALTHY_WITHIN_S:g} s", why))
        else:
            self._healthy_s = time.monotonic() - healed
        for fault in filter(None, await asking):
            self._findings.append(Finding("a node does not answer after everything was healed", fault))
        _done, pending = await asyncio.wait(clients, timeout=LAST_REQUESTS_S)
        for task in pending:
            task.cancel()
        for failure in await asyncio.gather(*clients, return_exceptions=True):
            if isinstance(failure, Exception):
                raise failure

    def _ask(self, node: str) -> str:
        finished = self._scene.person(*question(node))
        return "" if finished.code == 0 else str(finished)

    def _judge(self, before: dict[str, Descriptors]) -> Report:
        time.sleep(QUIET_S)
        audit = Audit(self._ledger, self._history(), self._scene.references)
        seconds = time.monotonic() - self._began
        self._findings += audit.findings()
        self._findings += leaks(self._scene, before, len(self._ledger.stories), seconds)
        return Report(
            seed=self._options.seed,
            seconds=seconds,
            outcomes=self._ledger.outcomes(),
            faults=self._ledger.faults(),
            skipped=sum(not struck.happened for struck in self._ledger.struck),
            queens=len(self._ledger.queens),
            healthy_s=self._healthy_s,
            not_kept=len(set(map(id, audit.not_kept))),
            texts_compared=sum(story.end is End.DONE for story in self._ledger.stories),
            without_disks=self._scene.no_small_disks,
            findings=self._findings,
        )

    def _history(self) -> list[Row]:
        try:
            return self._scene.history()
        except (AssertionError, httpx.HTTPError) as error:
            self._findings.append(Finding("the queen tells its history", str(error)))
            return []

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    async def _show(self) -> None:
        """One line that tells how it goes."""
        while self._progress:
            stories, struck = self._ledger.stories, self._ledger.struck
            last = str(struck[-1]) if struck else "no fault yet"
            seconds = time.monotonic() - self._began
            counts = f"{len(stories)} requests, {len(struck)} faults"
            line = f"{seconds:.0f} of {self._options.seconds:.0f} s, {counts}: {last}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:width]:<{width}}", end="", file=sys.stderr, flush=True)
            await asyncio.sleep(0.5)


def run_chaos(options: Options, *, progress: bool = False) -> tuple[Report, Ledger]:
    """A whole run, from an empty machine to one that is empty again."""
    scene = Scene()
    report: Report | None = None
    chaos: Chaos | None = None
    try:

        async def go() -> Report:
            nonlocal chaos
            chaos = Chaos(scene, options, progress=progress)
            return await chaos.run()

        report = asyncio.run(go())
    finally:
        if options.keep is not None:
            _keep_logs(scene, options.keep, report, chaos)
        try:
            scene.close()
        except AssertionError as error:
            if report is None:
                raise
            report.findings += [Finding("nothing is left at the end", fault) for fault in str(error).split("; ")]
    assert chaos is not None
    return report, chaos.ledger


def _keep_logs(scene: Scene, folder: Path, report: Report | None, chaos: Chaos | None) -> None:
    """Copy what a person needs who looks for causes: logs, and what the clients and the faults were."""
    for node in NODES:
        if (scene.home(node) / "logs").exists():
            shutil.copytree(scene.home(node) / "logs", folder / node / "logs", dirs_exist_ok=True)
    if chaos is not None:
        lines = [*map(str, chaos.ledger.struck), *map(str, chaos.ledger.stories)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ledger.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if report is not None:
        (folder / "report.json").write_text(json.dumps(report.as_json(), indent=1), encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> tuple[Options, bool]:
    names = [fault.value.replace(" ", "-") for fault in Fault]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long faults happen")
    parser.add_argument("--seed", type=int, help="draws everything; the same seed is the same plan")
    parser.add_argument("--every", type=float, default=5.0, help="seconds per fault, on average")
    parser.add_argument("--clients", type=int, default=8, help="clients at once; the first uses `rbee infer`")
    parser.add_argument("--only", nargs="+", choices=names, metavar="FAULT", help=f"of {', '.join(names)}")
    parser.add_argument("--without", nargs="+", choices=names, metavar="FAULT", default=[], help="all but these")
    parser.add_argument("--calm", action="store_true", help="no faults: load and audit alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy logs and the ledger there")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    given = parser.parse_args(arguments)
    chosen = [] if given.calm else [name for name in given.only or names if name not in given.without]
    faults = tuple(Fault(name.replace("-", " ")) for name in chosen)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(2**31)
    return Options(given.seconds, seed, given.every, given.clients, faults, given.keep), given.json


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the report; 1 when a requirement was missed."""
    # A shell starts background jobs with SIGINT ignored, and programs inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options, as_json = _options(arguments)
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    report, _ = run_chaos(options, progress=sys.stderr.isatty())
    print(json.dumps(report.as_json(), indent=1) if as_json else "\n".join(report.lines()))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
