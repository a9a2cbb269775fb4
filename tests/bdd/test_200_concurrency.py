"""Steps of features/200-concurrency.feature."""

import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.contracts.ids import new_task_id
from daemons.contracts.workers import READY_STATES
from daemons.kit.procs.identity import identify
from tests.bdd.conftest import PROMPT, Fill, Row, ask, is_free, stats, task_id, task_row
from tests.support.harness import eventually
from tests.support.harness_crowds import at_once, figure
from tests.support.harness_http import Api, EventReader, TimedEvent, text_of
from tests.support.harness_leftovers import read_worker_runs
from tests.support.harness_load import Load, under_load
from tests.support.topology import Topology

scenarios("200-concurrency.feature")


# --- K01, K03, K06


@when(parsers.parse('{count:d} workers with "{model}" are asked for at the same moment'), target_fixture="spawned")
def spawn_many(rbee: Topology, fill: Fill, count: int, model: str) -> list[Row]:
    hive, reference = rbee.hive, fill(model)
    return at_once([partial(spawn_one, hive, reference)] * count)


def spawn_one(hive: Api, model: str) -> Row:
    answer = hive.call(routes.HIVE_SPAWN, {"model_ref": model, "slots": 1})
    assert answer.status_code == 202, answer.text
    row: Row = answer.json()
    return row


@then("each has an id, an address, a key and a process of its own")
def all_different(spawned: list[Row]) -> None:
    for name in ("id", "url", "key", "pid"):
        assert len({row[name] for row in spawned}) == len(spawned), name
    assert all(identify(row["pid"]) is not None for row in spawned)


@then(parsers.parse("the registry holds those {count:d} and no other, and all of them become idle"))
def registry_holds(rbee: Topology, spawned: list[Row], count: int) -> None:
    ids = {row["id"] for row in spawned}
    assert len(ids) == count
    assert {row["id"] for row in rbee.hive_workers()} == ids
    eventually(lambda: {row["state"] for row in rbee.hive_workers()} == {"idle"}, "all are idle", within_s=60.0)
    rows = {row["id"]: row for row in rbee.hive_workers()}
    assert {id: (row["url"], row["pid"]) for id, row in rows.items()} == {
        row["id"]: (row["url"], row["pid"]) for row in spawned
    }
    for row in rows.values():
        assert stats(rbee, row)["id"] == row["id"], "its address is its own"


@then(parsers.parse('the catalog holds "{model}" once'))
def in_catalog_once(rbee: Topology, fill: Fill, model: str) -> None:
    models = rbee.hive.call(routes.HIVE_MODEL_LIST).json()["models"]
    assert Counter(row["ref"] for row in models)[fill(model)] == 1
    assert max(Counter(row["id"] for row in models).values()) == 1


@when(
    "2 of them are shut down, 2 of them killed and 4 new ones asked for, all at the same moment",
    target_fixture="turnover",
)
def turn_over(rbee: Topology, spawned: list[Row]) -> tuple[list[Row], float]:
    hive = rbee.hive

    def ready() -> bool:
        return all(row["state"] in READY_STATES for row in rbee.hive_workers())

    eventually(ready, "the first ones are ready", within_s=60.0)

    def shut_down(row: Row) -> Row:
        answer = hive.call(routes.HIVE_WORKER_SHUTDOWN, {"id": row["id"], "drain_s": 1.0})
        assert answer.status_code == 200, answer.text
        gone: Row = answer.json()
        return gone

    def kill(row: Row) -> Row:
        os.kill(row["pid"], signal.SIGKILL)
        return row

    began = time.monotonic()
    ends = [partial(shut_down, row) for row in spawned[:2]] + [partial(kill, row) for row in spawned[2:]]
    rows = at_once([*ends, *[partial(spawn_one, hive, "demo")] * 4])
    return rows[len(ends) :], time.monotonic() - began


@then(parsers.parse("every one of these calls is answered within {seconds:d} seconds"))
def answered_in_time(turnover: tuple[list[Row], float], seconds: int) -> None:
    assert turnover[1] < seconds


