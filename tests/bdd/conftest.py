"""What the scenarios share: evidence, the Given of a running rbee, keeper commands, tasks over HTTP."""

import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_bdd import given, parsers, then, when
from pytest_bdd.parser import Feature, Scenario

from daemons.contracts import routes
from daemons.contracts.workers import READY_STATES
from daemons.kit.procs.identity import is_alive
from tests.bdd.spawning import Row as Row
from tests.bdd.spawning import ready_row, spawn
from tests.conftest import StartTopology, close_all
from tests.support.harness import Evidence, Recorder, eventually
from tests.support.harness_http import EventReader, error_of
from tests.support.harness_keeper import Finished, Keeper
from tests.support.harness_models import ModelShelf
from tests.support.topology import Topology

FEATURES = Path(__file__).parents[2] / "features"
PROMPT = "Once upon a time"

Fill = Callable[[str], str]


def pytest_configure(config: pytest.Config) -> None:
    """Tags of the feature files are markers, so that `-m T36` or `-m inference` runs a part."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in FEATURES.glob("*.feature"))
    for tag in sorted(set(re.findall(r"(?:^|\s)@(\w+)", text))):
        config.addinivalue_line("markers", f"{tag}: tag of a scenario in features/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Scenarios that share a topology run in one process when tests are spread over several (`--dist loadgroup`)."""
    for item in items:
        if item.get_closest_marker("shared") is not None and isinstance(item, pytest.Function):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


def pytest_bdd_after_scenario(request: pytest.FixtureRequest, feature: Feature, scenario: Scenario) -> None:
    """A scenario that touched no process and no socket proves nothing, however green its steps are."""
    evidence: Evidence = request.getfixturevalue("evidence")
    request.node.add_report_section("call", "evidence", str(evidence))
    request.node.user_properties.append(("evidence", str(evidence)))
    assert not evidence.is_empty, f"{feature.name}: {scenario.name}: no process was seen and no HTTP request was made"


@pytest.fixture(autouse=True)
def evidence(recorder: Recorder) -> Evidence:
    """What this scenario touches for real."""
    return recorder.begin()


@pytest.fixture(scope="module")
def shared_topology(recorder: Recorder, models: ModelShelf) -> Iterator[Callable[[], Topology]]:
    """One started topology with a demo worker for those scenarios of a file that only read."""
    made: list[Topology] = []

    def get() -> Topology:
        if not made:
            made.append(Topology(recorder, {"RBEE_MODELS_ALLOWED_FOLDERS": str(models.folder)}))
            made[0].start_queen()
            made[0].start_worker("demo")
        made[0].notice()
        return made[0]

    yield get
    close_all(made)


@pytest.fixture(scope="module")
def open_topology(recorder: Recorder) -> Iterator[Callable[[], Topology]]:
    """One rbee whose limit of bad requests has a window too short to matter, for all random requests."""
    made: list[Topology] = []

    def get() -> Topology:
        if not made:
            made.append(Topology(recorder, {"RBEE_POLICY_BAD_REQUESTS_WINDOW_S": "0.001"}))
            made[0].start_queen()
            made[0].start_worker("demo")
        made[0].notice()
        return made[0]

    yield get
    close_all(made)


@pytest.fixture
def made_workers() -> list[Row]:
    """Rows of the workers that the Given steps made, in order."""
    return []


@pytest.fixture
def fill(models: ModelShelf, made_workers: list[Row]) -> Fill:
    """Puts model references and ids in the place of `{steady}`, `{large}`, `{f16 demo}` and `{worker}`."""
    places: dict[str, Callable[[], str]] = {
        "{steady}": models.steady,
        "{large}": models.large,
        "{f16 demo}": models.f16_demo,
        "{worker}": lambda: str(made_workers[0]["id"]),
    }

    def filled(text: str) -> str:
        for place, value in places.items():
            if place in text:
                text = text.replace(place, value())
        return text

    return filled


@pytest.fixture
def streams() -> Iterator[dict[str, EventReader]]:
    """Open event streams by the name that the scenario gives them; cut at its end."""
    opened: dict[str, EventReader] = {}
    yield opened
    for reader in opened.values():
        reader.cut()


def quoted(text: str) -> list[str]:
    """The quoted words of a step."""
    return re.findall(r'"([^"]*)"', text)


