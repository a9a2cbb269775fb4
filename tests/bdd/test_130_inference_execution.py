"""Steps of features/130-inference-execution.feature."""

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from tests.bdd.conftest import PROMPT, Fill, Row, ask, is_free, stats, task_id, task_row
from tests.support.harness import eventually
from tests.support.harness_crowds import at_once, figure
from tests.support.harness_http import EventReader, TimedEvent, error_of, text_of
from tests.support.harness_keeper import Finished
from tests.support.topology import Topology

scenarios("130-inference-execution.feature")


# --- T36


@given("the fleet's events are followed")
def follow_fleet(rbee: Topology, streams: dict[str, EventReader]) -> None:
    streams["fleet"] = rbee.queen.stream(routes.FLEET_EVENTS)
    streams["fleet"].wait_for(lambda event: event.type == "snapshot", "the first snapshot")


@then("the first token was read before the last one was generated")
def read_while_generating(rbee: Topology, worker: Row, streams: dict[str, EventReader]) -> None:
    now = stats(rbee, worker)
    assert 1 <= now["tokens_generated_total"] < 200, now
    assert not any(event.is_last for event in streams["story"].events)


@then("its token events came in order, with an index that begins at 0 and never repeats")
def tokens_in_order(streams: dict[str, EventReader]) -> None:
    events = streams["story"].events
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    indices = [event.data["index"] for event in events if event.type == "token"]
    assert indices[0] == 0
    assert indices == sorted(set(indices))
    assert indices[-1] < 200


@then("its token events came over time, not in one piece")
def came_over_time(streams: dict[str, EventReader]) -> None:
    tokens = [event for event in streams["story"].events if event.type == "token"]
    done = streams["story"].events[-1]
    assert len(tokens) >= 20
    # The stream lasts about as long as the generation did: nothing was held back to its end.
    assert tokens[-1].at - tokens[0].at >= 0.5 * done.data["timings"]["generation_ms"] / 1000


@then(parsers.parse('it ended with one event "done" that has {count:d} tokens, a usage and timings'))
def one_done(streams: dict[str, EventReader], count: int) -> None:
    events = streams["story"].events
    assert [event.type for event in events if event.is_last] == ["done"]
    done = events[-1].data
    assert (done["done"], done["total_tokens"], done["finish_reason"]) == (True, count, "length")
    assert done["usage"]["completion_tokens"] == count
    assert done["usage"]["prompt_tokens"] > 0
    timings = done["timings"]
    assert all(timings[name] > 0 for name in ("prompt_ms", "generation_ms", "ttft_ms", "tokens_per_second"))
    assert timings["ttft_ms"] <= done["duration_ms"]


@then("the fleet's events showed the worker idle, then busy, then idle")
def fleet_showed(worker: Row, streams: dict[str, EventReader]) -> None:
    def seen() -> list[str]:
        states = [state for event in streams["fleet"].events for state in states_of(event, worker["id"])]
        return [state for at, state in enumerate(states) if at == 0 or states[at - 1] != state]

    eventually(lambda: len(seen()) >= 3, "three states in the fleet's events", within_s=3.0)
    assert seen() == ["idle", "busy", "idle"]


def states_of(event: TimedEvent, worker_id: str) -> list[str]:
    """What one fleet event says of a worker's state."""
    rows = [event.data] if event.type == "worker" else event.data.get("workers", [])
    return [row["state"] for row in rows if row["id"] == worker_id]


# --- I04


@dataclass(frozen=True)
class Batch:
    """Texts of the same request: alone, and beside others; what the neighbours wrote; how many were at it together."""

    alone: str
    beside: str
    neighbours: tuple[str, ...]
    together: int


@when(
    parsers.parse("the same request with seed {seed:d} at temperature {temperature:g} runs twice alone"),
    target_fixture="twice",
)
def run_twice(rbee: Topology, worker: Row, seed: int, temperature: float) -> tuple[str, str]:
    def run() -> str:
        return whole(ask(rbee, worker["model_ref"], 60, seed=seed, temperature=temperature, cache_prompt=False))

    return run(), run()


def whole(reader: EventReader) -> str:
    """The text of a task that completes."""
    with reader:
        events = reader.wait_end()
    assert events[-1].type == "done", events[-1]
    return text_of(events)


@then("both texts are the same")
def same_texts(twice: tuple[str, str]) -> None:
    assert twice[0] == twice[1]
    assert len(twice[0]) > 60


