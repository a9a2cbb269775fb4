"""Each daemon's document says what its table of routes says, no more and no less."""

import re
from typing import Any

import pytest

from daemons.contracts.errors import ERROR_TABLE, Code
from daemons.contracts.routes import ROUTES, Daemon, Kind, Role, Route, routes_of
from daemons.kit.openapi import openapi_document

every_route = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)


def operation_of(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = openapi_document(route.daemon)["paths"][route.path][route.method.lower()]
    return operation


def parameters(route: Route, place: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in operation_of(route)["parameters"] if one["in"] == place}


@pytest.mark.parametrize("daemon", list(Daemon))
def test_a_document_has_the_addresses_of_its_table(daemon: Daemon) -> None:
    document = openapi_document(daemon)
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == {(route.method, route.path) for route in routes_of(daemon)}
    assert document["openapi"] == "3.1.0"
    assert daemon.value in document["info"]["title"]
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("daemon", list(Daemon))
def test_every_reference_leads_somewhere(daemon: Daemon) -> None:
    document = openapi_document(daemon)
    assert set(re.findall(r"#/components/schemas/(\w+)", str(document))) <= set(document["components"]["schemas"])
    assert "$defs" not in str(document["paths"])


@pytest.mark.parametrize("daemon", list(Daemon))
def test_a_document_is_an_administrators(daemon: Daemon) -> None:
    (route,) = (route for route in routes_of(daemon) if route.path == "/openapi.json")
    assert route.role is Role.ADMIN


@every_route
def test_what_a_route_takes_is_told(route: Route) -> None:
    operation = operation_of(route)
    assert ("requestBody" in operation) == (route.body is not None)
    assert bool(operation["security"]) == (route.role is not None)
    assert set(parameters(route, "path")) == set(re.findall(r"{(\w+)}", route.path))
    assert set(parameters(route, "query")) == set(route.query.model_fields if route.query else ())
    assert set(parameters(route, "header")) == {"X-Request-Id", *(header.name for header in route.headers)}


@pytest.mark.parametrize("route", [route for route in ROUTES if route.query], ids=lambda route: route.name)
def test_a_query_parameter_is_told_as_it_is_written(route: Route) -> None:
    for one in parameters(route, "query").values():
        assert one["schema"]["type"] in {"string", "integer", "number", "boolean"}, one
        assert "null" not in str(one["schema"])


@every_route
def test_how_a_route_may_answer_is_told(route: Route) -> None:
    responses = operation_of(route)["responses"]
    assert str(route.status) in responses
    assert ("202" in responses) == (route.detached is not None or route.status == 202)
    told = {code for status, answer in responses.items() if int(status) >= 400 for code in codes_in(answer, status)}
    assert told == route.failures
    media = responses[str(route.status)].get("content", {})
    assert ("text/event-stream" in media) == (route.kind in {Kind.STREAM, Kind.EITHER})
    assert bool(media) == (route.kind is not Kind.EMPTY)


def codes_in(answer: dict[str, Any], status: str) -> set[Code]:
    """The codes of one failure; each has that status."""
    schema = answer["content"]["application/json"]["schema"]["allOf"][1]
    codes = {Code(name) for name in schema["properties"]["error"]["properties"]["code"]["enum"]}
    assert {ERROR_TABLE[code].status for code in codes} == {int(status)}
    return codes


@every_route
def test_who_is_to_come_back_is_told_when(route: Route) -> None:
    for status, answer in operation_of(route)["responses"].items():
        assert ("Retry-After" in answer.get("headers", {})) == (status in {"429", "503"})


def test_openais_addresses_fail_in_openais_envelope() -> None:
    responses = openapi_document(Daemon.QUEEN)["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert responses["400"]["content"]["application/json"]["schema"]["allOf"][0]["$ref"].endswith("/OpenAiError")
