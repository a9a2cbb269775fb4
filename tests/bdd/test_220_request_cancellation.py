"""Steps of features/220-request-cancellation.feature."""

import json
import signal
import time
from dataclasses import dataclass, field

import httpx
from pytest_bdd import parsers, scenarios, then, when

from daemons.contracts import routes
from tests.bdd.conftest import PROMPT, Fill, Row, stats, task_row
from tests.support.harness import eventually
from tests.support.harness_http import EventReader, TimedEvent, text_of
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


def free_slots(rbee: Topology, worker: Row) -> bool:
    now = stats(rbee, worker)
    return bool(now["slots_available"] == now["slots_total"]) and now["state"] == "idle"


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
    eventually(lambda: free_slots(rbee, worker), "all slots free", within_s=left)
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


@then("the generation has stopped and the worker's slots are free")
def has_stopped(rbee: Topology, worker: Row) -> None:
    eventually(lambda: free_slots(rbee, worker), "all slots free", within_s=1.0)
    assert stats(rbee, worker)["tokens_generated_total"] < 4000


@then("the task's events end with exactly one last event, which says that it was cancelled")
def ends_cancelled(rbee: Topology, task: Detached, streams: dict[str, EventReader]) -> None:
    events = streams["detached"].wait_end(within_s=5.0)
    last = [event for event in events if event.is_last]
    assert len(last) == 1
    assert last[0] is events[-1]
    told = last[0].data
    assert told.get("finish_reason") == "cancelled" or told.get("code") == "CANCELLED", last
    assert task_row(rbee, task.id)["state"] == "cancelled"
