"""Steps of features/300-authentication.feature: they walk the tables of routes."""

from collections.abc import Iterable, Mapping

import httpx
from pytest_bdd import parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.contracts.routes import Daemon, Role, Route, routes_of
from tests.support.harness_http import Api, error_of, path_of
from tests.support.topology import Topology

scenarios("300-authentication.feature")

Answers = Mapping[Route, httpx.Response]
DAEMONS = {"the queen": Daemon.QUEEN, "the hive": Daemon.HIVE, "the worker": Daemon.WORKER}
WRONG_KEY = "rbee-a-key-that-nobody-made"


def api_of(rbee: Topology, daemon: Daemon, key: str | None) -> Api:
    """One daemon of the topology, with the given key."""
    if daemon is Daemon.WORKER:
        return rbee.api(rbee.only_worker()["url"], key)
    return rbee.api(rbee.run_of(daemon.value).url, key)


def ask_all(api: Api, table: Iterable[Route]) -> dict[Route, httpx.Response]:
    """Every address asked once, without a body."""
    return {route: api.call(route, id="task-0123456789ab") for route in table}


@when(parsers.re(r"every address of (?P<daemon>.+) is asked without a key"), target_fixture="answers")
def ask_without_key(rbee: Topology, daemon: str) -> Answers:
    return ask_all(api_of(rbee, DAEMONS[daemon], None), routes_of(DAEMONS[daemon]))


@when(parsers.re(r"every address of (?P<daemon>.+) is asked with a wrong key"), target_fixture="answers")
def ask_with_wrong_key(rbee: Topology, daemon: str) -> Answers:
    return ask_all(api_of(rbee, DAEMONS[daemon], WRONG_KEY), routes_of(DAEMONS[daemon]))


@when(parsers.re(r"every address of (?P<daemon>.+) is asked with the key for inference"), target_fixture="answers")
def ask_with_inference_key(rbee: Topology, daemon: str) -> Answers:
    return ask_all(api_of(rbee, DAEMONS[daemon], rbee.key("infer")), routes_of(DAEMONS[daemon]))


@then(parsers.parse('all of them but health answered {status:d} with the code "{code}"'))
def all_but_health(answers: Answers, status: int, code: str) -> None:
    closed = {
        route: answer
        for route, answer in answers.items()
        if "health" not in route.path.rsplit("/", 1)[-1] or route.role
    }
    assert len(closed) >= 10
    check_refused(closed, status, code)


def check_refused(answers: Answers, status: int, code: str) -> None:
    wrong = {
        route.name: answer.status_code
        for route, answer in answers.items()
        if answer.status_code != status or error_of(answer)["code"] != code
    }
    assert wrong == {}


@then(parsers.parse("health answered {status:d}"))
def health_is_open(answers: Answers, status: int) -> None:
    opened = {route: answer for route, answer in answers.items() if route.role is None}
    assert {route.path.rsplit("/", 1)[-1] for route in opened} == {"health"}
    assert {answer.status_code for answer in opened.values()} == {status}


@then("an address that does not exist is answered 401 too")
def unknown_address(answers: Answers, rbee: Topology) -> None:
    daemon = next(iter(answers)).daemon
    answer = api_of(rbee, daemon, WRONG_KEY).send("GET", "/v9/there/is/nothing/here")
    assert (answer.status_code, error_of(answer)["code"]) == (401, "INVALID_API_KEY")


# --- S09


@when("every administrative address of the queen is asked with the key for inference", target_fixture="answers")
def ask_administrative(rbee: Topology) -> Answers:
    table = [route for route in routes_of(Daemon.QUEEN) if route.role is Role.ADMIN]
    return ask_all(api_of(rbee, Daemon.QUEEN, rbee.key("infer")), table)


@then(parsers.parse('all of them answered {status:d} with the code "{code}"'))
def all_refused(answers: Answers, status: int, code: str) -> None:
    assert len(answers) >= 10
    check_refused(answers, status, code)


@then("nothing was shut down by that")
def still_there(rbee: Topology) -> None:
    assert rbee.queen.call(routes.QUEEN_HEALTH).status_code == 200
    assert rbee.queen.call(routes.FLEET).json()["draining"] is False
    assert rbee.only_worker()["state"] == "idle"


@when("every address for inference is asked with the key for inference", target_fixture="answers")
def ask_for_inference(rbee: Topology) -> Answers:
    table = [route for route in routes_of(Daemon.QUEEN) if route.role is Role.INFER]
    return ask_all(api_of(rbee, Daemon.QUEEN, rbee.key("infer")), table)


@then("none of them answered 401 or 403")
def all_open(answers: Answers) -> None:
    assert len(answers) >= 6
    refused = {path_of(route): a.status_code for route, a in answers.items() if a.status_code in {401, 403}}
    assert refused == {}
    assert answers[routes.TASK_LIST].status_code == 200
    assert answers[routes.OPENAI_MODELS].status_code == 200
