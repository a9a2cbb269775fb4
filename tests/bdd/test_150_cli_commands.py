"""Steps of features/150-cli-commands.feature."""

import json
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from pytest_bdd import parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.contracts.errors import ERROR_TABLE, Code
from daemons.contracts.workers import Backend
from daemons.kit.procs.identity import ProcessIdentity, identify, send_signal
from tests.bdd.conftest import PROMPT, Row, task_id, task_row
from tests.support.harness import eventually
from tests.support.harness_http import Api, EventReader, error_of, text_of
from tests.support.harness_keeper import Finished, Keeper
from tests.support.harness_leftovers import all_command_lines, command_line
from tests.support.topology import Topology

scenarios("150-cli-commands.feature")

ERROR_PARTS = {"code", "message", "details", "hint", "request_id"}


# --- T55


def refusals(rbee: Topology, daemon: str) -> dict[str, Callable[[], httpx.Response]]:
    """What can be asked of a daemon that it has to refuse."""
    api = {"the queen": lambda: rbee.queen, "the hive": lambda: rbee.hive}.get(
        daemon, lambda: rbee.worker(rbee.only_worker()["id"])
    )()
    work = routes.WORKER_INFER if daemon == "the worker" else routes.TASK_CREATE
    return {
        "without a key": lambda: rbee.api(api.url, None).send("GET", "/metrics"),
        "for an address that does not exist": lambda: api.send("GET", "/v2/honey"),
        "with a method that does not fit": lambda: api.send("PUT", routes.TASK_LIST.path),
        "with a body that is not JSON": lambda: api.call(work, b"{not json"),
        "with a body over the limit": lambda: api.call(work, b" " * (8 * 2**20 + 1)),
        "for an unknown task": lambda: api.call(routes.TASK_SHOW, id="task-000000000000"),
        "to end an unknown worker": lambda: end_unknown_worker(api, daemon),
        "for the workers of an unknown node": lambda: api.call(routes.WORKER_HEALTH, query={"node": "nowhere"}),
        "for the fleet with the key for inference": lambda: rbee.queen_for_inference.call(routes.FLEET),
        "for a worker with an unknown model": lambda: spawn(api, model_ref="hf:nobody/nothing"),
        "for a worker on an unknown device": lambda: spawn(api, model_ref="demo", device=200),
        "for a worker on a missing backend": lambda: spawn(api, model_ref="demo", backend=missing_backend(api)),
        "for a model in a forbidden folder": lambda: spawn(api, model_ref="file:///etc/hostname"),
    }


def spawn(hive: Api, **fields: Any) -> httpx.Response:
    return hive.call(routes.HIVE_SPAWN, fields)


def end_unknown_worker(api: Api, daemon: str) -> httpx.Response:
    route = routes.WORKER_SHUTDOWN if daemon == "the queen" else routes.HIVE_WORKER_SHUTDOWN
    return api.call(route, {"id": "w-00000000"})


def missing_backend(hive: Api) -> str:
    """A backend that this machine does not have."""
    there = hive.call(routes.HIVE_CAPABILITIES).json()["backends"]
    return next(backend.value for backend in Backend if backend.value not in there)


@when(
    parsers.re(r"(?P<daemon>the queen|the hive|the worker) is asked (?P<what>(?:with|without|for|to) .+)"),
    target_fixture="answer",
)
def ask_for_refusal(rbee: Topology, daemon: str, what: str) -> httpx.Response:
    return refusals(rbee, daemon)[what]()


@then("the error has code, message, details, hint and request id, and nothing is missing from them")
def five_parts(answer: httpx.Response) -> None:
    error = error_of(answer)
    assert set(error) == ERROR_PARTS
    assert all(isinstance(error[part], str) and error[part] for part in ERROR_PARTS - {"details"}), error
    assert isinstance(error["details"], dict)


@then("the table of errors has that code with that status")
def in_table(answer: httpx.Response) -> None:
    assert ERROR_TABLE[Code(error_of(answer)["code"])].status == answer.status_code


