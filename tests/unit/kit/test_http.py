"""Application, middlewares, server runner, event streams and client, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from daemons.contracts import routes as r
from daemons.contracts.errors import ERROR_TABLE, Code, RbeeError
from daemons.contracts.fleet import Health
from daemons.contracts.inference import InferenceRequest
from daemons.contracts.routes import Daemon, Role, Route, routes_of
from daemons.kit.app import Handler, Result, build_app
from daemons.kit.auth import Keyring
from daemons.kit.client import DaemonClient, Event, Peer, until_end
from daemons.kit.middleware import openai_type
from daemons.kit.policy import Policy
from daemons.kit.procs import bind_listening
from daemons.kit.server import check_bind
from daemons.kit.sse import SseResponse, encode_event
from tests.support.http_service import RecordingService, running

ADMIN, INFER = "admin-key-of-this-test", "infer-key-of-this-test"
QUICK = Policy(http_first_wait_s=0.01, http_timeout_s=2, bad_requests=5, bad_requests_window_s=1.5)


async def answer_health(_request: Request, _body: Any) -> Result:
    return Health(version="1.2.3")


def app_of(daemon: Daemon, policy: Policy = QUICK, **handlers: Handler) -> Any:
    """An application whose routes answer health, except those given by their constant's name."""
    table: dict[Route, Handler] = dict.fromkeys(routes_of(daemon), answer_health)
    table.update({getattr(r, name): handler for name, handler in handlers.items()})
    ring = Keyring({ADMIN: Role.ADMIN, INFER: Role.INFER})
    return build_app(daemon, table, keyring=lambda: ring, policy=policy)


def client_of(url: str, key: str = ADMIN, **options: Any) -> DaemonClient:
    return DaemonClient(Peer(url, key, "the test daemon", Code.HIVE_UNREACHABLE), QUICK, **options)


def raw(url: str, key: str | None = ADMIN) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=url, headers=headers, trust_env=False)


def test_a_route_without_a_handler_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="worker:GET /health"):
        build_app(Daemon.WORKER, {}, keyring=lambda: Keyring({}), policy=QUICK)


@pytest.mark.parametrize("daemon", list(Daemon))
async def test_every_route_but_health_needs_a_key(daemon: Daemon) -> None:
    async with running(app_of(daemon, Policy(bad_requests=1000))) as url, raw(url, None) as http:
        for route in routes_of(daemon):
            response = await http.request(route.method, route.path)
            assert response.status_code == (200 if route.role is None else 401), route.name
        response = await http.get("/no/such/path")
        assert (response.status_code, response.json()["error"]["code"]) == (401, "INVALID_API_KEY")


async def test_an_inference_key_reaches_no_administrative_route() -> None:
    async with running(app_of(Daemon.QUEEN, Policy(bad_requests=1000))) as url, raw(url, INFER) as http:
        for route in routes_of(Daemon.QUEEN):
            response = await http.request(route.method, route.path)
            assert (response.status_code == 403) == (route.role is Role.ADMIN), route.name


async def test_unknown_paths_and_methods_are_json() -> None:
    async with running(app_of(Daemon.WORKER)) as url, raw(url) as http:
        missing, wrong = await http.get("/nope"), await http.put("/v1/stats")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "ROUTE_NOT_FOUND")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert missing.json()["error"]["request_id"] == missing.headers["x-request-id"]


@pytest.mark.parametrize(("sent", "kept"), [("abc-1", True), ("bad id", False), ("x" * 65, False)])
async def test_a_well_formed_request_id_is_kept(sent: str, kept: bool) -> None:
    async with running(app_of(Daemon.WORKER)) as url, raw(url) as http:
        response = await http.get("/v1/stats", headers={"X-Request-Id": sent})
    assert (response.headers["x-request-id"] == sent) is kept


async def test_an_unexpected_failure_shows_no_inner_detail() -> None:
    async def broken(_request: Request, _body: Any) -> Result:
        raise KeyError("/secret/path")

    async with running(app_of(Daemon.WORKER, WORKER_STATS=broken)) as url, raw(url) as http:
        response = await http.get("/v1/stats")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "INTERNAL"
    assert "secret" not in response.text


