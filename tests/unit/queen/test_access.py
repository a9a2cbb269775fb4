"""Keys and roles over the whole route table, and the documents that describe it."""

from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import QUEEN_METRICS, QUEEN_OPENAPI, Daemon, Role, Route, routes_of
from daemons.kit.client import DaemonClient, Peer
from tests.support.queen_harness import FAST, queen_and_hive, until

ROUTES = routes_of(Daemon.QUEEN)


async def _status(client: DaemonClient, route: Route) -> RbeeError | None:
    try:
        async with client.stream(route, path={"id": "task-000000000000"}) as _:
            return None
    except RbeeError as error:
        return error


async def test_every_route_but_health_needs_a_key(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        peer = Peer(queen.url, "not-the-key-0123456789", "the queen", Code.QUEEN_UNREACHABLE)
        async with DaemonClient(peer, FAST) as stranger:
            for route in ROUTES:
                error = await _status(stranger, route)
                if route.role is None:
                    assert error is None, route.name
                else:
                    assert error is not None, route.name
                    assert error.code is Code.INVALID_API_KEY, route.name


async def test_an_inference_key_reaches_no_administrative_route(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        for route in ROUTES:
            if route.role is Role.ADMIN:
                error = await _status(queen.infer, route)
                assert error is not None, route.name
                assert error.code is Code.ROLE_FORBIDDEN, route.name


async def test_openapi_describes_every_route(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        document = await queen.admin.call(QUEEN_OPENAPI)
        assert document["openapi"] == "3.1.0"
        for route in ROUTES:
            operation = document["paths"][route.path][route.method.lower()]
            assert str(route.status) in operation["responses"]
            assert ("requestBody" in operation) == (route.body is not None)
        schemas = document["components"]["schemas"]
        assert "temperature" in schemas["TaskRequest"]["properties"]
        text = str(document)
        for name in (part.split("'")[0] for part in text.split("#/components/schemas/")[1:]):
            assert name in schemas


async def test_metrics_count_tasks_and_tell_the_state(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        await queen.run_task()
        with pytest.raises(RbeeError):
            await queen.run_task(node="mars")
        text = await queen.admin.call(QUEEN_METRICS)
        for line in (
            'rbee_tasks_ended_total{code="",state="completed"} 1.0',
            'rbee_tasks_refused_total{code="NODE_NOT_FOUND"} 1.0',
            "rbee_tokens_total 3.0",
            'rbee_workers{state="idle"} 1.0',
            'rbee_nodes{status="reachable"} 1.0',
            "rbee_queue_depth 0.0",
            "rbee_time_to_first_token_seconds_count 1.0",
            "rbee_inter_token_seconds_count 1.0",
            'rbee_device_memory_free_bytes{backend="cpu",device="0",node="local"}',
        ):
            assert line in text, line