@then(parsers.parse("seed {seed:d} gives another text"))
def other_text(rbee: Topology, worker: Row, twice: tuple[str, str], seed: int) -> None:
    other = whole(ask(rbee, worker["model_ref"], 60, seed=seed, temperature=0.9, cache_prompt=False))
    assert other != twice[0]


GREEDY: dict[str, Any] = {"temperature": 0.0, "cache_prompt": False}
PLAIN_NEIGHBOURS: tuple[dict[str, Any], ...] = (
    {**GREEDY, "prompt": "One"},
    {**GREEDY, "prompt": "Two"},
    {**GREEDY, "prompt": "Six"},
)
WILD_NEIGHBOURS: tuple[dict[str, Any], ...] = (
    {"prompt": "One", "temperature": 1.8, "seed": 1, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"prompt": "Two", "temperature": 1.2, "seed": 2, "repeat_penalty": 1.9, "presence_penalty": 2.0},
    {"prompt": "Six", "temperature": 0.7, "seed": 3, "mirostat": 2, "logit_bias": {"300": 9.0, "301": -100.0}},
)


@when("a request at temperature 0 runs alone", target_fixture="alone")
def run_alone(rbee: Topology, worker: Row) -> str:
    return whole(ask(rbee, worker["model_ref"], 60, **GREEDY))


@when(
    "it runs again beside 3 requests with their own seeds, temperatures, penalties and biases", target_fixture="batch"
)
def run_beside(rbee: Topology, worker: Row, alone: str) -> Batch:
    return beside(rbee, worker, alone, WILD_NEIGHBOURS)


def beside(rbee: Topology, worker: Row, alone: str, neighbours: Sequence[dict[str, Any]]) -> Batch:
    """Run the request while `neighbours` generate: each began before it, and still held its slot after it."""
    readers = [ask(rbee, worker["model_ref"], 1900, cache_prompt=False, **fields) for fields in neighbours]
    try:
        for reader in readers:
            reader.wait_tokens(1)
        with ask(rbee, worker["model_ref"], 60, **GREEDY) as reader:
            events = reader.wait_end()
        after = stats(rbee, worker)
        for other in readers:
            other.wait_tokens(20)
        together = 1 + after["slots_total"] - after["slots_available"]
        return Batch(alone, text_of(events), tuple(other.text for other in readers), together)
    finally:
        for reader in readers:
            reader.cut()


@then(parsers.parse("all {count:d} shared a batch"))
def shared_batch(batch: Batch, count: int) -> None:
    assert batch.together == count
    assert len(set(batch.neighbours)) == count - 1
    assert all(batch.neighbours)


@then("its text is the same, up to what llama.cpp's kernels make of a batch")
def untouched(rbee: Topology, worker: Row, batch: Batch, request: pytest.FixtureRequest) -> None:
    if batch.beside == batch.alone:
        request.node.user_properties.append(("kernels", "a batch of 4 gives the same text as a batch of 1"))
        return
    # Kernels may round differently for four rows than for one. If that is all, neighbours without any sampling state
    # of their own make the same difference.
    control = beside(rbee, worker, batch.alone, PLAIN_NEIGHBOURS)
    pairs = enumerate(zip(batch.alone, batch.beside, strict=False))
    differs_at = next((at for at, (one, other) in pairs if one != other), min(len(batch.alone), len(batch.beside)))
    said = f"a batch of 4 differs from a batch of 1 from character {differs_at} of {len(batch.alone)} on"
    request.node.user_properties.append(("kernels", said))
    assert batch.beside == control.beside, f"alone {batch.alone!r}, beside {batch.beside!r}, control {control.beside!r}"


# --- I05


@dataclass(frozen=True)
class Written:
    """One text that a grammar forced the model to write, the stop string, what should arrive, and what did."""

    text: str
    stop: str
    expected: str
    events: list[TimedEvent]


@when("the model has to write each of these texts, and to stop before a string", target_fixture="written")
def write_texts(rbee: Topology, datatable: Sequence[Sequence[str]]) -> list[Written]:
    return [write(rbee, *row) for row in datatable[1:]]


def write(rbee: Topology, text: str, stop: str, expected: str) -> Written:
    grammar = f"root ::= {json.dumps(text, ensure_ascii=False)}"
    with ask(rbee, "demo", 200, grammar=grammar, stop=[stop], temperature=0.0, ignore_eos=False) as reader:
        return Written(text, stop, expected, reader.wait_end())


