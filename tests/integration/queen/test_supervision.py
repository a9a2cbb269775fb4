"""The queen looks after the hives of this machine: one that is killed comes back, one that hangs is told."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts import routes
from daemons.kit.procs.identity import is_alive
from tests.conftest import StartTopology
from tests.support.harness import eventually
from tests.support.harness_leftovers import DaemonRun, processes_of, read_daemon_run
from tests.support.topology import Topology

pytestmark = pytest.mark.timeout(180)

QUICK = {"RBEE_POLICY_RESTART_FIRST_S": "0.1", "RBEE_POLICY_RESTART_LONGEST_S": "0.2"}


def fleet(topology: Topology) -> dict[str, Any]:
    answer: dict[str, Any] = topology.queen.call(routes.FLEET).json()
    return answer


def node(topology: Topology, name: str = "local") -> dict[str, Any]:
    return next(row for row in fleet(topology)["nodes"] if row["name"] == name)


def kill_hive(topology: Topology) -> DaemonRun:
    """kill -9; the hive that there was."""
    run = topology.run_of("hive")
    os.kill(run.identity.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(run.identity), "the hive is gone")
    return run


def another_hive(topology: Topology, before: DaemonRun) -> DaemonRun | None:
    run = read_daemon_run(topology.home / "run" / "hive.json")
    return run if run is not None and run.identity != before.identity and is_alive(run.identity) else None


def test_a_killed_hive_is_started_again_and_its_worker_is_adopted(fresh_topology: StartTopology) -> None:
    topology = fresh_topology({})
    topology.start_queen()
    worker = topology.start_worker("demo")
    killed = kill_hive(topology)
    eventually(lambda: another_hive(topology, killed), "a new hive", within_s=10.0)
    eventually(lambda: node(topology)["status"] == "reachable", "the node is back", within_s=10.0)
    assert [row["id"] for row in fleet(topology)["workers"]] == [worker["id"]]
    assert worker["id"] in topology.succeed("ps").out
    assert (
        f"its hive (pid {killed.identity.pid}) ended unexpectedly and is started again"
        in topology.succeed("status").err
    )


def test_a_hive_that_a_person_stopped_stays_stopped(fresh_topology: StartTopology) -> None:
    topology = fresh_topology(QUICK)
    topology.start_queen()
    topology.succeed("hive", "stop")
    eventually(lambda: node(topology)["status"] == "stopped", "the queen has noticed")
    assert node(topology)["problem"] == ""
    # The next request starts it; until then the queen has looked at it several times.
    first = topology.succeed("infer", "--model", "demo", "--prompt", "Once upon a time", "--max-tokens", "4")
    assert "starting the hive" in first.err
    assert fleet(topology)["notices"] == []


def test_a_hive_that_crashes_on_and_on_is_left_until_a_person_asks(fresh_topology: StartTopology) -> None:
    topology = fresh_topology({**QUICK, "RBEE_POLICY_RESTART_CRASHES": "3"})
    topology.start_queen()
    for _ in range(2):
        killed = kill_hive(topology)
        eventually(lambda: another_hive(topology, killed), "a new hive", within_s=10.0)  # noqa: B023
        eventually(lambda: node(topology)["status"] == "reachable", "the node is back", within_s=10.0)
    kill_hive(topology)
    eventually(lambda: "the last of 3 times within 600 s" in node(topology)["problem"], "told", within_s=10.0)
    assert "rbee hive start" in topology.succeed("status").err
    assert node(topology)["status"] == "stopped"
    topology.succeed("hive", "start")
    eventually(lambda: node(topology)["status"] == "reachable", "the node is back", within_s=10.0)
    killed = kill_hive(topology)
    eventually(lambda: another_hive(topology, killed), "it is looked after again", within_s=10.0)


def test_a_hive_that_hangs_is_told_and_comes_back_without_ghosts(fresh_topology: StartTopology) -> None:
    """Work goes to the other node meanwhile."""
    attic = Path(fresh_topology({}).root) / "attic"
    topology = fresh_topology(
        {
            "RBEE_QUEEN_LOCAL_HOMES": f"attic={attic}",
            "RBEE_POLICY_NODE_STALE_S": "2",
            "RBEE_POLICY_NODE_UNREACHABLE_S": "4",
        }
    )
    topology.start_queen()
    eventually(lambda: node(topology, "attic")["status"] == "reachable", "both nodes", within_s=20.0)
    worker = topology.start_worker("demo", "--node", "local")
    hive = topology.run_of("hive").identity
    os.kill(hive.pid, signal.SIGSTOP)
    try:
        eventually(lambda: node(topology)["status"] == "unreachable", "told", within_s=20.0)
        told = f"(pid {hive.pid}) runs but hangs (replace it, its workers go on: rbee hive restart)"
        eventually(lambda: told in topology.succeed("status").err, "what to do", within_s=10.0)
        finished = topology.succeed("infer", "--model", "demo", "--prompt", "Once upon a time", "--max-tokens", "4")
        assert finished.out.strip()
        assert topology.queen.call(routes.TASK_LIST).json()["tasks"][0]["node"] == "attic"
    finally:
        os.kill(hive.pid, signal.SIGCONT)
    eventually(lambda: node(topology)["status"] == "reachable", "it goes on", within_s=20.0)
    local = [row["id"] for row in fleet(topology)["workers"] if row["node"] == "local"]
    assert local == [worker["id"]] == [row["id"] for row in topology.hive_workers()]
    topology.succeed("queen", "stop")
    topology.succeed("hive", "stop")
    run = read_daemon_run(attic / "run" / "hive.json")
    assert run is not None
    os.kill(run.identity.pid, signal.SIGTERM)
    eventually(lambda: not is_alive(run.identity), "the attic's hive ends", within_s=20.0)


def test_an_ephemeral_run_takes_all_nodes_of_this_machine_down_again(fresh_topology: StartTopology) -> None:
    attic = Path(fresh_topology({}).root) / "attic"
    topology = fresh_topology({"RBEE_QUEEN_LOCAL_HOMES": f"attic={attic}"})
    ask = (
        "infer",
        "--ephemeral",
        "--node",
        "attic",
        "--model",
        "demo",
        "--prompt",
        "Once upon a time",
        "--max-tokens",
        "4",
    )
    assert topology.succeed(*ask).out.strip()
    assert (attic / "hive.duckdb").exists()
    assert topology.processes() == {}
    assert processes_of(attic) == {}
    assert not list(attic.glob("run/*.json"))
