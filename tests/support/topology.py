"""A whole rbee on this machine for one scenario: fresh folders, real programs, and nothing left of it afterwards."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from daemons.contracts import routes
from daemons.contracts.ids import LOCAL_NODE
from daemons.contracts.workers import READY_STATES
from daemons.kit.auth import ADMIN_KEY, HIVE_KEY, INFER_KEY
from daemons.kit.procs.identity import ProcessIdentity, is_alive, send_signal
from tests.support.harness import Recorder, eventually
from tests.support.harness_http import Api
from tests.support.harness_keeper import Finished, Keeper
from tests.support.harness_leftovers import DaemonRun, lost_tasks, processes_of, read_daemon_run, read_worker_runs
from tests.support.small_disk import SmallDisk, mounted_disk

REPOSITORY = Path(__file__).parents[2]
READY_WITHIN_S = 30.0
ENDED_WITHIN_S = 20.0

# Several workers at once on a small machine: one compute thread each, and cores to hand out that it may not have.
DEFAULTS: Mapping[str, str] = {
    "RBEE_QUEEN_PORT": "0",
    "RBEE_HIVE_PORT": "0",
    "RBEE_HIVE_WORKER_PORT": "0",
    "RBEE_WORKER_THREADS": "1",
    "RBEE_HIVE_CPU_CORES": "8",
}


class Topology:
    """Queen, hive and workers under one `RBEE_HOME`, and keepers that use them.

    `further_nodes` are nodes on the same machine, each with a state folder and a hive of its own.

    Processes are known by the run files that the daemons themselves write, and by a look through ``/proc``; both go
    into the recorder. `close` ends everything with SIGTERM and fails when anything is left.
    """

    def __init__(
        self, recorder: Recorder, settings: Mapping[str, str] | None = None, further_nodes: Sequence[str] = ()
    ) -> None:
        self.recorder = recorder
        # Short, because UNIX sockets below it have paths of 108 bytes at most.
        self.root = Path(tempfile.mkdtemp(prefix="rb-", dir="/tmp"))
        self.home = self.root / "s"
        self.homes = {LOCAL_NODE: self.home, **{name: self.root / name for name in further_nodes}}
        self._temp = self.root / "t"
        self._user = self.root / "u"
        for folder in (self._temp, self._user):
            folder.mkdir()
        self.settings = {**DEFAULTS, **(settings or {})}
        if further_nodes:
            pairs = [f"{name}={self.homes[name]}" for name in further_nodes]
            self.settings["RBEE_QUEEN_LOCAL_HOMES"] = os.pathsep.join(pairs)
        self._keepers: list[Keeper] = []
        self._apis: dict[tuple[str, str | None], Api] = {}
        self._seen: dict[ProcessIdentity, str] = {}
        self._addresses: set[str] = set()
        self._mounts = ExitStack()

    def environ(self, **changes: str) -> dict[str, str]:
        """A clean environment: nothing of the person who runs the tests gets in."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self._user),
            "TMPDIR": str(self._temp),
            "PYTHONPATH": str(REPOSITORY),
            "RBEE_HOME": str(self.home),
            **self.settings,
            **changes,
        }

    @property
    def user_home(self) -> Path:
        """The folder that the keeper takes for the person's home."""
        return self._user

    def small_disk(self, node: str, mebibytes: int) -> SmallDisk:
        """Put the node's state folder on a file system of its own; for root only, before anything runs.

        Raises subprocess.CalledProcessError where that may not be done.
        """
        return self._mounts.enter_context(mounted_disk(self.homes[node], mebibytes))

    def begin(
        self,
        *args: str,
        stdin: str | None = None,
        environ: Mapping[str, str] | None = None,
        wrapper: tuple[str, ...] = (),
    ) -> Keeper:
        """Start a keeper command and return at once."""
        keeper = Keeper(args, environ or self.environ(), self.root, stdin=stdin, wrapper=wrapper)
        self._keepers.append(keeper)
        identity = self.recorder.saw_process(keeper.pid, f"rbee {' '.join(args)}")
        if identity is not None:
            self._seen[identity] = f"rbee {' '.join(args)}"
        return keeper

    def keeper(
        self,
        *args: str,
        stdin: str | None = None,
        environ: Mapping[str, str] | None = None,
        wrapper: tuple[str, ...] = (),
    ) -> Finished:
        """Run a keeper command to its end."""
        finished = self.begin(*args, stdin=stdin, environ=environ, wrapper=wrapper).wait()
        self.notice()
        return finished

    def succeed(self, *args: str, stdin: str | None = None) -> Finished:
        """Run a keeper command that has to exit 0."""
        finished = self.keeper(*args, stdin=stdin)
        assert finished.code == 0, str(finished)
        return finished

    def notice(self) -> dict[ProcessIdentity, str]:
        """Write down every daemon and worker whose run file is there; returns those that run."""
        running: dict[ProcessIdentity, str] = {}
        for name, run in self._runs():
            self._addresses.add(run.url)
            if is_alive(run.identity):
                running[run.identity] = name
                self.recorder.saw_process(run.identity.pid, name)
        self._seen |= running
        return running

    def _runs(self) -> Iterator[tuple[str, DaemonRun]]:
        for home in self.homes.values():
            for name in ("queen", "hive"):
                run = read_daemon_run(home / "run" / f"{name}.json")
                if run is not None:
                    yield name, run
            yield from read_worker_runs(home).items()

    def run_of(self, name: str, node: str = LOCAL_NODE) -> DaemonRun:
        """What the run file of ``queen`` or ``hive`` says; waits for a daemon that is just starting."""
        path = self.homes[node] / "run" / f"{name}.json"
        run = eventually(lambda: read_daemon_run(path), f"run file {path}", within_s=READY_WITHIN_S)
        self.notice()
        return run

    def key(self, name: str) -> str:
        """One of this home's keys, as the daemons wrote it."""
        return (self.home / "keys" / f"{name}.key").read_text(encoding="utf-8").strip()

    @property
    def queen(self) -> Api:
        """The queen with the administrator's key."""
        return self._api(self.run_of("queen").url, self.key(ADMIN_KEY))

    @property
    def queen_for_inference(self) -> Api:
        """The queen with the key for inference only."""
        return self._api(self.run_of("queen").url, self.key(INFER_KEY))

    @property
    def hive(self) -> Api:
        return self._api(self.run_of("hive").url, self.key(HIVE_KEY))

    def worker(self, id: str) -> Api:
        """One worker, with its own key, as its hive knows it."""
        row = next(row for row in self.hive_workers() if row["id"] == id)
        return self._api(row["url"], row["key"])

    def api(self, url: str, key: str | None) -> Api:
        """Any address, through the recording client."""
        return self._api(url, key)

    def hive_workers(self) -> list[dict[str, Any]]:
        """Rows of the hive's registry that stand for a process, keys included."""
        return [row for row in self.hive_rows() if row["pid"]]

    def hive_rows(self) -> list[dict[str, Any]]:
        """All rows of the hive's registry, also of what waits after a crash, or failed."""
        answer = self.hive.call(routes.HIVE_WORKER_LIST)
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["workers"]
        for row in rows:
            if not row["pid"]:
                continue
            self._addresses.add(row["url"])
            identity = self.recorder.saw_process(row["pid"], row["id"])
            if identity is not None:
                self._seen[identity] = row["id"]
        return rows

    def workers(self) -> list[dict[str, Any]]:
        """Rows of the queen's list."""
        answer = self.queen.call(routes.WORKER_LIST)
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["workers"]
        return rows

    def only_worker(self) -> dict[str, Any]:
        """The hive's one worker."""
        rows = self.hive_workers()
        assert len(rows) == 1, rows
        return rows[0]

    def start_queen(self) -> None:
        """`rbee queen start`, then wait until the node `local` takes work."""
        self.succeed("queen", "start")
        eventually(self._local_is_reachable, "node local is reachable", within_s=READY_WITHIN_S)
        self.notice()

    def start_hive(self) -> None:
        """`rbee hive start`: a hive without any queen."""
        self.succeed("hive", "start")
        self.run_of("hive")

    def start_worker(self, model: str, *args: str) -> dict[str, Any]:
        """`rbee workers start`, then the hive's row of that new worker, ready."""
        before = {row["id"] for row in self.hive_workers()}
        self.succeed("workers", "start", "--model", model, *args)

        def look() -> dict[str, Any] | None:
            rows = [row for row in self.hive_workers() if row["id"] not in before]
            return next((row for row in rows if row["state"] in READY_STATES), None)

        return eventually(look, f"a ready worker with {model}", within_s=READY_WITHIN_S)

    def _local_is_reachable(self) -> bool:
        nodes = self.queen.call(routes.NODE_LIST).json()["nodes"]
        return any(node["name"] == "local" and node["status"] == "reachable" for node in nodes)

    def _api(self, url: str, key: str | None) -> Api:
        self._addresses.add(url)
        if (url, key) not in self._apis:
            self._apis[url, key] = Api(url, key, self.recorder)
        return self._apis[url, key]

    def close(self) -> None:
        """End everything in order and remove the folders. Raises AssertionError naming whatever would not go."""
        faults: list[str] = []
        try:
            self._end_everything(faults)
            faults += [f"something still listens on {url}" for url in sorted(self._addresses) if _listens(url)]
            faults += [f"temporary file left: {path}" for path in sorted(self._temp.rglob("*"))]
            faults += lost_tasks(self.root)
        finally:
            for api in self._apis.values():
                api.close()
            self._mounts.close()
            shutil.rmtree(self.root)
        assert not faults, "; ".join(faults)

    def _end_everything(self, faults: list[str]) -> None:
        for keeper in self._keepers:
            if keeper.runs:
                keeper.signal(signal.SIGTERM)
        running = {**self.notice(), **self.processes()}
        for identity in running:
            send_signal(identity, signal.SIGCONT)
        for identity, name in running.items():
            if name in {"queen", "hive"} or name.endswith(_DAEMON_COMMANDS):
                send_signal(identity, signal.SIGTERM)
        try:
            eventually(lambda: not self.processes(), "every process of the topology ended", within_s=ENDED_WITHIN_S)
        except AssertionError:
            for identity, label in self.processes().items():
                faults.append(
                    f"pid {identity.pid} ({label}) outlived SIGTERM to queen and hive by {ENDED_WITHIN_S:g} s"
                )
                send_signal(identity, signal.SIGKILL)
        for keeper in self._keepers:
            keeper.kill()

    def processes(self) -> dict[ProcessIdentity, str]:
        """Every running process that belongs to this home: seen before, or found in ``/proc``."""
        seen = {identity: label for identity, label in self._seen.items() if is_alive(identity)}
        return {**processes_of(self.root), **seen}


_DAEMON_COMMANDS: Final = ("-m daemons.queen.main serve", "-m daemons.hive.main serve")
"""The command lines of daemons that have not told their pid yet."""


def _listens(url: str) -> bool:
    api = Api(url, None, Recorder())
    try:
        return api.answers()
    finally:
        api.close()
