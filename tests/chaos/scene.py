"""The fleet under test: one queen, three nodes on this machine, its people, and whether it is healthy."""

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from daemons.contracts import routes
from daemons.contracts.tasks import ENDED
from daemons.contracts.workers import READY_STATES
from daemons.kit.auth import ADMIN_KEY, HIVE_KEY, INFER_KEY
from daemons.kit.procs.identity import is_alive
from daemons.models.demo import DEMO_MODEL_PATH
from tests.chaos.clients import KEEPER_S, Queen
from tests.chaos.plan import MOST_TOKENS, NODES
from tests.support.harness import Recorder, eventually
from tests.support.harness_http import Api
from tests.support.harness_keeper import Finished
from tests.support.harness_leftovers import DaemonRun, read_daemon_run, read_worker_runs
from tests.support.topology import Topology

HEALTHY_WITHIN_S: Final = 30.0
MOST_ROWS: Final = 10_000
SMALL_DISK_MIB: Final = 48
REFERENCE_TOKENS: Final = MOST_TOKENS

# Faults settle sooner than by default, and a model may crash as often as the plan says: what many crashes of one model
# lead to has scenarios of its own.
SETTINGS: Final[Mapping[str, str]] = {
    "RBEE_POLICY_INFERENCE_STALL_S": "8",
    "RBEE_POLICY_HEALTH_INTERVAL_S": "2",
    "RBEE_POLICY_HTTP_TIMEOUT_S": "3",
    "RBEE_POLICY_HTTP_TRIES": "3",
    "RBEE_POLICY_DRAIN_S": "4",
    "RBEE_POLICY_TERM_S": "3",
    "RBEE_POLICY_PING_S": "4",
    "RBEE_POLICY_QUEUE_WAIT_S": "60",
    "RBEE_POLICY_ORPHAN_GRACE_S": "15",
    "RBEE_POLICY_RESTART_CRASHES": "1000",
    "RBEE_POLICY_RESTART_LONGEST_S": "2",
    "RBEE_MODELS_ALLOWED_FOLDERS": str(DEMO_MODEL_PATH.parent),
}

PROMPTS: Final = (
    "Once upon a time",
    "The bees of the hive",
    "How do I start a worker?",
    "What is a queen?",
    "Write a story about clover",
    "What does rbee do?",
)