async def test_openai_routes_use_openais_envelope() -> None:
    async with running(app_of(Daemon.QUEEN)) as url, raw(url) as http:
        error = (await http.post("/v1/chat/completions", json={"model": "demo"})).json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "INVALID_REQUEST"
    assert "messages" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "key", "status", "type"),
    [
        ("GET", "/v1/nope", INFER, 404, "invalid_request_error"),
        ("PUT", "/v1/models", INFER, 405, "invalid_request_error"),
        ("GET", "/v1/models", "wrong-key-of-this-test", 401, "authentication_error"),
    ],
)
async def test_the_type_in_openais_envelope_says_whose_fault_it_was(
    method: str, path: str, key: str, status: int, type: str
) -> None:
    async with running(app_of(Daemon.QUEEN)) as url, raw(url, key) as http:
        response = await http.request(method, path)
    assert (response.status_code, response.json()["error"]["type"]) == (status, type)


def test_each_status_has_openais_type() -> None:
    types = {code.value: openai_type(spec.status) for code, spec in ERROR_TABLE.items()}
    assert {types[name] for name in ("MODEL_NOT_FOUND", "PORT_IN_USE", "BODY_TOO_LARGE", "DEADLINE_EXCEEDED")} == {
        "invalid_request_error"
    }
    assert types["INVALID_API_KEY"] == "authentication_error"
    assert types["ROLE_FORBIDDEN"] == "permission_error"
    assert types["TOO_MANY_BAD_REQUESTS"] == "rate_limit_error"
    assert {types[name] for name in ("INTERNAL", "UPSTREAM_LOST", "QUEUE_FULL", "WORKER_OOM")} == {"server_error"}


@pytest.mark.parametrize(
    ("daemon", "names"),
    [
        (Daemon.QUEEN, ["keys/infer.key", "keys/admin.key", "RBEE_HOME", "RBEE_QUEEN_KEY"]),
        (Daemon.HIVE, ["keys/hive.key", "RBEE_HOME"]),
        (Daemon.WORKER, ["by its hive"]),
    ],
)
@pytest.mark.parametrize("key", [None, "wrong-key-of-this-test"])
async def test_a_caller_without_a_known_key_is_told_where_the_keys_are(
    daemon: Daemon, names: list[str], key: str | None
) -> None:
    async with running(app_of(daemon)) as url, raw(url, key) as http:
        error = (await http.get("/metrics")).json()["error"]
    assert error["code"] == "INVALID_API_KEY"
    assert [name for name in names if name not in error["message"]] == []
    assert "wrong-key" not in str(error)


async def test_a_body_over_the_limit_is_refused_declared_or_not() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    small = Policy(max_body_bytes=2048)
    async with running(app_of(Daemon.WORKER, small)) as url, raw(url) as http:
        declared = await http.post("/v1/tokenize", content=b"x" * 5000)
        streamed = await http.post("/v1/tokenize", content=endless())
    assert [response.status_code for response in (declared, streamed)] == [413, 413]
    assert declared.json()["error"]["details"]["limit"] == 2048


async def test_a_flood_of_bad_requests_is_stopped_for_that_client_only() -> None:
    async with running(app_of(Daemon.QUEEN)) as url, raw(url) as bad, raw(url, INFER) as good:
        statuses = [(await bad.post("/v2/tasks", json={})).status_code for _ in range(7)]
        assert statuses == [400] * 5 + [429] * 2
        assert (await bad.get("/health")).status_code == 429
        assert (await good.get("/v2/tasks")).status_code == 200
        await asyncio.sleep(QUICK.bad_requests_window_s + 0.05)  # the window itself is what is tested
        assert (await bad.get("/v2/tasks")).status_code == 200


async def test_guessing_keys_is_one_client_and_does_not_stop_the_others() -> None:
    async with running(app_of(Daemon.QUEEN, Policy(bad_requests=5, bad_requests_window_s=60))) as url, raw(url) as good:
        statuses = []
        for number in range(7):
            async with raw(url, f"guess-{number}") as guesser:
                statuses.append((await guesser.get("/v2/tasks")).status_code)
        assert statuses == [401] * 5 + [429] * 2
        assert (await good.get("/v2/tasks")).status_code == 200


@pytest.mark.parametrize(
    "content", ['{"text": "\\ud800"}', '{"text": ' + "[" * 65 + "]" * 65 + "}", '{"text": ' + "[" * 99_999]
)
async def test_what_cannot_be_written_again_is_refused_at_the_border(content: str) -> None:
    async with running(app_of(Daemon.WORKER)) as url, raw(url) as http:
        response = await http.post("/v1/tokenize", content=content)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "INVALID_REQUEST")


async def test_whole_surrogate_pairs_and_wide_bodies_pass() -> None:
    content = '{"text": "\\ud83d\\udc1d ' + "[{" * 500 + '"}'
    async with running(app_of(Daemon.WORKER)) as url, raw(url) as http:
        assert (await http.post("/v1/tokenize", content=content)).status_code == 200