def ask(rbee: Topology, model: str, tokens: int, **fields: Any) -> EventReader:
    """An attached task on the queen."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, **fields}
    reader = rbee.queen.stream(routes.TASK_CREATE, body)
    assert reader.status == 200, reader.refusal()
    return reader


def task_id(reader: EventReader) -> str:
    """Id of an attached task."""
    return str(reader.headers["X-Task-Id"])


def task_row(rbee: Topology, id: str) -> Row:
    answer = rbee.queen.call(routes.TASK_SHOW, id=id)
    assert answer.status_code == 200, answer.text
    row: Row = answer.json()
    return row


def stats(rbee: Topology, worker: Row) -> Row:
    """The worker's own counters, asked now."""
    answer = rbee.api(worker["url"], worker["key"]).call(routes.WORKER_STATS)
    assert answer.status_code == 200, answer.text
    row: Row = answer.json()
    return row


# --- Given


@given("an installation where nothing runs", target_fixture="rbee")
def nothing_runs(fresh_topology: StartTopology) -> Topology:
    return fresh_topology({})


@given("a running rbee", target_fixture="rbee")
def running_rbee(fresh_topology: StartTopology) -> Topology:
    topology = fresh_topology({})
    topology.start_queen()
    return topology


@given("a running rbee with the settings", target_fixture="rbee")
def running_rbee_with(fresh_topology: StartTopology, datatable: Sequence[Sequence[str]]) -> Topology:
    topology = fresh_topology({row[0]: row[1] for row in datatable})
    topology.start_queen()
    return topology


@given("a hive that runs alone", target_fixture="rbee")
def hive_alone(fresh_topology: StartTopology) -> Topology:
    topology = fresh_topology({})
    topology.start_hive()
    return topology


@given("a hive that runs alone with the settings", target_fixture="rbee")
def hive_alone_with(fresh_topology: StartTopology, datatable: Sequence[Sequence[str]]) -> Topology:
    topology = fresh_topology({row[0]: row[1] for row in datatable})
    topology.start_hive()
    return topology


@given("a hive that runs alone and looks at its workers once a minute", target_fixture="rbee")
def hive_that_waits(fresh_topology: StartTopology) -> Topology:
    """What changes in its registry within seconds does so because somebody told it, or listed the workers."""
    topology = fresh_topology({"RBEE_POLICY_TELEMETRY_INTERVAL_S": "60"})
    topology.start_hive()
    return topology


@given("a running rbee with a demo worker that is only read", target_fixture="rbee")
def shared_rbee(shared_topology: Callable[[], Topology], made_workers: list[Row]) -> Topology:
    topology = shared_topology()
    made_workers.append(topology.only_worker())
    return topology


@given("a rbee that refuses no flood, with a demo worker", target_fixture="rbee")
def open_rbee(open_topology: Callable[[], Topology]) -> Topology:
    return open_topology()


@given(
    parsers.re(r'(?:a|another) worker with the model "(?P<model>[^"]+)"(?: and (?P<slots>\d+) slots?)?'),
    target_fixture="worker",
)
def loaded_worker(rbee: Topology, fill: Fill, made_workers: list[Row], model: str, slots: str | None) -> Row:
    row = rbee.start_worker(fill(model), *(("--slots", slots) if slots else ()))
    made_workers.append(row)
    return row


@given(parsers.parse('a worker of it with the model "{model}"'), target_fixture="worker")
def loaded_worker_of_hive(rbee: Topology, fill: Fill, made_workers: list[Row], model: str) -> Row:
    """As above, of a hive without a queen."""
    made_workers.append(ready_row(rbee, spawn(rbee, fill(model), slots=2).id))
    return made_workers[-1]


# --- faults from outside, and what is seen of them


@pytest.fixture
def noted() -> dict[str, Any]:
    """What earlier steps of a scenario have seen: times (monotonic seconds unless said), figures, rows."""
    return {}


@when("the worker is killed")
def kill_worker(worker: Row, noted: dict[str, Any]) -> None:
    os.kill(worker["pid"], signal.SIGKILL)
    noted["fault at"] = time.monotonic()


@when("the worker is frozen")
def freeze_worker(worker: Row, noted: dict[str, Any]) -> None:
    os.kill(worker["pid"], signal.SIGSTOP)
    noted["fault at"] = time.monotonic()


@when("the worker goes on")
def thaw_worker(worker: Row) -> None:
    os.kill(worker["pid"], signal.SIGCONT)


@when("the hive is killed")
def kill_hive(rbee: Topology, noted: dict[str, Any]) -> None:
    noted["hive before"] = rbee.run_of("hive").identity
    os.kill(noted["hive before"].pid, signal.SIGKILL)
    noted["fault at"] = time.monotonic()
    eventually(lambda: not is_alive(noted["hive before"]), "the hive is dead")


