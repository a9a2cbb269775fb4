"""Steps of features/220-request-cancellation.feature."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import httpx
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.contracts.tasks import ENDED
from daemons.kit.procs.identity import identify
from tests.bdd.conftest import PROMPT, Fill, Row, ask, hold_load, is_free, stats, task_id, task_row
from tests.support.harness import eventually
from tests.support.harness_crowds import at_once, figure, log_lines, open_descriptors
from tests.support.harness_http import Api, EventReader, TimedEvent, error_of, text_of
from tests.support.harness_keeper import Keeper
from tests.support.topology import Topology

scenarios("220-request-cancellation.feature")


@dataclass
class Detached:
    """A detached task: the answer to its creation, and what its readers had."""

    accepted: httpx.Response
    first: list[TimedEvent] = field(default_factory=list)
    second: list[TimedEvent] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.accepted.json()["id"])


# --- C01


@when("the keeper is killed with SIGKILL", target_fixture="killed_at")
def kill_keeper(rbee: Topology, worker: Row, running: Keeper) -> float:
    assert stats(rbee, worker)["state"] == "busy"
    return running.signal(signal.SIGKILL)


@then(
    parsers.parse("within {seconds:d} second the generation has stopped and the worker's {slots:d} slots are free"),
    target_fixture="generated",
)
def stopped_in_time(rbee: Topology, worker: Row, running: Keeper, killed_at: float, seconds: int, slots: int) -> int:
    assert running.wait().code == -signal.SIGKILL
    left = killed_at + seconds - time.monotonic()
    eventually(lambda: is_free(rbee, worker), "all slots free", within_s=left)
    now = stats(rbee, worker)
    assert (now["slots_total"], now["slots_available"]) == (slots, slots)
    tokens: int = now["tokens_generated_total"]
    assert 0 < tokens < 4000
    return tokens


@then("no further token is generated")
def no_more_tokens(rbee: Topology, worker: Row, generated: int) -> None:
    # Another request runs for a while; what it did not generate itself would have been generated for nobody.
    body = {"model": worker["model_ref"], "prompt": PROMPT, "max_tokens": 20}
    with rbee.queen.stream(routes.TASK_CREATE, body) as reader:
        own = reader.wait_end()[-1].data["total_tokens"]
    assert stats(rbee, worker)["tokens_generated_total"] == generated + own


@then("the task is listed as cancelled", target_fixture="cancelled")
def listed_cancelled(rbee: Topology) -> Row:
    tasks = rbee.queen.call(routes.TASK_LIST).json()["tasks"]
    rows: list[Row] = [row for row in tasks if row["state"] == "cancelled"]
    assert len(rows) == 1, tasks
    assert rows[0]["ended_at"] is not None
    return rows[0]


@then("the queen's log says that the client of this task went away")
def queen_logged(rbee: Topology, cancelled: Row) -> None:
    def look() -> Row | None:
        lines = (rbee.home / "logs" / "queen.log").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return next((row for row in rows if is_about(row, cancelled) and "client" in row["text"]), None)

    eventually(look, f"a line about the lost client of {cancelled['id']}", within_s=2.0)


def is_about(row: Row, task: Row) -> bool:
    """Whether a log line belongs to a task."""
    return task["id"] in json.dumps(row)


# --- C07 and C02


@when(parsers.parse('a detached task asks "{model}" for {tokens:d} tokens'), target_fixture="task")
def begin_detached(rbee: Topology, fill: Fill, model: str, tokens: int) -> Detached:
    body = {"model": fill(model), "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True}
    return Detached(rbee.queen.call(routes.TASK_CREATE, body, headers={"Prefer": "respond-async"}))


@then("it is accepted with 202, its id and the address of its events")
def is_accepted(task: Detached) -> None:
    assert task.accepted.status_code == 202, task.accepted.text
    fields = task.accepted.json()
    assert fields["state"] == "queued"
    assert fields["events_url"].endswith(routes.TASK_EVENTS.path.format(id=task.id))


@when(parsers.parse("a reader takes {count:d} token events and then drops its connection"))
def read_and_drop(rbee: Topology, task: Detached, count: int) -> None:
    with rbee.queen.stream(routes.TASK_EVENTS, id=task.id) as reader:
        last = reader.wait_tokens(count)[-1]
        task.first = [event for event in reader.events if event.number <= last.number]
    assert not any(event.is_last for event in task.first)


@then("the generation goes on without any reader")
def goes_on(rbee: Topology, worker: Row, task: Detached) -> None:
    before = stats(rbee, worker)["tokens_generated_total"]
    eventually(lambda: stats(rbee, worker)["tokens_generated_total"] > before + 5, "more tokens", within_s=5.0)
    assert task_row(rbee, task.id)["state"] == "running"


@when("another reader goes on after the last event that the first one had")
def read_on(rbee: Topology, task: Detached) -> None:
    after = {"Last-Event-ID": str(task.first[-1].number)}
    with rbee.queen.stream(routes.TASK_EVENTS, id=task.id, headers=after) as reader:
        task.second = reader.wait_end()


@then("both readers together have every event once, without gap or double")
def no_gap(task: Detached) -> None:
    numbers = [event.number for event in (*task.first, *task.second)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [event.type for event in task.second if event.is_last] == ["done"]


@then(
    parsers.parse("both readers together have the text and the {count:d} tokens that a reader of the whole stream has")
)
def same_as_whole(rbee: Topology, task: Detached, count: int) -> None:
    with rbee.queen.stream(routes.TASK_EVENTS, id=task.id) as reader:
        whole = reader.wait_end()
    together = [*task.first, *task.second]
    assert text_of(together) == text_of(whole) != ""
    assert [(e.number, e.type, e.data) for e in together] == [(e.number, e.type, e.data) for e in whole]
    assert whole[-1].data["total_tokens"] == count
    assert task_row(rbee, task.id)["tokens"] == count


@when("the task has its first token")
def detached_first_token(rbee: Topology, task: Detached, streams: dict[str, EventReader]) -> None:
    streams["detached"] = rbee.queen.stream(routes.TASK_EVENTS, id=task.id)
    streams["detached"].wait_tokens(1)


@when("the task is deleted", target_fixture="answer")
def delete_task(rbee: Topology, task: Detached) -> httpx.Response:
    return rbee.queen.call(routes.TASK_CANCEL, id=task.id)


@when("a task with an unknown id is deleted", target_fixture="answer")
def delete_unknown(rbee: Topology) -> httpx.Response:
    return rbee.queen.call(routes.TASK_CANCEL, id="task-000000000000")


@then("the task's events end with exactly one last event, which says that it was cancelled")
def ends_cancelled(rbee: Topology, task: Detached, streams: dict[str, EventReader]) -> None:
    events = streams["detached"].wait_end(within_s=5.0)
    last = [event for event in events if event.is_last]
    assert len(last) == 1
    assert last[0] is events[-1]
    told = last[0].data
    assert told.get("finish_reason") == "cancelled" or told.get("code") == "CANCELLED", last
    assert task_row(rbee, task.id)["state"] == "cancelled"


# --- C03


@when("the task waits in the queue")
def task_waits(rbee: Topology, task: Detached) -> None:
    row = task_row(rbee, task.id)
    assert (row["state"], row["queue_position"]) == ("queued", 1)


@then("the task is cancelled within 1 second and its stream says so")
def cancelled_at_once(rbee: Topology, task: Detached) -> None:
    eventually(lambda: task_row(rbee, task.id)["state"] == "cancelled", "cancelled", within_s=1.0)
    with rbee.queen.stream(routes.TASK_EVENTS, id=task.id) as reader:
        events = reader.wait_end()
    assert [event.data["code"] for event in events if event.is_last] == ["CANCELLED"]
    assert text_of(events) == ""


# --- C04


@when(
    parsers.parse(
        'tasks "one" and "two" ask "{model}" for {tokens:d} tokens, and its worker is stopped in the middle of the load'
    ),
    target_fixture="worker",
)
def wait_for_load(rbee: Topology, streams: dict[str, EventReader], fill: Fill, model: str, tokens: int) -> Row:
    streams["one"] = ask(rbee, fill(model), tokens, mmap=False)
    streams["one"].wait_for(lambda event: event.data.get("stage") == "loading", "progress of the load")
    worker = hold_load(rbee)
    streams["two"] = ask(rbee, fill(model), tokens, mmap=False)
    streams["two"].wait_for(lambda event: "waiting for that" in event.data.get("text", ""), "a load that is shared")
    return worker


@when('tasks "one" and "two" are cancelled', target_fixture="cancelled_at")
def cancel_both(rbee: Topology, streams: dict[str, EventReader]) -> float:
    began = time.monotonic()
    for name in ("one", "two"):
        assert rbee.queen.call(routes.TASK_CANCEL, id=task_id(streams[name])).status_code == 204
    return began


@then("both have ended as cancelled within 1 second, though the load is still stopped")
def both_released(rbee: Topology, streams: dict[str, EventReader], worker: Row, cancelled_at: float) -> None:
    for name in ("one", "two"):
        last = streams[name].wait_end()[-1]
        assert last.data["code"] == "CANCELLED"
        assert last.at - cancelled_at < 1.0
        assert task_row(rbee, task_id(streams[name]))["state"] == "cancelled"
    with open(f"/proc/{worker['pid']}/stat", encoding="utf-8") as status:
        assert status.read().rpartition(")")[2].split()[0] == "T"


@then(parsers.parse("the last of them was told that the load {fate}"))
def told_fate(streams: dict[str, EventReader], fate: str) -> None:
    def said(name: str) -> str:
        return " ".join(event.data.get("text", "") for event in streams[name].events)

    assert f"any more; loading it {fate}" in said("two")
    assert "any more" not in said("one")


@then("that worker has ended without a failure, and nothing of it is left")
def ended_well(rbee: Topology, worker: Row) -> None:
    eventually(lambda: identify(worker["pid"]) is None, "the worker's process is gone", within_s=10.0)
    answer = rbee.hive.call(routes.HIVE_WORKER_EXITS, query={"id": worker["id"]})
    (found,) = answer.json()["exits"]
    assert (found["reason"], found.get("error")) == ("stopped", None), found
    assert rbee.hive_workers() == []
    assert list(rbee.home.glob("run/workers/*")) == []


@then(parsers.re(r'a task for "(?P<model>[^"]+)" is answered by (?P<which>that same|another) worker'))
def answered_by(rbee: Topology, fill: Fill, worker: Row, model: str, which: str) -> None:
    with ask(rbee, fill(model), 4) as reader:
        assert reader.wait_end()[-1].type == "done"
        served = task_row(rbee, task_id(reader))["worker_id"]
    assert (served == worker["id"]) == (which == "that same")


# --- C06


@pytest.fixture
def many() -> list[str]:
    """Ids of all tasks of a crowd."""
    return []


@when(
    parsers.parse('{count:d} detached tasks for "{model}" are deleted at the same moment while {running:d} of them run')
)
def cancel_many(rbee: Topology, fill: Fill, worker: Row, many: list[str], count: int, model: str, running: int) -> None:
    reference, queen = fill(model), rbee.queen
    client = Api(queen.url, queen.key, rbee.recorder)
    body = {"model": reference, "prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True}
    prefer = {"Prefer": "respond-async"}
    ids = [str(client.call(routes.TASK_CREATE, body, headers=prefer).json()["id"]) for _ in range(count)]
    eventually(lambda: stats(rbee, worker)["slots_available"] == 0, f"{running} run")
    assert stats(rbee, worker)["slots_total"] == running
    answers = at_once([partial(client.call, routes.TASK_CANCEL, id=id) for id in ids])
    assert [answer.status_code for answer in answers] == [204] * count
    many += ids
    eventually(lambda: all(task_row(rbee, id)["state"] in ENDED for id in ids), "all have ended", within_s=5.0)
    client.close()


@when("what queen, hive and worker hold open is noted", target_fixture="held_open")
def note_open(rbee: Topology, worker: Row) -> dict[str, int]:
    return held_open_now(rbee, worker)


def held_open_now(rbee: Topology, worker: Row) -> dict[str, int]:
    pids = {name: rbee.run_of(name).identity.pid for name in ("queen", "hive")} | {"worker": worker["pid"]}
    return {name: open_descriptors(pid) for name, pid in pids.items()}


@then("every task is listed as cancelled")
def all_cancelled(rbee: Topology, many: list[str]) -> None:
    states = {row["id"]: row["state"] for row in rbee.queen.call(routes.TASK_LIST).json()["tasks"]}
    assert states == dict.fromkeys(many, "cancelled")


@then(parsers.parse("worker, fleet and figures agree that nothing runs and {count:d} tasks were cancelled"))
def all_agree(rbee: Topology, worker: Row, count: int) -> None:
    now = stats(rbee, worker)
    assert (now["state"], now["slots_available"]) == ("idle", now["slots_total"])
    queen, api = rbee.queen, rbee.api(worker["url"], worker["key"])
    assert figure(api, routes.WORKER_METRICS, "rbee_worker_slots", use="busy") == 0
    assert figure(queen, routes.QUEEN_METRICS, "rbee_tasks_ended_total", state="cancelled") == count
    assert figure(queen, routes.QUEEN_METRICS, "rbee_queue_depth") == 0
    assert figure(queen, routes.QUEEN_METRICS, "rbee_tasks") == 0

    told: Row = {}

    def fleet_agrees() -> bool:
        told.update(queen.call(routes.FLEET).json())
        (row,), queue = told["workers"], told["queue"]
        here = (queue["waiting"], queue["running"], row["slots_available"], row["state"])
        return here == (0, 0, row["slots_total"], "idle")

    try:
        eventually(fleet_agrees, "the fleet agrees", within_s=15.0)
    except AssertionError as fault:
        raise AssertionError(f"{fault}; it tells {told['queue']} and {told['workers']}") from None


@then("queen, hive and worker hold open no more than before, but for a connection for each slot")
def no_more_open(rbee: Topology, worker: Row, held_open: dict[str, int]) -> None:
    after, kept_alive = held_open_now(rbee, worker), worker["slots_total"]
    assert all(after[name] <= before + kept_alive for name, before in held_open.items()), (held_open, after)


# --- T42


@when("the person presses Ctrl+C", target_fixture="pressed_at")
def press_ctrl_c(running: Keeper) -> float:
    return running.signal(signal.SIGINT)


@then("within 1 second of it the generation has stopped and the worker's slots are free")
def stopped_soon(rbee: Topology, worker: Row, pressed_at: float) -> None:
    left = pressed_at + 1.0 - time.monotonic()
    eventually(lambda: is_free(rbee, worker), "all slots free", within_s=left)
    assert 0 < stats(rbee, worker)["tokens_generated_total"] < 4000


@then("the worker stopped at most one decode step and 50 ms after it had heard of it")
def stopped_in_a_step(rbee: Topology, worker: Row) -> None:
    lines = list(log_lines(rbee.home, worker["id"]))
    heard = next(row["at"] for row in lines if row["text"] in ("cancel asked for", "the client is gone, cancelling"))
    end = next(row for row in lines if row.get("reason") == "cancelled")
    step_s = 1.0 / end["tokens_per_second"]
    assert end["at"] - heard <= step_s + 0.05, (heard, end)


@when("the keeper tells that it waits in the queue")
def keeper_waits(running: Keeper) -> None:
    running.wait_err("Waiting at position 1")


@then("nothing waits in the queue within 1 second of it")
def queue_empty(rbee: Topology, pressed_at: float) -> None:
    left = pressed_at + 1.0 - time.monotonic()
    eventually(
        lambda: figure(rbee.queen, routes.QUEEN_METRICS, "rbee_queue_depth") == 0, "nothing waits", within_s=left
    )


# --- F07


@pytest.fixture
def own_queens() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Queens that are children of this test, so that it sees how they exit."""
    queens: list[subprocess.Popen[bytes]] = []
    yield queens
    for queen in queens:
        queen.kill()
        queen.wait()