@then("the registry, the run files and the processes tell of the same workers, of which the 4 new ones are")
def same_everywhere(rbee: Topology, spawned: list[Row], turnover: tuple[list[Row], float]) -> None:
    new, old = {row["id"] for row in turnover[0]}, {row["id"] for row in spawned}

    def agree() -> bool:
        rows = rbee.hive_workers()
        ids = {row["id"] for row in rows}
        alive = all(identify(row["pid"]) is not None for row in rows)
        ready = all(row["state"] in READY_STATES for row in rows)
        return ids == set(read_worker_runs(rbee.home)) and new <= ids and not ids & old and alive and ready

    eventually(agree, "registry, run files and processes agree", within_s=60.0)


# --- K02


@dataclass
class Raced:
    """One task that was cancelled at about its end: what its stream and its row tell."""

    row: Row
    events: list[TimedEvent]


@when(
    parsers.parse("{count:d} tasks of {tokens:d} tokens are each cancelled at about the moment at which they end"),
    target_fixture="raced",
)
def race_with_end(rbee: Topology, worker: Row, count: int, tokens: int) -> list[Raced]:
    with ask(rbee, worker["model_ref"], tokens) as reader:  # as a measure of how long one takes
        began = time.monotonic()
        takes_s = reader.wait_end()[-1].at - began
    waits = [random.Random(number).uniform(0.0, 2 * takes_s) for number in range(count - 2)]
    return [race(rbee, worker["model_ref"], tokens, wait_s) for wait_s in (0.0, *waits, 20 * takes_s + 1.0)]


def race(rbee: Topology, model: str, tokens: int, wait_s: float) -> Raced:
    body = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True}
    queen = rbee.queen
    id = str(queen.call(routes.TASK_CREATE, body, headers={"Prefer": "respond-async"}).json()["id"])
    time.sleep(wait_s)  # what is raced is a moment in time
    assert queen.call(routes.TASK_CANCEL, id=id).status_code == 204
    with queen.stream(routes.TASK_EVENTS, id=id) as reader:
        events = reader.wait_end()
    return Raced(task_row(rbee, id), events)


@then("each has one end, and its row, its stream and its error tell the same one")
def one_end(raced: list[Raced]) -> None:
    states: Counter[str] = Counter()
    for one in raced:
        (last,) = [event for event in one.events if event.is_last]
        states[one.row["state"]] += 1
        if one.row["state"] == "completed":
            assert (last.type, one.row.get("error"), one.row["tokens"]) == ("done", None, last.data["total_tokens"])
        else:
            assert one.row["state"] == "cancelled", one.row
            assert (last.data["code"], one.row["error"]["code"]) == ("CANCELLED", "CANCELLED")
    assert set(states) == {"completed", "cancelled"}, "some of both, or there was no race"


# --- K04


@when(parsers.parse("two requests race for the worker's one slot {times:d} times"), target_fixture="races")
def race_for_slot(rbee: Topology, worker: Row, times: int) -> list[set[str]]:
    """The outcomes of each race: ``200``, or the code of the refusal."""
    api, outcomes = rbee.api(worker["url"], worker["key"]), []
    for _ in range(times):
        eventually(lambda: is_free(rbee, worker), "the slot is free", within_s=2.0, every_s=0.002)
        readers = at_once([partial(generate, api)] * 2)
        outcomes.append({"200" if reader.status == 200 else reader.refusal()["code"] for reader in readers})
        for reader in readers:
            reader.cut()
    return outcomes


