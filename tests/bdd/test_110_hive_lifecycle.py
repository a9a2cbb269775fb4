"""Steps of features/110-hive-lifecycle.feature."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.contracts.workers import READY_STATES
from daemons.kit.procs.identity import ProcessIdentity, is_alive
from tests.bdd.conftest import PROMPT, Fill, Row, exit_of
from tests.bdd.spawning import ready_row, spawn
from tests.conftest import StartTopology
from tests.support.harness import eventually
from tests.support.harness_http import EventReader, error_of
from tests.support.harness_keeper import Finished, Keeper
from tests.support.harness_leftovers import read_worker_runs
from tests.support.topology import Topology

scenarios("110-hive-lifecycle.feature")

Child = subprocess.Popen[bytes]


def ids(rows: Sequence[Row]) -> set[str]:
    return {str(row["id"]) for row in rows}


def hive_log(rbee: Topology) -> list[Row]:
    lines = (rbee.home / "logs" / "hive.log").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def log_of_worker(rbee: Topology, worker_id: str, text: str) -> list[Row]:
    """Lines of the hive's log about one worker whose sentence holds `text`."""
    return [row for row in hive_log(rbee) if row.get("worker") == worker_id and text in row["text"]]


def successor_of(rbee: Topology, ended: Row, within_s: float = 20.0) -> Row:
    """The one worker that is ready after `ended`."""

    def look() -> Row | None:
        return next((row for row in rbee.hive_workers() if row["state"] in READY_STATES), None)

    row = eventually(look, f"a ready worker after {ended['id']}", within_s=within_s)
    assert row["model_ref"] == ended["model_ref"]
    return row


# --- T48


@then(parsers.parse("the hive tells of that worker in each of its next {count:d} samples"))
def in_samples(rbee: Topology, worker: Row, count: int) -> None:
    with rbee.hive.stream(routes.HIVE_TELEMETRY) as reader:
        reader.wait_for(lambda _: len(reader.events) >= count, f"{count} samples")
        seen = [ids(event.data["workers"]) for event in reader.events[:count]]
    assert seen == [{worker["id"]}] * count


@then("within 1 second neither hive nor queen lists that worker")
def gone_at_once(rbee: Topology, worker: Row, noted: dict[str, Any]) -> None:
    eventually(lambda: worker["id"] not in ids(rbee.hive_workers()), "gone from the hive's list")
    eventually(lambda: worker["id"] not in ids(rbee.workers()), "gone from the queen's list")
    assert time.monotonic() - noted["fault at"] < 1.0


@then("the hive still answers")
def hive_answers(rbee: Topology) -> None:
    assert rbee.hive.call(routes.HIVE_HEALTH).json()["status"] == "alive"


@then("a successor is ready, as another process with another id and another key", target_fixture="successor")
def successor_ready(rbee: Topology, worker: Row) -> Row:
    row = successor_of(rbee, worker)
    assert all(row[name] != worker[name] for name in ("id", "pid", "key"))
    assert row["restarts"] == 1
    assert rbee.api(row["url"], row["key"]).call(routes.WORKER_STATS).json()["id"] == row["id"]
    return row


# --- T49


@given("what the hive publishes is followed")
def follow(rbee: Topology, streams: dict[str, EventReader]) -> None:
    streams["hive"] = rbee.hive.stream(routes.HIVE_TELEMETRY)
    streams["hive"].wait_for(lambda event: bool(event.data.get("workers")), "a sample with a worker")


@then(
    parsers.parse(
        "the hive tells in its log of health check 1, 2 and 3 of 3, each missed at least {seconds:f} seconds after the"
        " one before"
    )
)
def missed_checks(rbee: Topology, worker: Row, seconds: float) -> None:
    def look() -> list[Row] | None:
        rows = log_of_worker(rbee, worker["id"], "missed health check")
        return rows if len(rows) >= 3 else None

    rows = eventually(look, "three missed checks", within_s=30.0)
    assert [row["misses"] for row in rows] == [1, 2, 3]
    waits = [later["at"] - earlier["at"] for earlier, later in itertools.pairwise(rows)]
    assert min(waits) >= seconds, waits


