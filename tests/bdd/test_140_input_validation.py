"""Steps of features/140-input-validation.feature."""

import json
import os
import re
import shlex
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.contracts.routes import Role, Route, routes_of
from tests.bdd.addressing import DAEMONS, Answers, api_of
from tests.bdd.conftest import Row, stats
from tests.support.harness import eventually
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


# --- V03, V04


CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")
EVIL = ("bad\nname", "bad\x1b[31mname", "bad\x00name", "bad\x9b31mname")
NAMES = {"model", "model_ref", "node", "id", "name", "url"}
GOOD: dict[str, Any] = {"prompt": "hello", "text": "hello", "tokens": [1], "input": ["hello"]}


def names_of(route: Route) -> list[tuple[str, str]]:
    """(where, field) of every name that a route takes."""
    body = [("body", name) for name in route.body.model_fields if name in NAMES] if route.body else []
    query = [("query", name) for name in route.query.model_fields if name in NAMES | {"worker"}] if route.query else []
    return [*body, *query, *([("path", "id")] if "{id}" in route.path else [])]


def ask_with_name(api: Api, route: Route, where: str, field: str, evil: str) -> httpx.Response:
    if where == "path":
        return api.call(route, id=evil)
    if where == "query":
        return api.call(route, query={field: evil})
    assert route.body is not None
    good = {name: value for name, value in GOOD.items() if name in route.body.model_fields}
    return api.call(route, {**good, field: evil})


@when(parsers.re(r"every name that (?P<daemon>.+) takes is given with .+"), target_fixture="answers")
def evil_names(rbee: Topology, daemon: str) -> Answers:
    api = api_of(rbee, daemon)
    asked = [(route, *name) for route in routes_of(DAEMONS[daemon]) for name in names_of(route)]
    asked = [one for one in asked if one[0].role is not Role.WORKER]  # its key is the worker's own
    assert len(asked) >= 2
    return [ask_with_name(api, *one, evil) for one in asked for evil in EVIL]


@then("each of these requests is answered 400 or 404, and its sentence has no control character")
def refused_clean(answers: Answers) -> None:
    assert answers
    for answer in answers:
        assert answer.status_code in {400, 404}, f"{answer.request.url} {answer.text}"
        error = error_of(answer)
        assert not CONTROL.search(error["message"] + error["hint"]), error


@then("no log of this rbee holds a control character")
def clean_logs(rbee: Topology) -> None:
    logs = [path for path in rbee.home.glob("logs/*.log") if path.stat().st_size]
    assert len(logs) >= 3
    for path in logs:
        assert not CONTROL.search(path.read_text(encoding="utf-8")), path


@when(
    "a person names models, nodes, workers and tasks with a newline and an escape sequence", target_fixture="commands"
)
def evil_commands(rbee: Topology) -> list[Finished]:
    evil = "bad\x1b[31m\nname"
    return [
        rbee.keeper(*line)
        for line in (
            ("infer", "--model", evil, "--prompt", "x"),
            ("infer", "--model", "demo", "--node", evil, "--prompt", "x"),
            ("workers", "health", "--node", evil),
            ("workers", "shutdown", "--id", evil),
            ("tasks", "show", evil),
            ("logs", "--worker", evil),
        )
    ]


@then("each of these commands fails, and neither of its outputs has a control character")
def commands_clean(commands: list[Finished]) -> None:
    for finished in commands:
        assert finished.code in {1, 2}, str(finished)
        assert not CONTROL.search(finished.out + finished.err), repr(finished.err)
        assert finished.err.count("error") >= 1, str(finished)


@given("a pipe outside of the model folder, and a link to it inside", target_fixture="pipe")
def pipe_outside(rbee: Topology) -> Path:
    pipe = rbee.root / "outside.gguf"
    os.mkfifo(pipe)
    folder = rbee.home / "models"
    folder.mkdir(exist_ok=True)
    (folder / "inside.gguf").symlink_to(pipe)
    return pipe