@then("the request id is the one in the header of the answer")
def same_request_id(answer: httpx.Response) -> None:
    assert answer.headers["X-Request-Id"] == error_of(answer)["request_id"]


@then(parsers.parse('stderr has code, message and hint of "{code}"'))
def told_as_text(finished: Finished, code: str) -> None:
    told = re.search(rf"^error {code}: (.+)\nhint: (.+)$", finished.err, re.MULTILINE)
    assert told is not None, str(finished)
    assert finished.out == ""


@then(parsers.parse('the error on stderr has code, message and hint of "{code}"'))
def told_as_json(finished: Finished, code: str) -> None:
    error = json.loads(finished.err.splitlines()[-1])["error"]
    assert set(error) == ERROR_PARTS
    assert error["code"] == code
    assert error["message"]
    assert error["hint"]
    assert finished.out == ""


# --- T60


def generated_text(rbee: Topology, id: str) -> str:
    """The text of a task, from the queen's own record of its events."""
    with rbee.queen.stream(routes.TASK_EVENTS, id=id) as reader:
        return text_of(reader.wait_end())


def newest_task(rbee: Topology) -> Row:
    row: Row = rbee.queen.call(routes.TASK_LIST).json()["tasks"][0]
    return row


@then("stdout holds the generated text and nothing else")
def only_text(rbee: Topology, finished: Finished) -> None:
    text = generated_text(rbee, newest_task(rbee)["id"])
    assert text.strip()
    assert finished.out in {text, f"{text}\n"}


@then("stderr tells the steps of keeper, queen, hive and worker")
def all_narrated(finished: Finished) -> None:
    worker = r"w-[0-9a-f]{8}"
    for actor in ("keeper", "queen", "hive local", f"worker {worker}"):
        assert re.search(rf"^\[{actor}\] \S", finished.err, re.MULTILINE), f"[{actor}] is missing: {finished}"


@then("stderr tells tokens, tokens per second and the time to the first token")
def figures_told(rbee: Topology, finished: Finished) -> None:
    told = re.search(r"(\d+) tokens, ([\d.]+) tok/s, first token after ([\d.]+) (ms|s)", finished.err)
    assert told is not None, str(finished)
    assert int(told[1]) == newest_task(rbee)["tokens"]
    assert float(told[2]) > 0
    assert float(told[3]) > 0


@when(parsers.parse('a person pipes "{text}" into "rbee {line}"'), target_fixture="finished")
def pipe_into(rbee: Topology, text: str, line: str) -> Finished:
    return rbee.keeper(*shlex.split(line), stdin=f"{text}\n")


@then("stdout is one JSON object with the same text, its usage and its timings")
def one_object(rbee: Topology, finished: Finished) -> None:
    answer = json.loads(finished.out)
    assert finished.out.count("\n") <= 1
    assert answer["task_id"] == newest_task(rbee)["id"]
    assert answer["text"] == generated_text(rbee, answer["task_id"])
    assert answer["usage"]["completion_tokens"] == answer["total_tokens"] > 0
    assert answer["timings"]["tokens_per_second"] > 0
    assert answer["finish_reason"] in {"stop", "length"}


# --- T61


def table(finished: Finished) -> list[dict[str, str]]:
    """A listing as a program reads it: tab-separated lines below a header."""
    header, *lines = finished.out.splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


@then("stdout has a line for each of the two with node, id, state, model and slots")
def listed_as_table(finished: Finished, made_workers: list[Row]) -> None:
    rows = {cells["WORKER"]: cells for cells in table(finished)}
    assert set(rows) == {row["id"] for row in made_workers}
    for row in made_workers:
        cells = rows[row["id"]]
        assert (cells["NODE"], cells["STATE"], cells["MODEL"]) == ("local", "idle", row["model_ref"])
        assert str(row["slots_total"]) in cells["SLOTS FREE"]


