"""Requests that nobody sends by mistake: a generator with a seed, and a client that sends bytes as they are."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from daemons.contracts.errors import ERROR_TABLE, Code
from daemons.contracts.routes import Daemon, Kind, Route, routes_of

AT_ONCE = 12
PATIENCE_S = 0.05
"""How long an answer to what may be no whole request is waited for."""

DOCUMENTED_5XX = frozenset({502, 503, 507})
FIVE_PARTS = frozenset({"code", "message", "details", "hint", "request_id"})

_NASTY = (
    "\x00",
    "\x1b[31mred\x1b[0m",
    "line\nbreak",
    "\r\nX-Injected: yes",
    "../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "'; DROP TABLE tasks; --",
    "$(touch /tmp/canary)",
    "`id`",
    "%00",
    "%2e%2e%2f",
    "\u202e",
    "\ufeff",
    "é" * 300,
    "𐍈" * 50,
    "\ud800",
    "a" * 5000,
    "",
    " ",
    "NaN",
    "-0",
    "1e999",
    "hf:../..",
    "hf:a/b/../c.gguf",
    "{id}",
    "w-00000000",
    "task-000000000000",
)
_NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, 10**308, -(10**400), 0.1, 1e308, -1e-308, 255, 65_536)
_METHODS = ("HEAD", "OPTIONS", "TRACE", "CONNECT", "PUT", "PATCH", "DELETE", "PROPFIND", "get", "FOO")
_PATHS = (
    "/../../etc/passwd",
    "//",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/v1/../v1/health",
    "/health/..;/v2/fleet",
    "/health%00",
    "/health?",
    "/%",
    "/%zz",
    "/\xff",
    "/v2/tasks/%0d%0aX-Injected:%20yes",
    "/v2/tasks/" + "%41" * 2000,
    "/v2//tasks",
    "http://evil.example/health",
    "*",
    "/v1/models/hf:org%2Frepo",
    "/v2/tasks/%1b%5b31m",
    "/v2/tasks/..%2f..%2fqueen.duckdb",
    "/health#x",
    "/HEALTH",
    "/v2/tasks/%F0%28",
)
_HEADERS = (
    "Last-Event-ID: -1",
    "Last-Event-ID: 9" + "9" * 400,
    "Last-Event-ID: \xb2",
    "Last-Event-ID: 1e3",
    "X-Request-Deadline: NaN",
    "X-Request-Deadline: -1e308",
    "X-Request-Deadline: 1_0",
    "X-Request-Deadline: soon",
    "Prefer: respond-async, wait=-1",
    "Prefer: " + "respond-async;" * 500,
    "Host: evil.example",
    "Host:",
    "Origin: https://evil.example",
    "X-Forwarded-For: 8.8.8.8",
    "X-Request-Id: a\x1b[31m",
    "X-Request-Id: " + "x" * 65,
    "Content-Type: text/html",
    "Content-Encoding: gzip",
    "Expect: 100-continue",
    "Expect: 200-maybe",
    "Connection: close",
    "Cookie: " + "c=1;" * 900,
    "Accept: application/x-nothing",
    "X: " + "h" * 9000,
    "Authorization: Basic YTpi",
    "Authorization: Bearer",
    "Authorization: Bearer " + "k" * 3000,
    "Authorization: Bearer \xff\xfe",
)
_BROKEN = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"\x00" * 64,
    b"GET / HTTP/1.1\nHost: x\n\n",
    b"GET / HTTP/1.1\r\n no: space\r\n\r\n",
    b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
    b"GET / HTTP/1.1\r\nA\x00B: c\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000,
    b"GET /" + b"a" * 100_000,
    b"GET / HTTP/1.1\r\nX: " + b"b" * 100_000,
    b"GET /health HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGVzdA==\r\n\r\n",
    b"GET /health HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
)
_BODIES = (
    b"[" * 100_000,
    b"{" * 1000,
    b'{"a":' * 500 + b"1" + b"}" * 500,
    b'{"prompt": NaN}',
    b'{"prompt": Infinity}',
    b"1" * 5000,
    b'{"model":"demo","model":"\\u0000"}',
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}x",
    b"'single'",
    b'{"a":1}{"b":2}',
    b"null",
    b"[]",
    b'"x"',
    b'{"\\ud800":1}',
    b'{"prompt":"\\udfff"}',
    b"\x1f\x8b\x08\x00",
    b"a=1&b=2",
    b"{" + b'"k":1,' * 20_000 + b'"k":2}',
    b"<xml/>",
)


@dataclass(slots=True)
class Tally:
    """What came of the requests: how often each status (0: closed or silent), and what must not be."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return self.statuses.total()

    def take(self, request: bytes, answer: bytes) -> None:
        """Judge one answer."""
        status, body = parsed(answer)
        self.statuses[status] += 1
        fault = fault_of(status, body) if not request.startswith(b"HEAD ") else None
        if fault is not None:
            self.faults.append(f"{fault}\n  asked: {request[:300]!r}\n  answered: {answer[:600]!r}")