@then("every stop string and every character beyond ASCII takes more than one token")
def are_split(rbee: Topology, worker: Row, written: list[Written]) -> None:
    worker_api = rbee.api(worker["url"], worker["key"])
    pieces = {case.stop for case in written} | {char for case in written for char in case.text if ord(char) > 127}
    for piece in pieces:
        tokens = worker_api.call(routes.WORKER_TOKENIZE, {"text": piece}).json()["tokens"]
        assert len(tokens) > 1, (piece, tokens)


@then("no event holds a broken character")
def nothing_broken(written: list[Written]) -> None:
    for case in written:
        for event in case.events:
            assert "\ufffd" not in event.data.get("token", ""), event
            event.data.get("token", "").encode()  # a lone surrogate would be half a character


@then("exactly the text before the stop string arrived each time")
def expected_texts(written: list[Written]) -> None:
    assert [text_of(case.events) for case in written] == [case.expected for case in written]


@then(parsers.parse('each generation ended because of "{reason}", with the tokens it generated counted'))
def ended_because(written: list[Written], reason: str) -> None:
    for case in written:
        done = case.events[-1]
        assert (done.type, done.data["finish_reason"]) == ("done", reason), done
        tokens = [event for event in case.events if event.type == "token"]
        assert done.data["total_tokens"] == done.data["usage"]["completion_tokens"] > tokens[-1].data["index"]


# --- T41, I01, F01


@then("that worker is in no list any more")
@then("the stopped worker is in no list any more")
def in_no_list(rbee: Topology, worker: Row) -> None:
    def listed() -> set[str]:
        return {row["id"] for row in (*rbee.hive_workers(), *rbee.workers())}

    eventually(lambda: worker["id"] not in listed(), f"{worker['id']} is in no list", within_s=3.0)


@when("the queen is killed with SIGKILL")
def kill_queen(rbee: Topology) -> None:
    os.kill(rbee.run_of("queen").identity.pid, signal.SIGKILL)


@then(parsers.parse("within {seconds:d} seconds the worker's slots are free without any queen"))
def free_without_queen(rbee: Topology, worker: Row, seconds: int) -> None:
    eventually(lambda: is_free(rbee, worker), "all slots free", within_s=seconds)


@then(parsers.parse("the keeper ended at most {seconds:d} seconds after the worker had been frozen"))
def ended_in_time(noted: dict[str, Any], seconds: int) -> None:
    assert time.monotonic() - noted["fault at"] <= seconds


@when("the worker that serves the next request of this prompt is stopped with SIGSTOP", target_fixture="worker")
def stop_next_worker(rbee: Topology, made_workers: list[Row]) -> Row:
    """The one that has just answered this prompt: its cache is the warmest."""
    with ask(rbee, made_workers[0]["model_ref"], 4) as reader:
        reader.wait_end()
        served = task_row(rbee, task_id(reader))["worker_id"]
    (worker,) = [row for row in made_workers if row["id"] == served]
    os.kill(worker["pid"], signal.SIGSTOP)
    return worker


@when(parsers.parse('task "{name}" is held by the stopped worker'))
def held(rbee: Topology, streams: dict[str, EventReader], worker: Row, name: str) -> None:
    wait_held(rbee, task_id(streams[name]), worker)
    assert streams[name].text == ""


@when("the keeper's task is held by the stopped worker")
def keeper_held(rbee: Topology, worker: Row) -> None:
    def newest() -> Row | None:
        rows = rbee.queen.call(routes.TASK_LIST).json()["tasks"]
        return next((row for row in rows if row["state"] == "running"), None)

    wait_held(rbee, eventually(newest, "the keeper's task runs")["id"], worker)


def wait_held(rbee: Topology, task: str, worker: Row) -> None:
    def sent_there() -> bool:
        row = task_row(rbee, task)
        return (row["state"], row["worker_id"], row["tokens"]) == ("running", worker["id"], 0)

    eventually(sent_there, f"{task} was sent to {worker['id']}")


@then(
    parsers.parse(
        'the other worker answered task "{name}" with all {count:d} tokens, in one stream without gap or double'
    )
)
def other_answered(
    rbee: Topology, streams: dict[str, EventReader], made_workers: list[Row], worker: Row, name: str, count: int
) -> None:
    events = streams[name].events
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events if event.is_last] == ["done"]
    assert events[-1].data["total_tokens"] == count
    indices = [event.data["index"] for event in events if event.type == "token"]
    assert indices == sorted(set(indices))
    (other,) = [row["id"] for row in made_workers if row["id"] != worker["id"]]
    assert task_row(rbee, task_id(streams[name]))["worker_id"] == other


