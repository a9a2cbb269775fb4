"""Steps of features/100-worker-failures.feature."""

import json
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.contracts.workers import LAST_WORDS
from daemons.kit.procs.identity import ProcessIdentity, identify, is_alive
from tests.bdd.conftest import PROMPT, Fill, Row, exit_of, stats
from tests.bdd.spawning import Spawned, spawn
from tests.conftest import StartTopology
from tests.support.harness import eventually
from tests.support.harness_http import EventReader, error_of
from tests.support.harness_keeper import Finished
from tests.support.topology import Topology

scenarios("100-worker-failures.feature")

MOST_LOG_LINES = 40


@pytest.fixture
def died(rbee: Topology, loading: Spawned) -> Row:
    """How the worker ended, as its hive tells."""
    return exit_of(rbee, loading.id)


@given(parsers.parse('a worker in the middle of loading "{model}" without mmap'), target_fixture="loading")
def in_the_middle(rbee: Topology, fill: Fill, model: str) -> Spawned:
    """The hive asks the worker for each of these listings: it knows of the progress, too."""
    spawned = spawn(rbee, fill(model), slots=2)

    def look() -> Row | None:
        row = next(row for row in rbee.hive_workers() if row["id"] == spawned.id)
        assert row["state"] == "loading", "the model was loaded before anybody could look"
        return row if row["progress"] > 0 else None

    eventually(look, "some progress of the load", every_s=0.001)
    return spawned


@when("that process is frozen")
def freeze(loading: Spawned, noted: dict[str, Any]) -> None:
    hit(loading, signal.SIGSTOP, noted)


@when("that process is hit by SIGSEGV")
def crash(loading: Spawned, noted: dict[str, Any]) -> None:
    hit(loading, signal.SIGSEGV, noted)


def hit(loading: Spawned, number: signal.Signals, noted: dict[str, Any]) -> None:
    os.kill(loading.answer["pid"], number)
    noted["fault at"] = time.monotonic()


@when("that process gets no more memory from the system")
def starve(loading: Spawned) -> None:
    """From outside, as whoever takes the memory would: its address space stays as large as it is (prlimit(2))."""
    process = psutil.Process(loading.answer["pid"])
    taken = process.memory_info().vms
    process.rlimit(resource.RLIMIT_AS, (taken, taken))


@then(parsers.parse('the worker ends with the reason "{reason}" and the code "{code}"'))
def ends_with(died: Row, reason: str, code: str) -> None:
    assert (died["reason"], died["error"]["code"]) == (reason, code), died


@then(parsers.parse('the worker ends with the reason "{reason}" and the code "{code}", not before {seconds:d} seconds'))
def ends_late(died: Row, reason: str, code: str, seconds: int) -> None:
    ends_with(died, reason, code)
    assert died["ended_at"] - died["started_at"] >= seconds


@then(parsers.parse("its error tells how much was loaded, and the limit of {seconds:d} seconds"))
def tells_progress(died: Row, seconds: int) -> None:
    error = died["error"]
    assert 0 < error["details"]["progress"] < 1
    assert error["details"]["limit_s"] == seconds
    assert f"{error['details']['progress']:.0%}" in error["message"]


@then("its process was ended by SIGKILL")
def killed(died: Row) -> None:
    assert died["how"] == "killed by SIGKILL after SIGTERM and SIGKILL"
    assert died["returncode"] == -signal.SIGKILL
    assert identify(died["pid"]) is None


@then("within 1 second the hive lists no worker")
def unlisted_at_once(rbee: Topology, noted: dict[str, Any]) -> None:
    eventually(lambda: rbee.hive_workers() == [], "no worker listed")
    assert time.monotonic() - noted["fault at"] < 1.0


@then(parsers.parse("its error names SIGSEGV and holds the last lines of its log, at most {most:d}"))
def holds_log(rbee: Topology, loading: Spawned, died: Row, most: int) -> None:
    assert "SIGSEGV" in died["error"]["message"]
    assert died["error"]["hint"].startswith(f"rbee logs --worker {loading.id}")
    lines = died["error"]["details"]["log"]
    assert 0 < len(lines) <= most == MOST_LOG_LINES
    assert any(log_of(rbee, loading.row)[-1] in line for line in lines), lines
    printed = (rbee.home / "logs" / f"{loading.id}.out").read_text(encoding="utf-8").splitlines()
    assert not printed or lines[-1] == printed[-1]


