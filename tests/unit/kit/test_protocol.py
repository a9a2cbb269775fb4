"""What comes in over real sockets and is no whole request, or a request in no time."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from daemons.contracts.routes import Daemon
from daemons.kit.middleware import MOST_HEAD_BYTES
from daemons.kit.policy import Policy
from tests.support.hostile_requests import exchange, fault_of, parsed
from tests.support.http_service import running
from tests.unit.kit.test_http import ADMIN, app_of

PATIENT = Policy(bad_requests=1000)
KEY = f"Host: x\r\nAuthorization: Bearer {ADMIN}\r\n"


async def ask(url: str, request: bytes | str) -> tuple[int, dict[str, Any]]:
    """Status and error object of the first answer to these bytes."""
    sent = request.encode("latin-1") if isinstance(request, str) else request
    parts = urlsplit(url)
    status, body = parsed(await exchange(parts.hostname or "", parts.port or 0, sent))
    assert fault_of(status, body) is None, body
    return status, json.loads(body)["error"] if status >= 400 else {}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x00\x05hello",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_as_every_failure_is(request_bytes: bytes) -> None:
    async with running(app_of(Daemon.WORKER, PATIENT)) as url:
        status, error = await ask(url, request_bytes)
    assert (status, error["code"]) == (400, "INVALID_REQUEST")
    assert error["request_id"].startswith("req-")


@pytest.mark.parametrize(
    "head",
    [
        f"GET /{'a' * MOST_HEAD_BYTES} HTTP/1.1\r\n{KEY}\r\n",
        f"GET /v1/stats HTTP/1.1\r\n{KEY}" + "X: y\r\n" * (MOST_HEAD_BYTES // 2) + "\r\n",
        f"GET /v1/stats HTTP/1.1\r\n{KEY}X: {'y' * MOST_HEAD_BYTES}",
    ],
    ids=["address", "many headers", "a header without an end"],
)
async def test_a_head_over_the_limit_is_refused(head: str) -> None:
    async with running(app_of(Daemon.WORKER, PATIENT)) as url:
        status, error = await ask(url, head)
    assert (status, error["code"]) == (431, "HEADERS_TOO_LARGE")
    assert error["details"]["limit"] == MOST_HEAD_BYTES


async def reads(url: str, sent: bytes) -> bytes:
    """Everything that comes until the daemon closes the connection."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 5.0)
    writer.close()
    return answer


async def test_a_head_that_does_not_end_is_not_waited_for() -> None:
    async with running(app_of(Daemon.WORKER, PATIENT), read_s=0.1) as url:
        answer = await reads(url, b"GET /health HTTP/1.1\r\nX: ")
        silent = await reads(url, b"")
    status, body = parsed(answer)
    assert (status, json.loads(body)["error"]["code"]) == (408, "REQUEST_TOO_SLOW")
    assert silent == b""


async def test_a_connection_that_is_kept_may_be_silent_between_two_requests() -> None:
    async with running(app_of(Daemon.WORKER, PATIENT), read_s=0.1) as url:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for _ in range(2):
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.2)  # twice the limit: what is tested is that nothing happens
        writer.close()


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_end_is_not_waited_for(framing: str) -> None:
    async with running(app_of(Daemon.WORKER, Policy(request_read_s=0.1))) as url:
        answer = await reads(url, f"POST /v1/tokenize HTTP/1.1\r\n{KEY}{framing}\r\n\r\n".encode())
    status, body = parsed(answer)
    assert (status, json.loads(body)["error"]["code"]) == (408, "REQUEST_TOO_SLOW")


async def test_who_only_announces_a_large_body_is_refused_without_being_asked_for_it() -> None:
    head = f"POST /v1/tokenize HTTP/1.1\r\n{KEY}Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    async with running(app_of(Daemon.WORKER, PATIENT)) as url:
        answer = await reads(url, head.encode())
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer


async def test_an_offer_to_speak_something_else_is_passed_over() -> None:
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGVzdA==\r\n"
    async with running(app_of(Daemon.WORKER, PATIENT)) as url:
        assert await ask(url, f"GET /v1/stats HTTP/1.1\r\n{KEY}{upgrade}\r\n") == (200, {})
        assert (await ask(url, f"GET /v1/stats HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n"))[0] == 401


async def test_garbage_behind_a_request_ends_the_connection_and_nothing_else() -> None:
    first = f"GET /v1/stats HTTP/1.1\r\n{KEY}\r\n"
    async with running(app_of(Daemon.WORKER, PATIENT)) as url:
        await reads(url, f"{first}{first}\x00garbage\r\n\r\n".encode())
        assert await ask(url, first) == (200, {})


async def test_an_address_in_a_header_makes_no_other_client() -> None:
    async with running(app_of(Daemon.QUEEN, Policy(bad_requests=3))) as url:
        statuses = [
            (await ask(url, f"GET /v2/tasks HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.0.0.{number}\r\n\r\n"))[0]
            for number in range(5)
        ]
    assert statuses == [401] * 3 + [429] * 2


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT"])
async def test_no_page_of_another_origin_is_let_in(method: str) -> None:
    """No answer has a header by which a browser would let a page read it."""
    head = f"{method} /v1/stats HTTP/1.1\r\n{KEY}Origin: https://evil.example\r\n\r\n"
    async with running(app_of(Daemon.WORKER, PATIENT)) as url:
        parts = urlsplit(url)
        answer = await exchange(parts.hostname or "", parts.port or 0, head.encode())
    assert answer.startswith(b"HTTP/1.1 405")
    assert b"access-control" not in answer.lower()
    assert b"allow: GET" in answer