async def test_client_returns_wire_types_and_raises_the_daemons_errors() -> None:
    async def refuse(_request: Request, _body: Any) -> Result:
        raise RbeeError(Code.QUEUE_FULL, "full", details={"retry_after_s": 3})

    async with running(app_of(Daemon.WORKER, WORKER_READY=refuse)) as url, client_of(url) as client:
        assert (await client.get(r.WORKER_ALIVE, Health)).version == "1.2.3"
        with pytest.raises(RbeeError) as caught:
            await client.call(r.WORKER_READY)
    assert caught.value.code is Code.QUEUE_FULL
    assert caught.value.retry_after == 3


async def test_client_refuses_an_answer_of_another_shape() -> None:
    async def odd(_request: Request, _body: Any) -> Result:
        return {"something": "else"}

    async with running(app_of(Daemon.WORKER, WORKER_ALIVE=odd)) as url, client_of(url) as client:
        with pytest.raises(RbeeError) as caught:
            await client.get(r.WORKER_ALIVE, Health)
    assert caught.value.code is Code.HIVE_BAD_RESPONSE


async def test_client_counts_its_tries_when_nobody_answers() -> None:
    with bind_listening("127.0.0.1", 0) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    retries: list[int] = []
    async with client_of(url, on_retry=lambda attempt, *_: retries.append(attempt)) as client:
        with pytest.raises(RbeeError, match="try 5 of 5") as caught:
            await client.call(r.WORKER_INFER, body={})
    assert caught.value.code is Code.HIVE_UNREACHABLE
    assert retries == [1, 2, 3, 4]


async def test_who_is_to_come_back_is_told_when() -> None:
    async def refuse(_request: Request, _body: Any) -> Result:
        raise RbeeError(Code.DRAINING, "stopping")

    async with running(app_of(Daemon.WORKER, WORKER_READY=refuse)) as url, raw(url) as http:
        assert (await http.get("/v1/ready")).headers["retry-after"] == "1"


async def test_a_queen_is_not_refused_for_what_its_clients_get_wrong() -> None:
    async with running(app_of(Daemon.HIVE)) as url, raw(url) as queen, raw(url, "guess") as stranger:
        assert {(await queen.post("/v1/workers/spawn", json={})).status_code for _ in range(12)} == {400}
        assert [(await stranger.get("/metrics")).status_code for _ in range(7)] == [401] * 5 + [429] * 2
        assert (await queen.get("/metrics")).status_code == 200


async def test_a_client_sends_another_key_from_the_next_request_on() -> None:
    async with running(app_of(Daemon.WORKER)) as url, client_of(url, "old") as client:
        with pytest.raises(RbeeError, match="not known"):
            await client.call(r.WORKER_STATS)
        client.use_key(ADMIN)
        assert (await client.get(r.WORKER_STATS, Health)).version == "1.2.3"
        assert client.peer.key == ADMIN


@pytest.mark.parametrize("content", ['{"text": NaN}', '{"text": "x", "add_special": Infinity}', '{"text": -Infinity}'])
async def test_what_is_no_number_of_json_is_refused(content: str) -> None:
    async with running(app_of(Daemon.WORKER)) as url, raw(url) as http:
        response = await http.post("/v1/tokenize", content=content)
    assert response.status_code == 400
    assert "is no number of JSON" in response.json()["error"]["message"]


@pytest.mark.parametrize(("path", "status"), [("a%1b%5b31m", 400), ("a%00", 400), ("x" * 513, 400), ("a%2Fb", 200)])
async def test_ids_in_addresses_are_printable_and_bounded(path: str, status: int) -> None:
    async with running(app_of(Daemon.QUEEN)) as url, raw(url) as http:
        response = await http.get(f"/v2/tasks/{path}")
    assert response.status_code == status
    assert "\x1b" not in response.text


async def test_a_query_is_validated_by_its_route() -> None:
    asked: list[Any] = []

    async def answer(_request: Request, query: Any) -> Result:
        asked.append(query)
        return Health(version="1.2.3")

    async with running(app_of(Daemon.QUEEN, LOGS=answer)) as url, raw(url) as http:
        statuses = [
            (await http.get(f"/v2/logs?{query}")).status_code
            for query in ("tail=5&follow=true", "tail=5&tail=6", "tail=x", "since_s=nan", "nonsense=1")
        ]
    assert statuses == [200, 400, 400, 400, 400]
    assert [(query.tail, query.follow) for query in asked] == [(5, True)]