@given("a queen whose exit code is seen")
def start_own_queen(rbee: Topology, own_queens: list[subprocess.Popen[bytes]]) -> None:
    argv = [sys.executable, "-m", "daemons.queen.main", "serve"]
    own_queens.append(subprocess.Popen(argv, env=rbee.environ(), stdout=subprocess.DEVNULL, cwd=rbee.root))
    rbee.run_of("queen")
    rbee.start_queen()  # there is one: this only waits until its node takes work
    assert rbee.run_of("queen").identity.pid == own_queens[0].pid


@when("the queen is told to end with SIGTERM", target_fixture="told_at")
def terminate_queen(own_queens: list[subprocess.Popen[bytes]]) -> float:
    own_queens[0].send_signal(signal.SIGTERM)
    return time.monotonic()


@then(parsers.parse('task "{name}" is told at once that the queen is ending'))
def told_of_end(streams: dict[str, EventReader], told_at: float, name: str) -> None:
    last = streams[name].wait_end(within_s=5.0)[-1]
    assert (last.type, last.data["code"]) == ("error", "DRAINING")
    assert "the queen is ending, and the task still waited: nothing was generated" in last.data["message"]
    assert last.at - told_at < 1.0
    assert not any(event.is_last for event in streams["running"].events)


@then(parsers.parse('a new task is refused with 503 and the code "{code}"'))
def refused(rbee: Topology, worker: Row, code: str) -> None:
    answer = rbee.queen.call(routes.TASK_CREATE, {"model": worker["model_ref"], "prompt": PROMPT})
    assert (answer.status_code, error_of(answer)["code"]) == (503, code)
    assert "Retry-After" in answer.headers


@then(parsers.parse('task "{name}" ends with all its {tokens:d} tokens'))
def ends_whole(streams: dict[str, EventReader], name: str, tokens: int) -> None:
    last = streams[name].wait_end()[-1]
    assert (last.type, last.data.get("total_tokens")) == ("done", tokens), last


@then("the queen exits with 0")
def queen_exits(own_queens: list[subprocess.Popen[bytes]]) -> None:
    assert own_queens[0].wait(20.0) == 0


@when("the queen is started again")
def start_again(rbee: Topology) -> None:
    rbee.start_queen()


@then(parsers.parse("the detached task is there and ends with its {tokens:d} tokens"))
def runs_later(rbee: Topology, task: Detached, tokens: int) -> None:
    with rbee.queen.stream(routes.TASK_EVENTS, id=task.id) as reader:
        last = reader.wait_end()[-1]
    assert (last.type, last.data.get("total_tokens")) == ("done", tokens), last
    assert task_row(rbee, task.id)["state"] == "completed"