@then("stdout is JSON with a row for each of the two: node, state, model, slots in all and free")
def listed_as_json(finished: Finished, made_workers: list[Row]) -> None:
    rows = {row["id"]: row for row in json.loads(finished.out)["workers"]}
    assert set(rows) == {row["id"] for row in made_workers}
    for made in made_workers:
        row = rows[made["id"]]
        assert (row["node"], row["state"], row["model_ref"]) == ("local", "idle", made["model_ref"])
        assert (row["slots_total"], row["slots_available"]) == (made["slots_total"], made["slots_total"])
    assert [made["slots_total"] for made in made_workers] == [2, 3]


# --- T29


@then("stdout has a line for each of the two that says healthy and how fast it answered")
def healthy_lines(finished: Finished, made_workers: list[Row]) -> None:
    rows = {cells["WORKER"]: cells for cells in table(finished)}
    assert set(rows) == {row["id"] for row in made_workers}
    for cells in rows.values():
        assert cells["HEALTH"] == "healthy", cells
        assert re.fullmatch(r"[\d.]+ ms", cells["ANSWER"]), cells


@then("stdout is JSON in which both workers are healthy and have answered in some milliseconds")
def healthy_json(finished: Finished, made_workers: list[Row]) -> None:
    rows = json.loads(finished.out)["workers"]
    assert {row["id"] for row in rows} == {row["id"] for row in made_workers}
    assert all(row["healthy"] and row["node"] == "local" and row["answer_ms"] > 0 for row in rows), rows


@pytest.fixture
def frozen() -> Iterator[list[ProcessIdentity]]:
    """Processes that the scenario froze; they go on at its end."""
    stopped: list[ProcessIdentity] = []
    yield stopped
    for identity in stopped:
        send_signal(identity, signal.SIGCONT)


@when("the second worker is frozen with SIGSTOP")
def freeze(made_workers: list[Row], frozen: list[ProcessIdentity]) -> None:
    identity = identify(made_workers[1]["pid"])
    assert identity is not None
    frozen.append(identity)
    assert send_signal(identity, signal.SIGSTOP)


@then("stdout is JSON in which the first worker is healthy and the second is not, with the reason")
def one_is_not(finished: Finished, made_workers: list[Row]) -> None:
    rows = {row["id"]: row for row in json.loads(finished.out)["workers"]}
    first, second = (rows[row["id"]] for row in made_workers)
    assert first["healthy"] is True
    assert second["healthy"] is False
    assert second["error"]


# --- T30


@then(parsers.parse('the worker is listed as draining while task "{name}" still generates'))
def draining(rbee: Topology, worker: Row, streams: dict[str, EventReader], name: str) -> None:
    eventually(
        lambda: [row["state"] for row in rbee.workers() if row["id"] == worker["id"]] == ["draining"],
        "the worker is listed as draining",
        within_s=3.0,
    )
    assert not any(event.is_last for event in streams[name].events)


@then(parsers.parse('task "{name}" ends completed with all its {count:d} tokens'))
def all_tokens(rbee: Topology, streams: dict[str, EventReader], name: str, count: int) -> None:
    last = streams[name].wait_end()[-1]
    assert (last.type, last.data.get("total_tokens")) == ("done", count), last
    assert task_row(rbee, task_id(streams[name]))["state"] == "completed"


@then(parsers.parse("the worker's process has ended by itself with code {code:d}, and its memory with it"))
def process_ended(rbee: Topology, worker: Row, code: int) -> None:
    assert not psutil.pid_exists(worker["pid"]) or psutil.Process(worker["pid"]).status() == psutil.STATUS_ZOMBIE
    said = [line for line in log_lines(rbee, "hive") if worker["id"] in line and f"exited with code {code}" in line]
    assert said, log_lines(rbee, "hive")[-20:]
    assert "SIG" not in said[0], said


@then("the list of workers is empty")
def none_listed(rbee: Topology) -> None:
    assert rbee.workers() == []
    assert rbee.hive_workers() == []