def stream_of(*events: bytes, ended: asyncio.Event, wait: asyncio.Event | None = None) -> Handler:
    async def handler(_request: Request, _body: InferenceRequest) -> Result:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                for event in events:
                    yield event
                if wait is not None:
                    await wait.wait()
            finally:
                ended.set()

        return SseResponse(chunks(), ping_s=0.02)

    return handler


async def collect(client: DaemonClient, stop_after: int | None = None) -> list[Event]:
    found = []
    async with client.stream(r.WORKER_INFER, body={"id": "t", "prompt": "x"}, silence_s=1) as events:
        async for event in until_end(events, "the test daemon"):
            found.append(event)
            if len(found) == stop_after:
                break
    return found


async def test_a_stream_is_read_up_to_its_end_event() -> None:
    ended = asyncio.Event()
    infer = stream_of(
        encode_event("token", {"token": "né\n", "index": 0}, 1), encode_event("done", {"done": True}, 2), ended=ended
    )
    async with running(app_of(Daemon.WORKER, WORKER_INFER=infer)) as url, client_of(url) as client:
        events = await collect(client)
    assert [(event.number, event.type) for event in events] == [(1, "token"), (2, "done")]
    assert events[0].data == {"token": "né\n", "index": 0}


async def test_a_stream_without_its_end_is_a_lost_upstream() -> None:
    infer = stream_of(encode_event("token", {"token": "a", "index": 0}), ended=asyncio.Event())
    async with running(app_of(Daemon.WORKER, WORKER_INFER=infer)) as url, client_of(url) as client:
        with pytest.raises(RbeeError) as caught:
            await collect(client)
    assert caught.value.code is Code.UPSTREAM_LOST


async def test_a_reader_that_leaves_cancels_the_stream_at_once() -> None:
    ended, never = asyncio.Event(), asyncio.Event()
    infer = stream_of(encode_event("token", {"token": "a", "index": 0}), ended=ended, wait=never)
    async with running(app_of(Daemon.WORKER, WORKER_INFER=infer)) as url, client_of(url) as client:
        await collect(client, stop_after=1)
        await asyncio.wait_for(ended.wait(), 1)


async def test_silence_beyond_the_limit_is_a_stall_unless_pings_come() -> None:
    never = asyncio.Event()
    infer = stream_of(encode_event("token", {"token": "a", "index": 0}), ended=asyncio.Event(), wait=never)
    async with running(app_of(Daemon.WORKER, WORKER_INFER=infer)) as url, client_of(url) as client:
        with pytest.raises(TimeoutError):
            # Pings each 20 ms keep the connection from counting as silent.
            await asyncio.wait_for(collect(client), 0.3)


async def test_drain_order() -> None:
    service = RecordingService()
    service.idle.clear()
    asyncio.get_running_loop().call_later(0.05, service.idle.set)
    async with running(app_of(Daemon.WORKER), service) as url, raw(url) as http:
        await http.get("/health")
    assert service.calls == ["start", "begin_drain", "drained", "close"]


async def test_a_request_that_is_cut_when_the_daemon_ends_is_told_so() -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def hang(_request: Request, _body: Any) -> Result:
        begun.set()
        await never.wait()
        return None

    service = RecordingService()
    async with running(app_of(Daemon.WORKER, WORKER_STATS=hang), service) as url, raw(url) as http:
        asking = asyncio.create_task(http.get(r.WORKER_STATS.path))
        await begun.wait()
        service.stop()
        answer = await asking
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "DRAINING"


async def test_drain_is_cut_at_its_limit() -> None:
    service = RecordingService()
    service.idle.clear()
    async with running(app_of(Daemon.WORKER), service, drain_s=0.05) as url, raw(url) as http:
        await http.get("/health")
    assert service.calls == ["start", "begin_drain", "close"]


@pytest.mark.parametrize(("host", "secured", "ok"), [("127.0.0.1", False, True), ("0.0.0.0", False, False)])
def test_other_machines_need_tls(host: str, secured: bool, ok: bool) -> None:
    if ok:
        check_bind(host, secured=secured)
    else:
        with pytest.raises(RbeeError):
            check_bind(host, secured=secured)


def test_events_are_one_line_of_json() -> None:
    encoded = encode_event("token", {"token": "a\nb\r", "index": 0}, 7)
    head, event, data = encoded.decode().rstrip("\n").split("\n")
    assert (head, event) == ("id: 7", "event: token")
    assert json.loads(data.removeprefix("data: ")) == {"token": "a\nb\r", "index": 0}