@then("the stream says that a worker was lost before its first token and the task was tried again")
def says_so(streams: dict[str, EventReader], worker: Row) -> None:
    said = [event.data["text"] for event in streams["story"].events if event.type == "narration"]
    assert f"Worker {worker['id']} was lost before its first token: trying again (1 of 3)" in said


# --- T37, T43, I03


@when("the worker itself is asked for one more generation", target_fixture="answer")
def ask_worker(rbee: Topology, worker: Row) -> httpx.Response:
    body = {"id": "task-00000000000a", "prompt": PROMPT, "max_tokens": 4}
    return rbee.api(worker["url"], worker["key"]).call(routes.WORKER_INFER, body)


@then(parsers.parse("it tells of {total:d} slot in all and {busy:d} busy, and when to come back"))
def tells_slots(answer: httpx.Response, total: int, busy: int) -> None:
    details = error_of(answer)["details"]
    assert (details["slots_total"], details["slots_busy"]) == (total, busy)
    assert int(answer.headers["Retry-After"]) >= 1


@when("one more task is asked for", target_fixture="answer")
def ask_queen(rbee: Topology, worker: Row) -> httpx.Response:
    return rbee.queen.call(routes.TASK_CREATE, {"model": worker["model_ref"], "prompt": PROMPT, "max_tokens": 4})


@then(parsers.parse("it tells of position {position:d} of at most {limit:d}, and when to come back"))
def tells_position(answer: httpx.Response, position: int, limit: int) -> None:
    details = error_of(answer)["details"]
    assert (details["position"], details["limit"]) == (position, limit)
    assert int(answer.headers["Retry-After"]) >= 1


@then(parsers.parse("the keeper tried {tries:d} times, and told each of its {waits:d} waits"))
def told_waits(finished: Finished, tries: int, waits: int) -> None:
    told = [line for line in finished.err.splitlines() if " again in " in line]
    assert [f"try {number} of {waits} again in 1.0 s" in line for number, line in enumerate(told, 1)] == [True] * waits
    assert len(told) == tries - 1
    assert finished.seconds >= waits * 1.0, "Retry-After is 1 s"


@then(parsers.parse('the queen counted {count:d} refusals with the code "{code}"'))
def counted(rbee: Topology, count: int, code: str) -> None:
    assert figure(rbee.queen, routes.QUEEN_METRICS, "rbee_tasks_refused_total", code=code) == count


@when(parsers.parse('two tasks ask "{model}" for {tokens:d} tokens at the same moment'))
def two_at_once(rbee: Topology, streams: dict[str, EventReader], fill: Fill, model: str, tokens: int) -> None:
    reference = fill(model)
    left, right = at_once([lambda: ask(rbee, reference, tokens)] * 2)
    streams |= {"left": left, "right": right}


@then("one of the two runs and the other one waits at position 1")
def one_runs(rbee: Topology, streams: dict[str, EventReader]) -> None:
    def settled() -> list[Row] | None:
        rows = [task_row(rbee, task_id(streams[name])) for name in ("left", "right")]
        rows.sort(key=lambda row: str(row["state"]))
        return rows if [row["state"] for row in rows] == ["queued", "running"] else None

    waiting, running = eventually(settled, "one waits and one runs")
    assert (waiting["queue_position"], waiting.get("worker_id"), running.get("queue_position")) == (1, None, None)


@then("the worker, the fleet and the figures of the queen all tell of 2 busy slots and 1 waiting task")
def all_tell(rbee: Topology, worker: Row) -> None:
    now = stats(rbee, worker)
    assert (now["slots_available"], now["state"], now["requests_total"]) == (0, "busy", 2)
    assert figure(rbee.queen, routes.QUEEN_METRICS, "rbee_queue_depth") == 1
    assert figure(rbee.queen, routes.QUEEN_METRICS, "rbee_tasks", state="running") == 2
    assert figure(rbee.api(worker["url"], worker["key"]), routes.WORKER_METRICS, "rbee_worker_slots", use="busy") == 2

    def fleet_tells() -> bool:
        fleet = rbee.queen.call(routes.FLEET).json()
        (row,) = fleet["workers"]
        queue = fleet["queue"]
        return (queue["waiting"], queue["running"], row["slots_available"], row["state"]) == (1, 2, 0, "busy")

    eventually(fleet_tells, "the fleet tells of it", within_s=5.0)


@then("the figures of the queen tell of no task")
def no_task(rbee: Topology) -> None:
    def nothing() -> bool:
        return not any(figure(rbee.queen, routes.QUEEN_METRICS, name) for name in ("rbee_queue_depth", "rbee_tasks"))

    eventually(nothing, "no task in the figures", within_s=3.0)
