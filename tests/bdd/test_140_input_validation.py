"""Steps of features/140-input-validation.feature."""

import json
import re
import shlex
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from tests.bdd.conftest import Row, stats
from tests.support.harness_http import Api, error_of
from tests.support.harness_keeper import Finished
from tests.support.topology import Topology

scenarios("140-input-validation.feature")


@pytest.fixture
def faults() -> list[str]:
    """Names of the fields that the scenario makes faulty."""
    return []


@pytest.fixture
def worker(rbee: Topology) -> Row:
    """The shared topology's one worker."""
    return rbee.only_worker()


# --- V01


@pytest.fixture
def ear() -> Iterator[socket.socket]:
    """A listening socket on loopback: a connection made to it stays in its backlog until somebody looks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@given("a queen's address where everything that arrives is noticed", target_fixture="queen_url")
def noticing_address(ear: socket.socket) -> str:
    return f"http://127.0.0.1:{ear.getsockname()[1]}"


@when(parsers.parse('a person runs "rbee {line}" against that address'), target_fixture="finished")
def run_against(rbee: Topology, queen_url: str, line: str) -> Finished:
    return rbee.keeper(*shlex.split(line), environ=rbee.environ(RBEE_QUEEN_URL=queen_url))


@then("nothing arrived at that address")
def nothing_arrived(ear: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        ear.accept()
    # The ear hears: a connection that is made for sure is noticed.
    with socket.create_connection(ear.getsockname()):
        connection, _ = ear.accept()
        connection.close()


@when(parsers.parse('the queen is asked to run the model "{model}"'), target_fixture="answer")
def run_model(rbee: Topology, model: str) -> httpx.Response:
    return rbee.queen.call(routes.TASK_CREATE, {"model": model, "prompt": "hello"})


@when(
    parsers.parse('the queen is asked to run the model "{model}" on the backend "{backend}"'), target_fixture="answer"
)
def run_on_backend(rbee: Topology, model: str, backend: str) -> httpx.Response:
    return rbee.queen.call(routes.TASK_CREATE, {"model": model, "prompt": "hello", "backend": backend})


# --- V07


@pytest.fixture
def generated(rbee: Topology, worker: Row) -> int:
    """Tokens that the shared worker had generated before this scenario."""
    return int(stats(rbee, worker)["tokens_generated_total"])


def faulty(datatable: Sequence[Sequence[str]], faults: list[str], good: dict[str, Any]) -> dict[str, Any]:
    """`good` with the faulty fields of the table; their values are JSON."""
    fields = {name: json.loads(value) for name, value in datatable[1:]}
    faults.extend(fields)
    return {**good, **fields}


@when("the queen gets a request with these faults", target_fixture="answer")
def to_queen(rbee: Topology, generated: int, faults: list[str], datatable: Sequence[Sequence[str]]) -> httpx.Response:
    return rbee.queen.call(routes.TASK_CREATE, faulty(datatable, faults, {"model": "demo", "prompt": "hello"}))


@when("the worker gets a request with these faults", target_fixture="answer")
def to_worker(
    rbee: Topology, worker: Row, generated: int, faults: list[str], datatable: Sequence[Sequence[str]]
) -> httpx.Response:
    return worker_api(rbee, worker).call(
        routes.WORKER_INFER, faulty(datatable, faults, {"id": "faulty", "prompt": "hello"})
    )


@when("the chat route gets a request with these faults", target_fixture="answer")
def to_chat(rbee: Topology, generated: int, faults: list[str], datatable: Sequence[Sequence[str]]) -> httpx.Response:
    good = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
    return rbee.queen_for_inference.call(routes.OPENAI_CHAT, faulty(datatable, faults, good))


@then("message and details name every one of these fields")
def all_named(answer: httpx.Response, faults: list[str]) -> None:
    error = error_of(answer)
    assert {row["field"].split(".")[0] for row in error["details"]["fields"]} == set(faults), error
    assert all(row["problem"] for row in error["details"]["fields"])
    assert [name for name in faults if name not in error["message"]] == []


@then("no work was begun")
def no_work(rbee: Topology, worker: Row, generated: int) -> None:
    now = stats(rbee, worker)
    assert (now["tokens_generated_total"], now["slots_available"]) == (generated, now["slots_total"])


def worker_api(rbee: Topology, worker: Row) -> Api:
    return rbee.api(worker["url"], worker["key"])


# --- V09


@given("a prompt of twice the tokens that the worker has per slot", target_fixture="long_prompt")
def long_prompt(rbee: Topology, worker: Row, generated: int) -> str:
    prompt = "bee " * int(worker["ctx"])
    while count(rbee, worker, prompt) < 2 * worker["ctx"]:
        prompt += prompt
    return prompt


def count(rbee: Topology, worker: Row, text: str) -> int:
    """Tokens of a text, as the worker counts them."""
    tokens = worker_api(rbee, worker).call(routes.WORKER_TOKENIZE, {"text": text}).json()["tokens"]
    return len(tokens)


@when("the worker is asked to go on with that prompt", target_fixture="answer")
def worker_goes_on(rbee: Topology, worker: Row, long_prompt: str) -> httpx.Response:
    body = {"id": "too-long", "prompt": long_prompt, "max_tokens": 5}
    return worker_api(rbee, worker).call(routes.WORKER_INFER, body)


@when("the chat route is asked to go on with that prompt", target_fixture="answer")
def chat_goes_on(rbee: Topology, long_prompt: str) -> httpx.Response:
    body = {"model": "demo", "messages": [{"role": "user", "content": long_prompt}], "max_tokens": 5}
    return rbee.queen_for_inference.call(routes.OPENAI_CHAT, body)


@when("the keeper is asked to go on with that prompt", target_fixture="finished")
def keeper_goes_on(rbee: Topology, long_prompt: str) -> Finished:
    return rbee.keeper("infer", "--model", "demo", "--max-tokens", "5", stdin=long_prompt)


@then("the message names the tokens of the prompt and of the context")
def numbers_named(rbee: Topology, worker: Row, long_prompt: str, answer: httpx.Response) -> None:
    check_numbers(rbee, worker, long_prompt, error_of(answer)["message"])


@then(parsers.parse('stderr names "{code}" and both numbers'))
def numbers_on_stderr(rbee: Topology, worker: Row, long_prompt: str, finished: Finished, code: str) -> None:
    line = next(line for line in finished.err.splitlines() if code in line)
    check_numbers(rbee, worker, long_prompt, line)


def check_numbers(rbee: Topology, worker: Row, prompt: str, sentence: str) -> None:
    numbers = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", sentence)}
    tokens = count(rbee, worker, prompt)
    assert worker["ctx"] in numbers, sentence
    # A chat template and the token that begins a text come on top of the prompt itself.
    assert any(tokens <= number <= tokens + 20 for number in numbers), f"{tokens} tokens: {sentence}"


@then("no token was generated")
def no_token(rbee: Topology, worker: Row, generated: int) -> None:
    assert stats(rbee, worker)["tokens_generated_total"] == generated