@when("queen and hive are asked for models by paths that lead to that pipe", target_fixture="answers")
def path_tricks(rbee: Topology, pipe: Path) -> Answers:
    models = rbee.home / "models"
    references = [
        f"file://{pipe}", f"file://{models}/inside.gguf", f"file://{models}/../../outside.gguf", f"file:///{pipe}",
        f"file://{models}/./inside.gguf", f"file://{models}//inside.gguf", "hf:org/repo/../../outside.gguf", str(pipe),
        f"file://{models}/%2e%2e/%2e%2e/outside.gguf", "../outside.gguf", f"file://{models}/inside.gguf/",
    ]  # fmt: skip
    spawned = [rbee.hive.call(routes.HIVE_SPAWN, {"model_ref": ref}) for ref in references]
    chat = {"messages": [{"role": "user", "content": "x"}]}
    return [*spawned, *(rbee.queen.call(routes.OPENAI_CHAT, {"model": ref, **chat}) for ref in references)]


@then(parsers.parse('each of these requests is refused with "{one}" or "{other}"'))
def refused_with(answers: Answers, one: str, other: str) -> None:
    codes = [error_of(answer)["code"] for answer in answers]
    # Percent signs mean themselves in a file name, so that this one leads nowhere.
    assert set(codes) <= {one, other, "MODEL_NOT_FOUND"}, codes
    assert codes.count("MODEL_NOT_FOUND") <= 2
    assert codes.count(one) >= 4


@then("nobody has opened that pipe")
def pipe_unopened(pipe: Path) -> None:
    """Who opens a pipe to read it waits for a writer, and one that comes finds it there."""
    with pytest.raises(OSError, match="No such device"):
        os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # this look sees a reader where there is one
    os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    os.close(reader)


@when("tasks, workers and logs are asked for by ids that are paths", target_fixture="answers")
def path_ids(rbee: Topology) -> Answers:
    found: Answers = []
    for id in ("../outside.gguf", "/etc/passwd", "..", "w-1/../../outside", f"{rbee.root}/outside.gguf", "w-*"):
        found += [
            rbee.queen.call(routes.TASK_SHOW, id=id),
            rbee.queen.call(routes.WORKER_SHUTDOWN, {"id": id}),
            rbee.queen.call(routes.LOGS, query={"worker": id}),
            rbee.hive.call(routes.HIVE_LOGS, query={"worker": id}),
            rbee.hive.call(routes.HIVE_WORKER_SHUTDOWN, {"id": id}),
            rbee.hive.call(routes.HIVE_WORKER_EXITS, query={"id": id}),
        ]
    return found


# --- V06

SQL = "file:///x'; DROP TABLE tasks; DELETE FROM narration; --.gguf"


@when(parsers.re("a detached task names a model with SQL in it, .+"), target_fixture="sql_task")
def sql_names(rbee: Topology) -> str:
    headers = {"Prefer": "respond-async"}
    taken = rbee.queen.call(routes.TASK_CREATE, {"model": SQL, "prompt": "x"}, headers=headers)
    assert taken.status_code == 202, taken.text
    for id in ("task-1' OR '1'='1", "'; DROP TABLE tasks; --"):
        assert rbee.queen.call(routes.TASK_SHOW, id=id).status_code == 404
        assert rbee.queen.call(routes.TASK_CANCEL, id=id).status_code == 404
        assert rbee.hive.call(routes.HIVE_WORKER_EXITS, query={"id": id}).status_code == 404
    assert rbee.queen.call(routes.TASK_LIST, query={"state": "queued' OR 1=1"}).status_code == 400
    return str(taken.json()["id"])


@then("that task is listed with its model as it was written, and so it is after a restart of the queen")
def sql_is_text(rbee: Topology, sql_task: str) -> None:
    def look() -> Row | None:
        row: Row = rbee.queen.call(routes.TASK_SHOW, id=sql_task).json()
        return row if row["state"] == "failed" else None

    assert eventually(look, "the task failed")["model"] == SQL
    rbee.succeed("queen", "stop")
    rbee.start_queen()
    rows = rbee.queen.call(routes.TASK_LIST).json()["tasks"]
    assert [row["model"] for row in rows if row["id"] == sql_task] == [SQL]


@then("all tables of the queen are there")
def tables_are_there(rbee: Topology) -> None:
    rbee.succeed("queen", "stop")
    with duckdb.connect(str(rbee.home / "queen.duckdb"), read_only=True) as database:
        tables = {row[0] for row in database.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        told = database.execute("SELECT count(*) FROM narration").fetchone()
    assert {"tasks", "task_texts", "narration", "telemetry", "crashes"} <= tables
    assert told is not None
    assert told[0] > 0