@then("the hive hands out all its cores again")
def cores_back(rbee: Topology) -> None:
    cores = int(rbee.settings["RBEE_HIVE_CPU_CORES"])
    devices = rbee.hive.call(routes.HIVE_CAPABILITIES).json()["devices"]
    assert [device["threads_free"] for device in devices if device["backend"] == "cpu"] == [cores]


def log_lines(rbee: Topology, source: str) -> list[str]:
    """Lines of one daemon's log."""
    return (rbee.home / "logs" / f"{source}.log").read_text(encoding="utf-8").splitlines()


# --- T62


def texts(rbee: Topology, source: str) -> list[str]:
    """The sentences of one daemon's log."""
    return [str(json.loads(line)["text"]) for line in log_lines(rbee, source)]


@then("stdout has lines of the hive and of the worker")
def both_sources(rbee: Topology, finished: Finished, worker: Row) -> None:
    for source in ("hive", worker["id"]):
        assert any(text in finished.out for text in texts(rbee, source)), f"nothing of {source}: {finished}"


@then("stdout has lines of the worker only")
def one_source(rbee: Topology, finished: Finished, worker: Row) -> None:
    lines = finished.out.splitlines()
    assert lines
    assert all(worker["id"] in line for line in lines), str(finished)
    assert any(text in finished.out for text in texts(rbee, worker["id"]))


@when("the worker gets another request", target_fixture="new_lines")
def another_request(rbee: Topology, worker: Row) -> list[str]:
    before = len(log_lines(rbee, worker["id"]))
    body = {"model": worker["model_ref"], "prompt": PROMPT, "max_tokens": 5}
    with rbee.queen.stream(routes.TASK_CREATE, body) as reader:
        assert reader.wait_end()[-1].type == "done"
    eventually(lambda: len(log_lines(rbee, worker["id"])) > before, "the worker logs its request", within_s=3.0)
    return texts(rbee, worker["id"])[before:]


@then("the line of that request arrives on stdout while the command runs")
def line_arrives(running: Keeper, new_lines: list[str]) -> None:
    running.wait_out(new_lines[0], within_s=5.0)
    assert running.runs


@when("the person presses Ctrl+C")
def ctrl_c(running: Keeper) -> None:
    running.signal(signal.SIGINT)


# --- W05


@then("the command line in the list is the one that the process has")
def same_command_line(finished: Finished, worker: Row) -> None:
    (row,) = json.loads(finished.out)["workers"]
    assert " ".join(row["command"]) == command_line(worker["pid"])


@then("the first line of the worker's log has that command line")
def logged_command_line(rbee: Topology, worker: Row) -> None:
    first = json.loads(log_lines(rbee, worker["id"])[0])
    assert " ".join(first["command"]) == command_line(worker["pid"])
    assert first["pid"] == worker["pid"]


def keys_of(rbee: Topology) -> list[str]:
    """Every key of this installation: of the queen, the hive, and each worker."""
    files = [path.read_text(encoding="utf-8").strip() for path in sorted((rbee.home / "keys").glob("*.key"))]
    workers = [str(row["key"]) for row in rbee.hive_workers()]
    assert len(files) >= 3
    assert len(workers) == 1
    assert all(len(key) >= 16 for key in (*files, *workers))
    return [*files, *workers]


@then("no key of this installation stands in any command line on this machine")
def not_in_process_list(rbee: Topology, worker: Row) -> None:
    lines = all_command_lines()
    assert worker["pid"] in lines
    assert [line for line in lines.values() for key in keys_of(rbee) if key in line] == []


@then("no key of this installation stands in what the command printed, in a log or in the worker's environment")
def not_elsewhere(rbee: Topology, finished: Finished, worker: Row) -> None:
    logs = [path.read_text(encoding="utf-8", errors="replace") for path in (rbee.home / "logs").iterdir()]
    environment = Path(f"/proc/{worker['pid']}/environ").read_bytes().decode(errors="replace")
    for key in keys_of(rbee):
        assert key not in finished.out + finished.err
        assert not any(key in text for text in logs)
        assert key not in environment
