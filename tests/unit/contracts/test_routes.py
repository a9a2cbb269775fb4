"""The route table has no doubles, and every part of it can be used."""

import pytest

from daemons.contracts.ids import NODE_NAME, REQUEST_ID, RUN_ID, new_request_id, new_task_id, new_worker_id
from daemons.contracts.routes import ROUTES, Daemon, Kind, Role, Route, routes_of


def test_names_are_unique() -> None:
    names = [route.name for route in ROUTES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("daemon", list(Daemon))
def test_only_health_is_public(daemon: Daemon) -> None:
    public = {route.path for route in routes_of(daemon) if route.role is None}
    assert public <= {"/health", "/v1/health"}
    assert "/health" in public


@pytest.mark.parametrize("route", [r for r in ROUTES if r.role is Role.INFER], ids=lambda r: r.name)
def test_inference_keys_reach_only_inference(route: Route) -> None:
    assert route.daemon is Daemon.QUEEN
    assert route.path.startswith(("/v1/", "/v2/tasks"))


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_bodies_only_where_a_method_has_one(route: Route) -> None:
    assert (route.body is None) or route.method == "POST"
    assert (route.kind is Kind.EMPTY) == (route.status == 204)


def test_fresh_ids_have_the_accepted_form() -> None:
    assert RUN_ID.fullmatch(new_worker_id())
    assert RUN_ID.fullmatch(new_task_id())
    assert REQUEST_ID.fullmatch(new_request_id())
    assert new_task_id() != new_task_id()


@pytest.mark.parametrize(
    ("name", "ok"), [("local", True), ("gpu-1.lan", True), ("-x", False), ("A", False), ("", False)]
)
def test_node_names(name: str, ok: bool) -> None:
    assert bool(NODE_NAME.fullmatch(name)) is ok
