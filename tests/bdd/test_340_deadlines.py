"""Steps of features/340-deadlines.feature."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
from pytest_bdd import parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.contracts.routes import Route
from daemons.kit.deadline import DEADLINE_HEADER
from tests.bdd.conftest import PROMPT, Fill, Row, task_id, task_row
from tests.support.harness import eventually
from tests.support.harness_crowds import log_lines
from tests.support.harness_http import Api, TimedEvent, error_of
from tests.support.topology import Topology

scenarios("340-deadlines.feature")


@when(
    parsers.parse("a program asks OpenAI's route for {tokens:d} tokens with a deadline in {seconds:g} seconds"),
    target_fixture="answer",
)
def ask_openai(rbee: Topology, worker: Row, tokens: int, seconds: float) -> httpx.Response:
    body = {"model": worker["model_ref"], "messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens}
    return rbee.queen_for_inference.call(routes.OPENAI_CHAT, body, headers=deadline_in(seconds))


def deadline_in(seconds: float) -> dict[str, str]:
    return {DEADLINE_HEADER: repr(time.time() + seconds)}


@dataclass(frozen=True)
class Timed:
    """A task with a deadline: the header that it carried, its events, its row."""

    headers: Mapping[str, str]
    events: list[TimedEvent]
    row: Row


@when(
    parsers.parse('a task for "{model}" carries a deadline in {seconds:d} seconds and a time limit of {limit:d}'),
    target_fixture="timed",
)
def carry_deadline(rbee: Topology, fill: Fill, model: str, seconds: int, limit: int) -> Timed:
    headers = deadline_in(seconds)
    body = {"model": fill(model), "prompt": PROMPT, "max_tokens": 4000, "timeout_s": limit, "ignore_eos": True}
    with rbee.queen.stream(routes.TASK_CREATE, body, headers=headers) as reader:
        if seconds > 10:  # long enough for any answer: that it is on its way is all that is wanted
            reader.wait_tokens(1)
        else:
            reader.wait_end()
        return Timed(headers, reader.events, task_row(rbee, task_id(reader)))


@then("hive and worker log that very deadline")
def logged_deadline(rbee: Topology, timed: Timed) -> None:
    deadline = float(timed.headers[DEADLINE_HEADER])

    def logged(name: str) -> bool:
        return deadline in [row.get("deadline") for row in log_lines(rbee.home, name)]

    for name in ("hive", str(timed.row["worker_id"])):
        eventually(partial(logged, name), f"the deadline in the log of {name}", within_s=2.0)


@then("the queen, the hive and the worker each refuse a deadline that has passed")
def refuse_passed(rbee: Topology, timed: Timed) -> None:
    worker = next(row for row in rbee.hive_workers() if row["id"] == timed.row["worker_id"])
    hops: list[tuple[Api, Route, dict[str, Any], str]] = [
        (rbee.queen, routes.TASK_CREATE, {"model": "demo", "prompt": PROMPT}, "queen"),
        (rbee.hive, routes.HIVE_SPAWN, {"model_ref": "demo"}, "hive"),
        (
            rbee.api(worker["url"], worker["key"]),
            routes.WORKER_INFER,
            {"id": "task-00000000000a", "prompt": PROMPT, "max_tokens": 4},
            "worker",
        ),
    ]
    for api, route, body, name in hops:
        answer = api.call(route, body, headers=deadline_in(-1.0))
        assert (answer.status_code, error_of(answer)["code"]) == (408, "DEADLINE_EXCEEDED"), answer.text
        assert f"before the {name} got the request" in error_of(answer)["message"]
    assert [row["id"] for row in rbee.hive_workers()] == [worker["id"]], "the hive has started nothing for it"


@then("it ends with DEADLINE_EXCEEDED at its deadline and not later than 1 second after it")
def ends_in_time(timed: Timed) -> None:
    last = timed.events[-1]
    assert (last.data["code"], timed.row["state"]) == ("DEADLINE_EXCEEDED", "failed")
    late_s = timed.row["ended_at"] - float(timed.headers[DEADLINE_HEADER])
    assert -0.01 <= late_s <= 1.0, late_s