def parsed(answer: bytes) -> tuple[int, bytes]:
    """Status and body of an answer; 0 when there is none. An interim answer is left out."""
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    parts = head.split(b" ", 2)
    return (int(parts[1]), body) if len(parts) > 1 and parts[1].isdigit() else (0, b"")


def fault_of(status: int, body: bytes) -> str | None:
    """What is wrong with an answer: a failure that is not documented, or one that is not told as all are."""
    if status < 400:
        return None
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status} without an error object"
    if not set(error) >= FIVE_PARTS:
        return f"HTTP {status} lacks {FIVE_PARTS - set(error)}"
    if error["code"] not in list(Code) or ERROR_TABLE[Code(error["code"])].status != status:
        return f"HTTP {status} with the code {error['code']}"
    if status >= 500 and status not in DOCUMENTED_5XX:
        return f"HTTP {status}"
    return None


class HostileRequests:
    """An endless, repeatable row of raw requests to one daemon."""

    def __init__(self, daemon: Daemon, key: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._key = key
        # An empty body ends a daemon here; elsewhere it only lacks its fields.
        self._routes = [route for route in routes_of(daemon) if not route.path.endswith("/shutdown")]
        self._ends = [route for route in routes_of(daemon) if route.path.endswith("/shutdown")]
        self._kinds: Sequence[Callable[[], bytes]] = (
            self._odd_body, self._odd_body, self._odd_fields, self._odd_fields, self._odd_fields, self._odd_query,
            self._odd_path, self._odd_header, self._odd_method, self._broken, self._pipelined, self._chunked,
            self._unfinished, self._binary, self._odd_shutdown,
        )  # fmt: skip

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield self._random.choice(self._kinds)()

    def _any(self, values: Sequence[Any]) -> Any:
        return self._random.choice(values)

    def _request(self, method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
        key = self._any((f"Bearer {self._key}",) * 12 + ("", "Bearer wrong", "bearer  x y"))
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *([f"Authorization: {key}"] if key else []), *headers]
        if body:
            lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body

    def _path(self, route: Route) -> str:
        return route.path.replace("{id}", quote(self._any(_NASTY).encode("utf-8", "surrogatepass"), safe="/:"))

    def _odd_body(self) -> bytes:
        route = self._any([route for route in self._routes if route.body])
        return self._request(route.method, self._path(route), self._any(_BODIES))

    def _odd_fields(self) -> bytes:
        return self._with_fields(self._any([route for route in self._routes if route.body]))

    def _with_fields(self, route: Route, **fixed: Any) -> bytes:
        """A body of the right names with values of any kind."""
        assert route.body is not None
        names = [*route.body.model_fields, "unknown", self._any(_NASTY)]
        fields = {
            name: self._value() for name in self._random.sample(names, self._random.randint(1, min(6, len(names))))
        }
        return self._request(route.method, self._path(route), json.dumps({**fields, **fixed}).encode())

    def _value(self, depth: int = 0) -> Any:
        kind = self._random.randrange(8 if depth < 3 else 5)
        if kind < 2:
            return self._any(_NASTY)
        if kind < 4:
            return self._any(_NUMBERS)
        if kind == 4:
            return self._any((None, True, False))
        inner = [self._value(depth + 1) for _ in range(self._random.randint(0, 4))]
        return inner if kind < 7 else {self._any(_NASTY): value for value in inner}

    def _odd_shutdown(self) -> bytes:
        """With a body that no daemon can take for a wish to end."""
        return self._with_fields(self._any(self._ends), drain_s=self._any(("soon", -1, [], 1e9)))

    def _odd_query(self) -> bytes:
        route = self._any([route for route in self._routes if route.method == "GET"])
        names = [*(route.query.model_fields if route.query else ()), "unknown", "a%00b"]
        pairs = [f"{self._any(names)}={quote(str(self._value()).encode('utf-8', 'replace'))}" for _ in range(3)]
        return self._request("GET", f"{self._path(route)}?{self._any(('&', ';', '&&')).join(pairs)}"[:30_000])

    def _odd_path(self) -> bytes:
        return self._request(self._any(("GET", "POST", "DELETE")), self._any(_PATHS))

    def _odd_header(self) -> bytes:
        route = self._any(self._routes)
        headers = self._random.sample(_HEADERS, self._random.randint(1, 4))
        body = b"{}" if route.body and self._random.random() < 0.5 else b""
        return self._request(route.method, self._path(route), body, *headers)

    def _odd_method(self) -> bytes:
        return self._request(self._any(_METHODS), self._path(self._any(self._routes + self._ends)))

    def _broken(self) -> bytes:
        return bytes(self._any(_BROKEN))

    def _pipelined(self) -> bytes:
        quick = [route for route in self._routes if route.method == "GET" and route.kind is Kind.JSON]
        several = [self._request("GET", self._path(self._any(quick))) for _ in range(self._random.randint(2, 5))]
        return b"".join([*several, self._any((b"", b"\x00garbage\r\n\r\n"))])

    def _chunked(self) -> bytes:
        route = self._any([route for route in self._routes if route.body])
        head = self._request(route.method, self._path(route), b"", "Transfer-Encoding: chunked")
        body = self._any(_BODIES)[:3000]
        parts = [body[at : at + 700] for at in range(0, len(body), 700)]
        sizes = self._any(("%x", "%X", "%04x", "%x;ext=1"))
        return head + b"".join((sizes % len(part)).encode() + b"\r\n" + part + b"\r\n" for part in parts) + b"0\r\n\r\n"

    def _unfinished(self) -> bytes:
        whole = self._odd_fields()
        return whole[: self._random.randrange(1, len(whole))]

    def _binary(self) -> bytes:
        return self._random.randbytes(self._random.randrange(1, 400))


async def send_all(host: str, port: int, requests: Iterator[bytes], count: int) -> Tally:
    """Send so many requests, each on a connection of its own, several at once."""
    tally = Tally()
    left = iter(range(count))

    async def sender() -> None:
        for _ in left:
            request = next(requests)
            tally.take(request, await exchange(host, port, request))

    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
    return tally


async def exchange(host: str, port: int, request: bytes) -> bytes:
    """The first answer to a row of bytes: whole, or of a stream its beginning; empty when none comes."""
    reader, writer = await asyncio.open_connection(host, port)
    answer = b""
    try:
        async with asyncio.timeout(PATIENCE_S if not _looks_whole(request) else 20.0):
            writer.write(request)
            await writer.drain()
            answer = await _first_answer(reader, has_body=not request.startswith(b"HEAD "))
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
        pass  # silence and a closed connection are answers, too
    finally:
        writer.transport.abort()
    return answer


def _looks_whole(request: bytes) -> bool:
    """Whether an answer is sure to come: a head, and as much behind it as it says."""
    head, ended, body = request.partition(b"\r\n\r\n")
    lengths = [line[15:].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    announced = int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() else 0
    return bool(ended) and len(body) >= announced and b"Authorization" in head


async def _first_answer(reader: asyncio.StreamReader, *, has_body: bool) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100"):
        return head + await _first_answer(reader, has_body=has_body)
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + (await reader.readexactly(int(lengths[0][15:])) if lengths and has_body else b"")