@then('the worker was published as "unhealthy", and then not at all')
def published(streams: dict[str, EventReader], worker: Row) -> None:
    def states() -> list[str]:
        """States of that worker in the samples, one after the other, "" where it is missing."""
        told: list[str] = []
        for event in streams["hive"].events:
            rows = [row for row in event.data["workers"] if row["id"] == worker["id"]]
            state = str(rows[0]["state"]) if rows else ""
            told += [state] if not told or told[-1] != state else []
        return told

    eventually(lambda: states()[-1] == "", "the worker is no longer published")
    assert states() == ["idle", "unhealthy", ""]


@then(
    parsers.parse('the worker\'s end is told as "{reason}" with the code "{code}", by SIGTERM and SIGKILL'),
)
def end_told(rbee: Topology, worker: Row, reason: str, code: str) -> None:
    died = exit_of(rbee, worker["id"])
    assert (died["reason"], died["error"]["code"]) == (reason, code)
    assert died["how"] == "killed by SIGKILL after SIGTERM and SIGKILL"


# --- T47, T50


@then(parsers.parse("the worker is gone for being idle, {limit:d} seconds after its work and not much later"))
def idle_end(rbee: Topology, limit: int, noted: dict[str, Any]) -> None:
    noted["first"] = rbee.only_worker()
    died = exit_of_living(rbee, noted["first"]["id"])
    assert (died["reason"], died["returncode"], died.get("error")) == ("idle", 0, None)
    idle_s = died["ended_at"] - noted["first"]["last_active_at"]
    assert limit <= idle_s < limit + 3.0, idle_s


def exit_of_living(rbee: Topology, worker_id: str) -> Row:
    """As `exit_of`, once the worker is listed no more."""
    eventually(lambda: worker_id not in ids(rbee.hive_workers()), f"{worker_id} is gone", within_s=20.0)
    return exit_of(rbee, worker_id)


@then("it was another worker that answered")
def another_worker(rbee: Topology, noted: dict[str, Any]) -> None:
    answered = {row["worker_id"] for row in rbee.queen.call(routes.TASK_LIST).json()["tasks"]}
    assert len(answered) == 2
    assert noted["first"]["id"] in answered


# --- T44


@when("the worker that is started for it is frozen at once")
def freeze_new(rbee: Topology, running: Keeper) -> None:
    runs = eventually(lambda: read_worker_runs(rbee.home), "a worker's run file", within_s=30.0, every_s=0.001)
    (run,) = runs.values()
    os.kill(run.identity.pid, signal.SIGSTOP)
    assert running.runs


# --- a hive whose exit code can be seen


@pytest.fixture
def children() -> Iterator[list[Child]]:
    started: list[Child] = []
    yield started
    for child in started:
        child.terminate()
        child.wait(60)


def start_child(rbee: Topology, children: list[Child]) -> Child:
    """`rbee-hive serve` as a child of this test."""
    with (rbee.root / "hive.out").open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "daemons.hive.main", "serve"],
            env=rbee.environ(), cwd=rbee.root, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    children.append(child)
    eventually(lambda: rbee.run_of("hive").identity.pid == child.pid, "the hive answers", within_s=30.0)
    return child


@given("a hive that this test has started", target_fixture="rbee")
def own_hive(fresh_topology: StartTopology, children: list[Child]) -> Topology:
    topology = fresh_topology({})
    start_child(topology, children)
    return topology


@given("a hive that this test has started, with the settings", target_fixture="rbee")
def own_hive_with(fresh_topology: StartTopology, children: list[Child], datatable: Sequence[Sequence[str]]) -> Topology:
    topology = fresh_topology({row[0]: row[1] for row in datatable})
    start_child(topology, children)
    return topology


@given(parsers.parse('{count:d} workers of it with the model "{model}"'), target_fixture="several")
def several_workers(rbee: Topology, fill: Fill, count: int, model: str) -> list[Row]:
    spawned = [spawn(rbee, fill(model), slots=1) for _ in range(count)]
    return [ready_row(rbee, one.id) for one in spawned]


@when("that hive gets SIGTERM")
def term_hive(children: list[Child], noted: dict[str, Any]) -> None:
    children[-1].send_signal(signal.SIGTERM)
    noted["fault at"] = time.monotonic()