# --- W01


@then(parsers.parse('the report names "{text}"'))
def report_names(finished: Finished, text: str) -> None:
    assert text in finished.out + finished.err, str(finished)


# --- W02


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


@given("a stranger that listens on a port, and a hive that prefers that port for its workers", target_fixture="rbee")
def hive_with_taken_port(fresh_topology: StartTopology, stranger: socket.socket) -> Topology:
    topology = fresh_topology({"RBEE_HIVE_WORKER_PORT": str(stranger.getsockname()[1])})
    topology.start_hive()
    return topology


@when("three workers are asked for at the same moment", target_fixture="three")
def three_at_once(rbee: Topology) -> list[Spawned]:
    apis = [rbee.hive for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda api: api.call(routes.HIVE_SPAWN, {"model_ref": "demo", "slots": 1}), apis))
    assert [answer.status_code for answer in answers] == [202] * 3, [answer.text for answer in answers]
    rows = [answer.json() for answer in answers]
    return [Spawned(row, row, rbee.api(row["url"], row["key"])) for row in rows]


@then("each has an address of its own, above the stranger's port, and answers there with its own id")
def addresses_differ(rbee: Topology, three: list[Spawned], stranger: socket.socket) -> None:
    ports = [int(spawned.answer["url"].rpartition(":")[2]) for spawned in three]
    assert len(set(ports)) == 3
    assert min(ports) > stranger.getsockname()[1]
    assert [stats(rbee, spawned.answer)["id"] for spawned in three] == [spawned.id for spawned in three]


@then("the stranger still has its port")
def still_listens(stranger: socket.socket) -> None:
    with socket.create_connection(stranger.getsockname(), timeout=5.0) as ours:
        theirs, _ = stranger.accept()
        with theirs:
            assert theirs.getpeername() == ours.getsockname()


# --- W04


def log_of(rbee: Topology, worker: Row) -> list[str]:
    lines = (rbee.home / "logs" / f"{worker['id']}.log").read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["text"]) for line in lines]


@then("within 5 seconds the worker tells in its log that the hive is gone")
def notices(rbee: Topology, worker: Row, noted: dict[str, Any]) -> None:
    eventually(lambda: "the hive is gone" in log_of(rbee, worker), "the hive is gone")
    assert time.monotonic() - noted["fault at"] < 5.0


@then("the worker takes another request")
def takes_another(rbee: Topology, worker: Row) -> None:
    body = {"id": "the-short-one", "prompt": PROMPT, "max_tokens": 3, "ignore_eos": True}
    with rbee.api(worker["url"], worker["key"]).stream(routes.WORKER_INFER, body) as reader:
        assert reader.wait_end()[-1].data["total_tokens"] == 3


@then("then the worker drains, and takes no more")
def drains(rbee: Topology, worker: Row, streams: dict[str, EventReader], noted: dict[str, Any]) -> None:
    noted["worker"] = ProcessIdentity.from_json(
        json.loads((rbee.home / "run" / "workers" / f"{worker['id']}.json").read_text(encoding="utf-8"))["identity"]
    )
    # Asking it for its state, as a hive does, would count as contact with one.
    eventually(lambda: "draining" in log_of(rbee, worker), "the worker drains", within_s=15.0)
    assert time.monotonic() - noted["fault at"] >= 3.0
    assert not streams["long"].events[-1].is_last, "the running request was over before: nothing was drained"
    refused = rbee.api(worker["url"], worker["key"]).call(routes.WORKER_INFER, {"id": "late", "prompt": PROMPT})
    assert (refused.status_code, error_of(refused)["code"]) == (503, "DRAINING")


@then("the worker ends by itself, in order")
def ends_itself(rbee: Topology, worker: Row, noted: dict[str, Any]) -> None:
    eventually(lambda: not is_alive(noted["worker"]), "the worker has ended")
    assert log_of(rbee, worker)[-1] == LAST_WORDS