@given(parsers.parse("a request of {tokens:d} tokens that the worker answers"))
def long_request(rbee: Topology, worker: Row, streams: dict[str, EventReader], tokens: int) -> None:
    """Directly to the worker, as a queen would send it."""
    body = {"id": "the-long-one", "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True}
    streams["long"] = rbee.api(worker["url"], worker["key"]).stream(routes.WORKER_INFER, body)
    streams["long"].wait_tokens(1)


@then("the running request is answered to its last token")
def finished_whole(streams: dict[str, EventReader]) -> None:
    events = streams["long"].wait_end()
    assert events[-1].type == "done", events[-1]
    assert events[-1].data["total_tokens"] == sum(event.type == "token" for event in events)
    assert events[-1].data["finish_reason"] == "length"


@given("the memory that the hive has to give is noted")
def note_memory(rbee: Topology, noted: dict[str, Any]) -> None:
    noted["room"] = room_of(rbee)


@then("the hive has that memory to give again")
def memory_is_back(rbee: Topology, noted: dict[str, Any]) -> None:
    # What other programs of this machine take meanwhile is none of ours: a tenth of the machine is let pass.
    def look() -> bool:
        free, total, threads = room_of(rbee)
        was_free, _, were_threads = noted["room"]
        return bool(free >= was_free - total // 10 and threads == were_threads)

    eventually(look, f"room again as before: {noted['room']}")


def room_of(rbee: Topology) -> tuple[int, int, int]:
    """Memory that the CPU device of the hive has free and in all, and its cores that are not handed out."""
    with rbee.hive.stream(routes.HIVE_TELEMETRY) as reader:
        sample = reader.wait_for(lambda event: bool(event.data.get("devices")), "a sample").data
    cpu = next(device for device in sample["devices"] if device["backend"] == "cpu")
    return cpu["memory_free"], cpu["memory_total"], cpu["threads_free"]


def exit_of(rbee: Topology, worker_id: str) -> Row:
    """How a worker ended, as its hive tells, once it has."""

    def look() -> Row | None:
        answer = rbee.hive.call(routes.HIVE_WORKER_EXITS, query={"id": worker_id})
        return dict(answer.json()["exits"][0]) if answer.status_code == 200 else None

    return eventually(look, f"the end of {worker_id}", within_s=30.0)


@then("the hive lists no worker, and starts none by itself")
def none_and_none_to_come(rbee: Topology) -> None:
    assert eventually(lambda: rbee.hive_workers() == [], "no row of a worker")
    assert not list(rbee.home.glob("run/workers/*.json"))


@then("no worker is left")
def no_worker_left(rbee: Topology) -> None:
    eventually(lambda: rbee.hive_workers() == [], "no row of a worker in the hive's list")
    eventually(lambda: rbee.workers() == [], "no row of a worker in the queen's list")


# --- the keeper


@when(parsers.parse('a person runs "rbee {line}"'), target_fixture="finished")
def run_keeper(rbee: Topology, fill: Fill, line: str) -> Finished:
    return rbee.keeper(*shlex.split(fill(line)))


@when(parsers.parse('a person starts "rbee {line}"'), target_fixture="running")
def start_keeper(rbee: Topology, fill: Fill, line: str) -> Keeper:
    return rbee.begin(*shlex.split(fill(line)))


@when("text has arrived on stdout")
def text_arrived(running: Keeper) -> None:
    running.wait_out("")


@then(parsers.parse("the command exits with {code:d}"))
def exits_with(finished: Finished, code: int) -> None:
    assert finished.code == code, str(finished)


@then(parsers.parse("the command ends with {code:d}"), target_fixture="finished")
def ends_with(running: Keeper, code: int) -> Finished:
    finished = running.wait()
    assert finished.code == code, str(finished)
    return finished


@then("text came on stdout")
def some_text(finished: Finished) -> None:
    assert finished.out.strip(), str(finished)


@then("nothing came on stdout")
def no_text(finished: Finished) -> None:
    assert finished.out == "", str(finished)


@then(parsers.re(r'stderr names (?P<names>"[^"]*"(?:(?:, | and )"[^"]*")*)'))
def stderr_names(finished: Finished, names: str) -> None:
    missing = [name for name in quoted(names) if name not in finished.err]
    assert not missing, f"{missing} not in stderr of {finished}"


@then("no daemon was started")
def nothing_started(rbee: Topology) -> None:
    assert not rbee.processes(), rbee.processes()
    assert not list(rbee.home.glob("run/*.json")), "a daemon left a run file"
    assert not list(rbee.home.glob("logs/*")), "a daemon wrote a log"


@then("no process of this installation is running")
def nothing_runs_now(rbee: Topology) -> None:
    assert rbee.processes() == {}


# --- answers


@then(parsers.parse('the answer is {status:d} with the code "{code}"'))
def answer_has_code(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert error_of(answer)["code"] == code, answer.text


@then(parsers.parse("the answer is {status:d}"))
def answer_has_status(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text


@then(parsers.re(r"the message names the accepted forms (?P<names>.+)"))
def message_names(answer: httpx.Response, names: str) -> None:
    message = error_of(answer)["message"]
    missing = [name for name in quoted(names) if name not in message]
    assert not missing, f"{missing} not in {message!r}"


# --- tasks


@when(parsers.parse('task "{name}" asks "{model}" for {tokens:d} tokens'))
def begin_task(rbee: Topology, streams: dict[str, EventReader], fill: Fill, name: str, model: str, tokens: int) -> None:
    streams[name] = ask(rbee, fill(model), tokens)


@when(parsers.parse('task "{name}" has its first token'))
def first_token(streams: dict[str, EventReader], name: str) -> None:
    streams[name].wait_tokens(1)


@when(parsers.parse('task "{name}" has ended'))
def task_ended(streams: dict[str, EventReader], name: str) -> None:
    streams[name].wait_end()


@then(parsers.parse('the worker\'s state is "{state}"'))
def worker_state(rbee: Topology, worker: Row, state: str) -> None:
    assert stats(rbee, worker)["state"] == state


@then(parsers.parse("the worker's {slots:d} slots are all free"))
def all_free(rbee: Topology, worker: Row, slots: int) -> None:
    def look() -> Row | None:
        now = stats(rbee, worker)
        return now if now["slots_available"] == slots else None

    now = eventually(look, "all slots free", within_s=2.0)
    assert now["slots_total"] == slots


@then("the newest task is noted", target_fixture="noted")
def note_task(rbee: Topology) -> Row:
    row: Row = rbee.queen.call(routes.TASK_LIST).json()["tasks"][0]
    assert row["state"] == "completed", row
    return row


@then("the noted task is in the list of tasks as it was")
def task_is_there(rbee: Topology, noted: Row) -> None:
    rows = {row["id"]: row for row in rbee.queen.call(routes.TASK_LIST).json()["tasks"]}
    assert rows[noted["id"]] == noted


@when(parsers.parse('task "{name}" is cut off'))
def cut_task(streams: dict[str, EventReader], name: str) -> None:
    streams[name].cut()


@when("every task is cut off")
def cut_all(streams: dict[str, EventReader]) -> None:
    for reader in streams.values():
        reader.cut()


@then("a new request is answered")
def new_request(rbee: Topology, worker: Row) -> None:
    with ask(rbee, worker["model_ref"], 4) as reader:
        assert reader.wait_end()[-1].type == "done"


def is_free(rbee: Topology, worker: Row) -> bool:
    """Whether a worker has nothing to do and no slot taken."""
    now = stats(rbee, worker)
    return bool(now["slots_available"] == now["slots_total"]) and now["state"] == "idle"


@then("the generation has stopped and the worker's slots are free")
def has_stopped(rbee: Topology, worker: Row) -> None:
    eventually(lambda: is_free(rbee, worker), "all slots free", within_s=1.0)
    assert stats(rbee, worker)["tokens_generated_total"] < 4000


@then(parsers.parse("the worker was never asked for more than {count:d} generation"))
@then(parsers.parse("the worker was never asked for more than {count:d} generations"))
def asked_for(rbee: Topology, worker: Row, count: int) -> None:
    assert stats(rbee, worker)["requests_total"] == count


@when("its worker is stopped in the middle of the load", target_fixture="worker")
def stop_load(rbee: Topology, running: Keeper) -> Row:
    running.wait_err("loading: ")
    return hold_load(rbee)


def hold_load(rbee: Topology) -> Row:
    """Stop the worker whose model is being loaded; its row."""
    (loading,) = [row for row in rbee.hive_workers() if row["state"] == "loading"]
    os.kill(loading["pid"], signal.SIGSTOP)
    (held,) = [row for row in rbee.hive_workers() if row["id"] == loading["id"]]
    assert held["state"] == "loading", f"it was loaded before it could be stopped: {held}"
    return held


@then("that worker becomes idle and was never asked for a generation")
def idle_unasked(rbee: Topology, worker: Row) -> None:
    def ready() -> bool:
        row = next(row for row in rbee.hive_workers() if row["id"] == worker["id"])
        return row["state"] in READY_STATES

    eventually(ready, "the load went on to its end", within_s=20.0)
    now = stats(rbee, worker)
    assert (now["state"], now["requests_total"]) == ("idle", 0)


PARTIAL = re.compile(r"/\S+/partial/task-[0-9a-f]{12}\.txt")


@then("the text that came is in the file that stderr names")
def text_is_kept(finished: Finished) -> None:
    named = PARTIAL.findall(finished.err)
    assert len(named) == 1, str(finished)
    text = Path(named[0]).read_text(encoding="utf-8")
    assert text
    assert finished.out in (text, f"{text}\n"), (text, str(finished))