@then(parsers.parse("it exits with {code:d}"))
def hive_exits(children: list[Child], noted: dict[str, Any], code: int) -> None:
    assert children[-1].wait(60) == code
    noted["took"] = time.monotonic() - noted["fault at"]


@then("none of its processes is left, nor any run file")
def nothing_left(rbee: Topology) -> None:
    assert rbee.processes() == {}
    assert not list(rbee.home.glob("run/*.json"))
    assert not list(rbee.home.glob("run/workers/*.json"))


@given("its models are noted")
def note_models(rbee: Topology, noted: dict[str, Any]) -> None:
    noted["models"] = refs(rbee)


def refs(rbee: Topology) -> list[Row]:
    rows: list[Row] = rbee.hive.call(routes.HIVE_MODEL_LIST).json()["models"]
    return [{**row, "loaded": None} for row in rows]


@then("each of its workers is told as ended with its hive, with exit code 0")
def ended_with_hive(rbee: Topology, several: list[Row], children: list[Child]) -> None:
    start_child(rbee, children)
    exits = [exit_of(rbee, row["id"]) for row in several]
    assert [(died["reason"], died["returncode"]) for died in exits] == [("hive_shutdown", 0)] * len(several)


@then("the next hive has the same models")
def same_models(rbee: Topology, noted: dict[str, Any]) -> None:
    assert noted["models"]
    assert refs(rbee) == noted["models"]


# --- L01


@then(parsers.parse("it took at least {seconds:d} seconds"))
def took(finished: Finished, seconds: int) -> None:
    assert finished.seconds >= seconds


@then('the hive tells in its log that this worker needed SIGTERM and SIGKILL, with its pid and the reason "stopped"')
def told_force(rbee: Topology, worker: Row) -> None:
    (row,) = eventually(
        lambda: log_of_worker(rbee, worker["id"], "needed signals to end"), "the hive tells of the signals"
    )
    assert (row["pid"], row["reason"]) == (worker["pid"], "stopped")
    assert "SIGTERM and SIGKILL" in row["how"]


# --- L02


@then('the worker is listed as "draining"')
def listed_draining(rbee: Topology, worker: Row) -> None:
    eventually(lambda: [row["state"] for row in rbee.hive_workers()] == ["draining"], "draining", within_s=3.0)


@then(parsers.parse('another worker is refused with {status:d} and "{code}"'))
def spawn_refused(rbee: Topology, status: int, code: str) -> None:
    is_refused(rbee.hive.call(routes.HIVE_SPAWN, {"model_ref": "demo"}), status, code)


@then(parsers.parse('another request to the worker is refused with {status:d} and "{code}"'))
def request_refused(rbee: Topology, worker: Row, status: int, code: str) -> None:
    body = {"id": "another", "prompt": PROMPT, "max_tokens": 1}
    is_refused(rbee.api(worker["url"], worker["key"]).call(routes.WORKER_INFER, body), status, code)


def is_refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, error_of(answer)["code"]) == (status, code), answer.text


# --- L03


@when("all its workers are frozen")
def freeze_all(several: list[Row]) -> None:
    for row in several:
        os.kill(row["pid"], signal.SIGSTOP)


@then(parsers.parse("that took at least {least:d} seconds, the time of one, and less than {most:d}"))
def took_between(noted: dict[str, Any], least: int, most: int) -> None:
    assert least <= noted["took"] < most, noted["took"]


# --- L05, F06


@given("the queen and the hive that run are noted", target_fixture="daemons_before")
def note_daemons(rbee: Topology) -> dict[str, ProcessIdentity]:
    return {name: rbee.run_of(name).identity for name in ("queen", "hive")}


@then("another hive runs, which found that same worker by its process")
def found_again(rbee: Topology, worker: Row, daemons_before: dict[str, ProcessIdentity]) -> None:
    assert rbee.run_of("hive").identity != daemons_before["hive"]
    assert not is_alive(daemons_before["hive"])
    row = rbee.only_worker()
    assert [row[name] for name in ("id", "pid", "url", "key", "started_at")] == [
        worker[name] for name in ("id", "pid", "url", "key", "started_at")
    ]
    assert log_of_worker(rbee, worker["id"], f"found {worker['id']} (pid {worker['pid']})")