@dataclass
class Scene:
    """Started by `begin`; ended by `close`, which fails when anything is left. `small_disks`: nodes on a tmpfs."""

    topology: Topology = field(default_factory=lambda: Topology(Recorder(), SETTINGS, NODES[1:]))
    small_disks: list[str] = field(default_factory=list)
    references: dict[str, str] = field(default_factory=dict)
    no_small_disks: str = ""
    """Why there are none."""

    def begin(self) -> None:
        """Small disks, queen and hives, a worker on each node, and what each prompt is answered on a quiet fleet."""
        self._mount()
        self.topology.succeed("queen", "start")
        for node in NODES:
            self.topology.succeed("infer", "--node", node, "--model", "demo", "--prompt", "Hello", "--max-tokens", "4")
        eventually(lambda: not self.unhealthy(), "the fleet is healthy before any fault", within_s=60.0, every_s=0.1)
        for prompt in PROMPTS:
            self.references[prompt] = self._answer(prompt)

    def _mount(self) -> None:
        try:
            for node in NODES:
                self.topology.small_disk(node, SMALL_DISK_MIB)
                self.small_disks.append(node)
        except subprocess.CalledProcessError as error:
            self.no_small_disks = error.stderr.decode(errors="replace").strip() or str(error)

    def _answer(self, prompt: str) -> str:
        body = {"model": "demo", "prompt": prompt, "max_tokens": REFERENCE_TOKENS, "temperature": 0.0}
        with self.topology.queen.stream(routes.TASK_CREATE, body | {"ignore_eos": True}) as reader:
            assert reader.wait_end()[-1].type == "done", reader.events[-1]
            return reader.text

    def close(self) -> None:
        self.topology.close()

    # -- who runs --------------------------------------------------------------------------------------------------

    def home(self, node: str) -> Path:
        return self.topology.homes[node]

    def run_of(self, daemon: str, node: str) -> DaemonRun | None:
        """The daemon of a node as its run file tells; None when there is none that runs."""
        run = read_daemon_run(self.home(node) / "run" / f"{daemon}.json")
        return run if run is not None and is_alive(run.identity) else None

    def worker_runs(self, node: str) -> dict[str, DaemonRun]:
        """Worker id -> its run, of those that run."""
        return {id: run for id, run in read_worker_runs(self.home(node)).items() if is_alive(run.identity)}

    def find_queen(self) -> Queen | None:
        """What a client does before it asks."""
        run = self.run_of("queen", NODES[0])
        return Queen(run.url, self.topology.key(INFER_KEY), run.identity.pid) if run else None

    def admin(self) -> Api | None:
        """The running queen with the administrator's key."""
        run = self.run_of("queen", NODES[0])
        return self.topology.api(run.url, self.topology.key(ADMIN_KEY)) if run else None

    def hive_key(self, node: str) -> str:
        return (self.home(node) / "keys" / f"{HIVE_KEY}.key").read_text(encoding="utf-8").strip()

    # -- people ----------------------------------------------------------------------------------------------------

    def person(self, *args: str, node: str = NODES[0]) -> Finished:
        """A command as somebody types it on one node's machine. Raises AssertionError when it takes too long."""
        environ = self.topology.environ(RBEE_HOME=str(self.home(node)))
        return self.topology.begin(*args, environ=environ).wait(within_s=KEEPER_S)

    # -- health ----------------------------------------------------------------------------------------------------

    def fleet(self) -> dict[str, Any]:
        """The queen's snapshot. Raises AssertionError when there is no queen or no snapshot."""
        api = self.admin()
        assert api is not None, "no queen runs"
        answer = api.call(routes.FLEET)
        assert answer.status_code == 200, answer.text
        snapshot: dict[str, Any] = answer.json()
        return snapshot

    def history(self) -> list[dict[str, Any]]:
        """Rows of all tasks that the queen remembers. Raises AssertionError when there is no queen or no answer."""
        api = self.admin()
        assert api is not None, "no queen runs"
        answer = api.call(routes.TASK_LIST, query={"limit": MOST_ROWS})
        assert answer.status_code == routes.TASK_LIST.status, answer.text
        rows: list[dict[str, Any]] = answer.json()["tasks"]
        return rows

    def ended_rows(self) -> dict[str, dict[str, Any]]:
        """Task id -> row of the tasks that are over; none when the queen does not tell."""
        try:
            return {str(row["id"]): row for row in self.history() if row["state"] in ENDED}
        except (AssertionError, httpx.HTTPError):
            return {}

    def worker_pids(self) -> set[int]:
        """Of the workers that the fleet knows; none when the queen does not tell."""
        try:
            return {row["pid"] for row in self.fleet()["workers"]}
        except (AssertionError, httpx.HTTPError):
            return set()

    def unhealthy(self) -> list[str]:
        """What keeps the fleet from being healthy, in sentences; empty when nothing does."""
        try:
            fleet = self.fleet()
        except (AssertionError, httpx.HTTPError) as error:
            return [f"the queen does not answer: {error}"]
        nodes = {row["name"]: row for row in fleet["nodes"]}
        faults = [f"node {name} is not known" for name in NODES if name not in nodes]
        faults += [
            f"node {row['name']} is {row['status']}: {row.get('problem') or 'no reason given'}"
            for row in nodes.values()
            if row["status"] != "reachable"
        ]
        faults += [f"worker {row['id']} on {row['node']} is {row['state']}" for row in _not_ready(fleet["workers"])]
        queue = fleet["queue"]
        if queue["waiting"] or queue["running"]:
            faults.append(f"{queue['waiting']} tasks wait and {queue['running']} run: {_live(fleet)}")
        return faults


def _not_ready(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["state"] not in READY_STATES]


def _live(fleet: dict[str, Any]) -> str:
    live = [row for row in fleet["tasks"] if row["state"] in ("queued", "placing", "running")]
    now = time.time()
    shown = [{**row, "age_s": round(now - row["created_at"], 1)} for row in live]
    names = ("id", "state", "node", "worker_id", "tokens", "detached", "age_s")
    return json.dumps([{name: row.get(name) for name in names} for row in shown])