def generate(api: Api) -> EventReader:
    body = {"id": new_task_id(), "prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True}
    return api.stream(routes.WORKER_INFER, body)


@then(parsers.parse('each time one of them got it and the other one was refused with "{code}"'))
def one_got_it(races: list[set[str]], code: str) -> None:
    assert races == [{"200", code}] * len(races)


# --- K07


@given("the hive's telemetry is followed")
def follow_hive(rbee: Topology, streams: dict[str, EventReader]) -> None:
    streams["hive"] = rbee.hive.stream(routes.HIVE_TELEMETRY)


@when(parsers.parse('{count:d} short tasks for "{model}" come from {clients:d} clients'))
def short_tasks(rbee: Topology, count: int, model: str, clients: int) -> None:
    with ThreadPoolExecutor(clients) as pool:
        for last in pool.map(lambda _: whole(rbee, model, 40)[-1], range(count)):
            assert last.type == "done"


def whole(rbee: Topology, model: str, tokens: int, **fields: Any) -> list[TimedEvent]:
    with ask(rbee, model, tokens, **fields) as reader:
        return reader.wait_end()


@dataclass
class Published:
    """(state, slots available) of one worker in each sample that tells of it."""

    rows: list[tuple[str, int]] = field(default_factory=list)


@then("each published row is idle with all its slots free, or busy with fewer", target_fixture="published")
def never_half(worker: Row, streams: dict[str, EventReader]) -> Published:
    rows = [row for event in streams["hive"].events for row in event.data["workers"] if row["id"] == worker["id"]]
    published = Published([(row["state"], row["slots_available"]) for row in rows])
    for state, available in published.rows:
        assert (state == "idle") == (available == worker["slots_total"]), (state, available)
        assert state in READY_STATES
    return published


@then("both were published")
def both_published(published: Published) -> None:
    assert {state for state, _ in published.rows} == {"idle", "busy"}, Counter(published.rows)


# --- K08


@when(
    parsers.parse('{clients:d} clients ask "{model}" for {tokens:d} tokens at the same moment, each its own prompt'),
    target_fixture="crowd",
)
def crowd_asks(
    rbee: Topology, streams: dict[str, EventReader], fill: Fill, clients: int, model: str, tokens: int
) -> list[EventReader]:
    reference = fill(model)

    def begin(number: int) -> EventReader:
        return ask(rbee, reference, tokens, prompt=f"Client {number} says: {PROMPT}")

    readers = at_once([partial(begin, number) for number in range(clients)])
    streams |= {f"client {number}": reader for number, reader in enumerate(readers)}
    return readers


@then(parsers.parse("all {clients:d} are answered with {tokens:d} tokens"))
def all_answered(crowd: list[EventReader], clients: int, tokens: int) -> None:
    ends = [reader.wait_end()[-1] for reader in crowd]
    assert [(end.type, end.data["total_tokens"]) for end in ends] == [("done", tokens)] * clients
    assert all(text_of(reader.events) for reader in crowd)


@then(parsers.parse("each of the {workers:d} workers answered 3 or 4 of them"))
def spread(rbee: Topology, made_workers: list[Row], crowd: list[EventReader], workers: int) -> None:
    served = Counter(task_row(rbee, task_id(reader))["worker_id"] for reader in crowd)
    assert set(served) == {row["id"] for row in made_workers}
    assert len(served) == workers
    assert set(served.values()) <= {3, 4}, served
    assert {row["id"]: stats(rbee, row)["requests_total"] for row in made_workers} == dict(served)


@then("no worker has a slot taken")
def none_taken(rbee: Topology, made_workers: list[Row]) -> None:
    for row in made_workers:
        eventually(partial(is_free, rbee, row), f"{row['id']} is free", within_s=2.0)


# --- K09


@when(
    parsers.parse(
        "{count:d} tasks of {tokens:d} tokens come over {connections:d} connections within {seconds:d} seconds"
    ),
    target_fixture="load",
)
def come_in_crowds(rbee: Topology, worker: Row, count: int, tokens: int, connections: int, seconds: int) -> Load:
    load = under_load(rbee.queen, worker["model_ref"], count, tokens, connections=connections, per_s=50.0)
    assert load.seconds < seconds
    return load


@then(parsers.parse("every one of them ended well, with its {tokens:d} tokens"))
def all_well(load: Load, tokens: int) -> None:
    assert {(run.row["state"], run.row["tokens"]) for run in load.runs} == {("completed", tokens)}
    assert len({run.row["id"] for run in load.runs}) == len(load.runs)


@then(parsers.parse("the queue is empty and the worker's {slots:d} slots are all free"))
def drained(rbee: Topology, worker: Row, slots: int) -> None:
    assert figure(rbee.queen, routes.QUEEN_METRICS, "rbee_queue_depth") == 0
    assert figure(rbee.queen, routes.QUEEN_METRICS, "rbee_tasks") == 0
    eventually(lambda: is_free(rbee, worker), "all slots free", within_s=2.0)
    assert stats(rbee, worker)["slots_total"] == slots


@then(
    parsers.parse("what the queen added is under {limit:d} ms for 99 of 100 of them, where others leave it the cores")
)
def little_added(load: Load, limit: int, request: pytest.FixtureRequest) -> None:
    request.node.user_properties.append(("load", str(load)))
    assert load.calmest.added_ms(0.99) < limit, str(load)
