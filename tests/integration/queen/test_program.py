"""The queen as a program among real hives, workers and keepers: what it survives, and what it leaves behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from daemons.contracts import routes
from daemons.kit.procs.identity import is_alive
from tests.conftest import StartTopology
from tests.support.harness import eventually
from tests.support.harness_http import EventReader, text_of
from tests.support.harness_models import ModelShelf
from tests.support.topology import Topology

# Some of these start several programs; elsewhere the same takes a few seconds.
pytestmark = pytest.mark.timeout(180)


def detach(topology: Topology, model: str, **body: Any) -> str:
    """Start a detached task; its id."""
    fields = {"model": model, "prompt": "Once upon a time", "ignore_eos": True, **body}
    answer = topology.queen.call(routes.TASK_CREATE, fields, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def follow(topology: Topology, task_id: str) -> EventReader:
    return topology.queen.stream(routes.TASK_EVENTS, id=task_id)


def row_of(topology: Topology, task_id: str) -> dict[str, Any]:
    row: dict[str, Any] = topology.queen.call(routes.TASK_SHOW, id=task_id).json()
    return row


def ended_row(topology: Topology, task_id: str) -> dict[str, Any]:
    """The row of a task once it has ended."""

    def look() -> dict[str, Any] | None:
        row = row_of(topology, task_id)
        return row if row["state"] in {"completed", "failed", "cancelled"} else None

    return eventually(look, f"{task_id} has ended", within_s=60.0)


@contextmanager
def ephemeral_queen(topology: Topology) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """(the queen, the process that it belongs to)."""
    serve = [sys.executable, "-m", "daemons.queen.main", "serve", "--ephemeral", "--owner-pid"]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        argv = [*serve, str(owner.pid)]
        with subprocess.Popen(argv, env=topology.environ(), stdout=subprocess.DEVNULL) as queen:
            try:
                yield queen, owner
            finally:
                owner.kill()
                queen.wait(30)


def kill_daemon(topology: Topology, name: str) -> None:
    """kill -9, and wait until the process is gone."""
    identity = topology.run_of(name).identity
    os.kill(identity.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(identity), f"the {name} is gone")


def test_a_killed_queen_fails_what_ran_and_runs_what_waited(fresh_topology: StartTopology, models: ModelShelf) -> None:
    """The next queen finds the hive and its worker, with the text that had come."""
    topology, model = fresh_topology({}), models.steady()
    topology.start_queen()
    worker = topology.start_worker(model, "--slots", "1")
    ran = detach(topology, model, max_tokens=3000)
    with follow(topology, ran) as reader:
        text = text_of(reader.wait_tokens(5))
        waited = detach(topology, model, max_tokens=5)
        assert row_of(topology, waited)["state"] == "queued"
        kept = topology.home / "queen.duckdb.wal"
        eventually(lambda: text.encode() in kept.read_bytes(), "the queen keeps the text", within_s=10.0)
        kill_daemon(topology, "queen")
    topology.start_queen()
    assert [row["id"] for row in topology.hive_workers()] == [worker["id"]]
    failed = row_of(topology, ran)
    assert (failed["state"], failed["error"]["code"]) == ("failed", "QUEEN_RESTARTED")
    assert failed["tokens"] >= 5
    with follow(topology, ran) as reader:
        events = reader.wait_end()
        assert [event.type for event in events] == ["snapshot", "error"]
        assert events[0].data["text"]
    assert ended_row(topology, waited)["state"] == "completed"
    assert ended_row(topology, waited)["tokens"] == 5


def test_a_worker_killed_before_its_first_token_is_replaced(fresh_topology: StartTopology, models: ModelShelf) -> None:
    """The client sees one stream with its tokens once."""
    topology, model = fresh_topology({}), models.steady()
    topology.start_queen()
    worker = topology.start_worker(model)
    os.kill(worker["pid"], signal.SIGSTOP)  # so that no token can come before the kill
    body = {"model": model, "prompt": "Once", "max_tokens": 5, "ignore_eos": True}
    with topology.queen.stream(routes.TASK_CREATE, body) as reader:
        reader.wait_for(lambda event: "Using worker" in str(event.data), "the task was sent")
        os.kill(worker["pid"], signal.SIGKILL)
        events = reader.wait_end()
        assert events[-1].type == "done"
        assert [event.data["index"] for event in events if event.type == "token"][:1] == [0]
        assert events[-1].data["usage"]["completion_tokens"] == 5
    assert [row["id"] for row in topology.hive_workers()] != [worker["id"]]


def test_a_worker_killed_in_the_middle_ends_its_task_with_the_tokens_it_had(
    fresh_topology: StartTopology, models: ModelShelf
) -> None:
    topology, model = fresh_topology({}), models.steady()
    topology.start_queen()
    worker = topology.start_worker(model)
    task = detach(topology, model, max_tokens=3000)
    with follow(topology, task) as reader:
        reader.wait_tokens(5)
        os.kill(worker["pid"], signal.SIGKILL)
        error = reader.wait_end()[-1]
        assert error.data["code"] == "WORKER_CRASHED"
        assert error.data["details"]["tokens_done"] >= 5
        assert error.data["details"]["tokens_asked"] == 3000
        assert "SIGKILL" in error.data["message"]
    eventually(
        lambda: worker["id"] not in {row["id"] for row in topology.workers()},
        "the worker is gone from the queen's list",
    )


def test_a_hung_worker_is_a_stall_with_its_text_kept(fresh_topology: StartTopology, models: ModelShelf) -> None:
    topology, model = fresh_topology({"RBEE_POLICY_INFERENCE_STALL_S": "1"}), models.steady()
    topology.start_queen()
    worker = topology.start_worker(model)
    task = detach(topology, model, max_tokens=3000)
    with follow(topology, task) as reader:
        reader.wait_tokens(5)
        os.kill(worker["pid"], signal.SIGSTOP)
        events = reader.wait_end(within_s=10.0)
        assert events[-1].data["code"] == "INFERENCE_STALLED"
        assert reader.text
    os.kill(worker["pid"], signal.SIGKILL)


def test_a_killed_hive_is_started_again_by_the_next_task_and_keeps_its_worker(
    fresh_topology: StartTopology, models: ModelShelf
) -> None:
    """A stream goes on meanwhile: tokens do not come through the hive."""
    topology, model = fresh_topology({}), models.steady()
    topology.start_queen()
    worker = topology.start_worker(model, "--slots", "2")
    task = detach(topology, model, max_tokens=400)
    with follow(topology, task) as reader:
        reader.wait_tokens(2)
        kill_daemon(topology, "hive")
        eventually(lambda: _node_status(topology) == "stopped", "the queen has noticed")
        assert ended_row(topology, detach(topology, model, max_tokens=2))["state"] == "completed"
        assert reader.wait_end()[-1].type == "done"
    assert [row["id"] for row in topology.hive_workers()] == [worker["id"]]


def _node_status(topology: Topology) -> str:
    (node,) = topology.queen.call(routes.FLEET).json()["nodes"]
    return str(node["status"])


def test_draining_lets_the_running_task_finish_and_leaves_the_hive(
    fresh_topology: StartTopology, models: ModelShelf
) -> None:
    topology, model = fresh_topology({}), models.steady()
    topology.start_queen()
    topology.start_worker(model)
    identity = topology.run_of("queen").identity
    body = {"model": model, "prompt": "Once", "max_tokens": 150, "ignore_eos": True}
    with topology.queen.stream(routes.TASK_CREATE, body) as reader:
        reader.wait_tokens(2)
        os.kill(identity.pid, signal.SIGTERM)
        eventually(lambda: _refuses_new_tasks(topology, model), "new tasks are refused")
        assert reader.wait_end()[-1].type == "done"
    eventually(lambda: not is_alive(identity), "the queen has ended")
    assert not (topology.home / "run" / "queen.json").exists()
    assert len(topology.hive_workers()) == 1


def _refuses_new_tasks(topology: Topology, model: str) -> bool:
    answer = topology.queen.call(routes.TASK_CREATE, {"model": model, "prompt": "x"})
    return answer.status_code == 503 and answer.json()["error"]["code"] == "DRAINING"


def test_a_second_queen_on_the_same_home_refuses(fresh_topology: StartTopology) -> None:
    topology = fresh_topology({})
    topology.start_queen()
    second = subprocess.run(
        [sys.executable, "-m", "daemons.queen.main", "serve"],
        env=topology.environ(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert '"ALREADY_RUNNING"' in second.stdout
    assert str(topology.run_of("queen").identity.pid) in second.stdout


def test_a_taken_port_is_named(fresh_topology: StartTopology) -> None:
    topology = fresh_topology({})
    topology.start_queen()
    taken = topology.run_of("queen").url.rpartition(":")[2]
    other = fresh_topology({"RBEE_QUEEN_LOCAL_HIVE": "false"})
    finished = subprocess.run(
        [sys.executable, "-m", "daemons.queen.main", "serve", "--port", taken],
        env=other.environ(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert finished.returncode == 1
    assert '"PORT_IN_USE"' in finished.stdout
    assert taken in finished.stdout


def test_a_queen_without_a_hive_has_no_nodes(fresh_topology: StartTopology) -> None:
    topology = fresh_topology({"RBEE_QUEEN_LOCAL_HIVE": "false"})
    topology.succeed("queen", "start")
    assert topology.queen.call(routes.NODE_LIST).json() == {"nodes": []}
    answer = topology.queen.call(routes.TASK_CREATE, {"model": "demo", "prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "NO_NODE_AVAILABLE")


def test_an_ephemeral_queen_goes_with_its_owner_and_takes_everything_along(fresh_topology: StartTopology) -> None:
    topology = fresh_topology({})
    with ephemeral_queen(topology) as (queen, owner):
        task = detach(topology, "demo", max_tokens=3)
        assert ended_row(topology, task)["state"] == "completed"
        assert len(topology.hive_workers()) == 1
        owner.kill()
        assert queen.wait(30) == 0
        owner.wait()
        assert topology.processes() == {}


def test_an_ephemeral_queen_stays_for_others(fresh_topology: StartTopology, models: ModelShelf) -> None:
    topology, model = fresh_topology({}), models.steady()
    with ephemeral_queen(topology) as (queen, owner):
        body = {"model": model, "prompt": "Once", "max_tokens": 200, "ignore_eos": True}
        with topology.queen.stream(routes.TASK_CREATE, body) as reader:
            reader.wait_tokens(2)
            owner.kill()
            owner.wait()
            assert reader.wait_end()[-1].type == "done"
        assert queen.wait(30) == 0
        assert topology.processes() == {}
