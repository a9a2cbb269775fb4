"""Keys and roles over the whole route table, and the documents that describe it."""

import json
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import (
    OPENAI_CHAT,
    OPENAI_COMPLETIONS,
    QUEEN_METRICS,
    QUEEN_OPENAPI,
    TASK_CREATE,
    WORKER_SHUTDOWN,
    Daemon,
    Role,
    Route,
    routes_of,
)
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


NASTY: tuple[Any, ...] = (None, 2**70, 1e308, "\ud800", "a\nb\x00", [{}])


@pytest.mark.parametrize(
    ("route", "valid"),
    [
        (TASK_CREATE, {"model": "demo", "prompt": "Hi", "max_tokens": 1}),
        (WORKER_SHUTDOWN, {"id": "w-99999999"}),
        (OPENAI_CHAT, {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}),
        (OPENAI_COMPLETIONS, {"model": "demo", "prompt": "Hi", "max_tokens": 1}),
    ],
    ids=lambda value: value.path if isinstance(value, Route) else "",
)
async def test_no_value_of_any_field_breaks_the_queen(tmp_path: Path, route: Route, valid: dict[str, Any]) -> None:
    """Each field with values of all sorts: answered, or refused with a reason; never a defect of ours."""
    policy = FAST.model_copy(update={"bad_requests": 1_000_000})
    async with queen_and_hive(tmp_path, policy=policy) as (queen, hive):
        await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        assert route.body is not None
        for name in route.body.model_fields:
            for value in NASTY:
                error = await _refusal(queen.admin, route, {**valid, name: value})
                assert error is None or error.status < 500, f"{name}={value!r}: {error}"


async def _refusal(client: DaemonClient, route: Route, body: dict[str, Any]) -> RbeeError | None:
    """The error of an answer, also of one that streams."""
    try:
        answer = await client.call(route, body=body)
    except RbeeError as error:
        return error
    last = answer.rstrip().rpartition("\n\n")[2] if isinstance(answer, str) else ""
    return RbeeError.from_dict(json.loads(last.partition("data: ")[2])) if "event: error" in last else None


@pytest.mark.parametrize("deadline", ["nan", "inf", "-inf", "1e300", "soon"])
async def test_a_deadline_is_a_time(tmp_path: Path, deadline: str) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        body = {"model": "demo", "prompt": "Hi", "max_tokens": 1}
        with pytest.raises(RbeeError) as caught:
            await queen.admin.call(TASK_CREATE, body=body, headers={"X-Request-Deadline": deadline})
        assert caught.value.code is Code.INVALID_REQUEST
        assert hive.spawn_requests == []