@then(parsers.parse('task "{name}" was still being answered then'))
def still_running(streams: dict[str, EventReader], name: str) -> None:
    assert not streams[name].events[-1].is_last, "it was over before the hive was replaced: make it longer"


@then(parsers.parse('task "{name}" is answered to its last token, without a gap'))
def whole(streams: dict[str, EventReader], name: str) -> None:
    events = streams[name].wait_end(within_s=120.0)
    assert events[-1].type == "done", events[-1]
    assert events[-1].data["total_tokens"] == 1000
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert "".join(event.data["token"] for event in events if event.type == "token")


@then("the queen lists that same worker again")
def queen_lists(rbee: Topology, worker: Row) -> None:
    eventually(lambda: [row["pid"] for row in rbee.workers()] == [worker["pid"]], "the queen's list")


@then("another queen runs")
def another_queen(rbee: Topology, daemons_before: dict[str, ProcessIdentity]) -> None:
    assert rbee.run_of("queen").identity != daemons_before["queen"]
    assert not is_alive(daemons_before["queen"])


@when("the successor gets SIGTERM")
def term_successor(successor: Row) -> None:
    os.kill(successor["pid"], signal.SIGTERM)


@then('its end is told as "ended", and nothing follows from that')
def ended_nothing_follows(rbee: Topology, successor: Row) -> None:
    died = exit_of_living(rbee, successor["id"])
    assert (died["reason"], died.get("error")) == ("ended", None)
    assert rbee.hive_rows() == []


@then("it lists that worker as lost")
def listed_lost(finished: Finished, worker: Row) -> None:
    answer = json.loads(finished.out)
    assert (answer["workers"], answer["lost"]) == ([], [worker["id"]])


# --- F09


@when(
    parsers.parse("the worker and each of its successors is killed as soon as it is ready, {count:d} in all"),
)
def kill_all(rbee: Topology, worker: Row, noted: dict[str, Any], count: int) -> None:
    """`waits`: seconds from each end to the next start, by the hive's own clock for both."""
    noted["waits"] = []
    for number in range(count):
        os.kill(worker["pid"], signal.SIGKILL)
        died = exit_of(rbee, worker["id"])
        if number + 1 < count:
            worker = successor_of(rbee, worker)
            noted["waits"].append(worker["started_at"] - died["ended_at"])


@then(
    parsers.parse(
        "the waits between the crashes and the next starts were at least {a:f}, {b:f}, {c:f} and {d:f} seconds"
    )
)
def waits_double(noted: dict[str, Any], a: float, b: float, c: float, d: float) -> None:
    noted["least"] = [a, b, c, d]
    assert all(wait >= least for wait, least in zip(noted["waits"], noted["least"], strict=True)), noted


@then(parsers.parse("none of them was {seconds:d} seconds longer"))
def not_longer(noted: dict[str, Any], seconds: int) -> None:
    over = [wait - least for wait, least in zip(noted["waits"], noted["least"], strict=True)]
    assert max(over) < seconds, noted


@then("one row is listed, failed and without a process")
def failed_row(rbee: Topology) -> None:
    def look() -> list[tuple[str, int, str]]:
        return [(row["state"], row["pid"], row["url"]) for row in rbee.workers()]

    eventually(lambda: look() == [("failed", 0, "")], "the row of what failed")
    assert [(row["state"], row["restarts"]) for row in rbee.hive_rows()] == [("failed", 5)]


@when("a person runs what the hint says", target_fixture="finished")
def run_hint(rbee: Topology, finished: Finished) -> Finished:
    hint = re.search(r"^hint: rbee (.+)$", finished.err, flags=re.MULTILINE)
    assert hint is not None, finished.err
    return rbee.keeper(*shlex.split(hint.group(1)))


@then("there is one worker only")
def one_only(rbee: Topology) -> None:
    assert len(rbee.hive_rows()) == 1
    assert len(list(Path(rbee.home / "run" / "workers").glob("*.json"))) == 1
