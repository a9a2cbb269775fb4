"""Pure ASGI middlewares of every daemon: request id and errors, flood limit, authentication, body limit.

From the outside in: ``RequestScope`` > ``FloodLimit`` > ``Authentication`` > ``BodyLimit`` > routes.
"""

import asyncio
import json
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.ids import REQUEST_ID, new_request_id
from daemons.contracts.routes import Daemon, Role
from daemons.kit.auth import Keyring, fingerprint
from daemons.kit.logs import bind_request_id, get_logger
from daemons.kit.policy import Policy

_FLOOD_STATUSES = frozenset({400, 401, 403, 405, 408, 413, 431})
COME_BACK = frozenset({429, 503})
"""Statuses of answers that say when to come back (`Retry-After`)."""

_REMEMBERED_CLIENTS = 4096
MOST_HEAD_BYTES = 64 * 1024
"""Address and headers of one request. The longest that rbee itself sends are a few hundred bytes."""

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's `type` where it is more than whose fault it was."""


def openai_type(status: int) -> str:
    """The `type` that OpenAI's envelope has for an HTTP status from 400 on."""
    return _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def error_body(error: RbeeError, request_id: str, *, openai: bool) -> bytes:
    """The JSON of an error answer; OpenAI's envelope has `type` and `param` besides."""
    fields: dict[str, Any] = error.as_dict(request_id)
    if openai:
        fields = {**fields, "type": openai_type(error.status), "param": None}
    return json.dumps({"error": fields}).encode()


async def send_error(scope: Scope, send: Send, error: RbeeError) -> None:
    """Answer a request with an error."""
    body = error_body(error, scope.get("request_id", ""), openai=bool(scope.get("openai_envelope")))
    await send({"type": "http.response.start", "status": error.status, "headers": error_headers(error, body)})
    await send({"type": "http.response.body", "body": body})


def error_headers(error: RbeeError, body: bytes) -> list[tuple[bytes, bytes]]:
    """Headers of an error answer. Who is sent away for a while is always told for how long."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.retry_after is not None or error.status in COME_BACK:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after or 0))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.code is Code.METHOD_NOT_ALLOWED:
        headers.append((b"allow", ", ".join(error.details["allowed"]).encode()))
    return headers


def has_openai_envelope(daemon: Daemon, path: str) -> bool:
    """Whether failures of this address are told as OpenAI's clients expect them."""
    return daemon is Daemon.QUEEN and path.startswith("/v1/")


def head_too_large(size: int) -> RbeeError:
    return RbeeError(
        Code.HEADERS_TOO_LARGE,
        f"address and headers have at least {size} bytes, the limit is {MOST_HEAD_BYTES}",
        details={"bytes": size, "limit": MOST_HEAD_BYTES},
    )


def too_slow(what: str, limit_s: float) -> RbeeError:
    """What a request that does not come to its end is answered with."""
    return RbeeError(
        Code.REQUEST_TOO_SLOW,
        f"{what} not whole within {limit_s:g} s; the setting policy.request_read_s is that limit",
        details={"limit_s": limit_s},
    )


class RequestScope:
    """Gives each request its id (kept when a client sent a well-formed one), and answers failures as JSON."""

    def __init__(self, app: ASGIApp, daemon: Daemon) -> None:
        self._app = app
        self._daemon = daemon

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = sent if REQUEST_ID.fullmatch(sent) else new_request_id()
        scope["request_id"] = request_id
        scope["openai_envelope"] = has_openai_envelope(self._daemon, scope["path"])
        tokens = bind_request_id(request_id)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            _check_head(scope)
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server cuts what it still answers when the daemon ends; without this a client gets a bare 500.
            if started:
                raise
            await send_error(scope, send_with_id, RbeeError(Code.DRAINING, "the daemon ended before it answered this"))
        except Exception as error:
            failure = self._as_rbee_error(error, scope)
            if started:
                raise
            await send_error(scope, send_with_id, failure)
        finally:
            structlog.contextvars.reset_contextvars(**tokens)

    @staticmethod
    def _as_rbee_error(error: Exception, scope: Scope) -> RbeeError:
        if isinstance(error, RbeeError):
            if error.status >= 500:
                get_logger().warning(error.message, code=error.code.value, path=scope["path"])
            return error
        if isinstance(error, ClientDisconnect):
            return RbeeError(Code.CANCELLED, "the client left before its request was whole")
        get_logger().error("unexpected failure", path=scope["path"], exc_info=error)
        return RbeeError(Code.INTERNAL, "the daemon failed unexpectedly; its log has the trace under this request id")


def _check_head(scope: Scope) -> None:
    """Raises RbeeError(HEADERS_TOO_LARGE)."""
    parts = [scope["path"], scope["query_string"], *(part for header in scope["headers"] for part in header)]
    size = sum(map(len, parts))
    if size > MOST_HEAD_BYTES:
        raise head_too_large(size)


def bearer_of(scope: Scope) -> str:
    """The key that a request presents; empty without one."""
    scheme, _, key = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


class FloodLimit:
    """Refuses a client for a while after too many bad requests; others are served.

    A client is an address and a known key; all wrong keys of an address count as one client, so that guessing is slow.
    `spared` are roles whose holder is a queen, which passes on what many people get wrong.
    """

    def __init__(
        self,
        app: ASGIApp,
        keyring: Callable[[], Keyring],
        policy: Policy,
        *,
        spared: Collection[Role] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._spared = frozenset(spared)
        self._limit = policy.bad_requests
        self._window = policy.bad_requests_window_s
        self._clock = clock
        self._told_at = -math.inf
        self._bad: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = self._client_of(scope)
        if client is None:
            await self._app(scope, receive, send)
            return
        wait = self._wait_of(client)
        if wait > 0:
            raise RbeeError(
                Code.TOO_MANY_BAD_REQUESTS,
                f"{self._limit} bad requests within {self._window:g} s; try again in {wait:.1f} s",
                details={"limit": self._limit, "window_s": self._window, "retry_after_s": wait},
            )

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in _FLOOD_STATUSES:
                self._count(client)
            await send(message)

        try:
            await self._app(scope, receive, counting_send)
        except RbeeError as error:
            if error.status in _FLOOD_STATUSES:
                self._count(client)
            raise

    def _client_of(self, scope: Scope) -> tuple[str, str] | None:
        """Address and fingerprint of a known key; None for one that is spared."""
        key = bearer_of(scope)
        role = self._keyring().role_of(key) if key else None
        if role in self._spared:
            return None
        return (scope.get("client") or ("",))[0], fingerprint(key) if role is not None else ""

    def _wait_of(self, client: tuple[str, str]) -> float:
        """Seconds until this client's oldest counted fault leaves the window; 0 when it may go on."""
        faults = self._bad.get(client)
        if not faults:
            return 0.0
        now = self._clock()
        while faults and faults[0] <= now - self._window:
            faults.popleft()
        return faults[0] + self._window - now if len(faults) >= self._limit else 0.0

    def _count(self, client: tuple[str, str]) -> None:
        faults = self._bad.setdefault(client, deque(maxlen=self._limit))
        faults.append(self._clock())
        if len(faults) == self._limit and faults[-1] - self._told_at >= self._window:
            self._told_at = faults[-1]
            address, key = client
            get_logger().warning("refusing a client for a while", address=address, key=key, bad_requests=self._limit)
        self._bad.move_to_end(client)
        while len(self._bad) > _REMEMBERED_CLIENTS:
            self._bad.popitem(last=False)


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where a daemon's keys are to be found, for one who came without: a sentence, and a command (None: the usual)."""

    sentence: str
    hint: str | None = None


class Authentication:
    """Everything but the public paths needs a known bearer key; its role is put into the scope."""

    def __init__(
        self, app: ASGIApp, keyring: Callable[[], Keyring], public_paths: Collection[str], place: KeyPlace
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._public = frozenset(public_paths)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._public:
            scope["role"] = self._role_of(scope)
        await self._app(scope, receive, send)

    def _role_of(self, scope: Scope) -> Role:
        scope["bearer"] = bearer_of(scope)
        if not scope["bearer"]:
            raise self._refused("no key: send `Authorization: Bearer <key>`")
        role = self._keyring().role_of(scope["bearer"])
        if role is None:
            raise self._refused("the key is not known here")
        return role

    def _refused(self, why: str) -> RbeeError:
        return RbeeError(Code.INVALID_API_KEY, f"{why}; {self._place.sentence}", hint=self._place.hint)


class BodyLimit:
    """Refuses request bodies over the limit, by their declared length or as they come in, and those that never end."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self._app = app
        self._limit = policy.max_body_bytes
        self._read_s = policy.request_read_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limit:
            raise self._too_large(int(declared))
        received, whole = 0, False
        until = asyncio.get_running_loop().time() + self._read_s

        async def bounded_receive() -> Message:
            nonlocal received, whole
            message = await (receive() if whole else self._in_time(receive, until))
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if received > self._limit:
                raise self._too_large(received)
            return message

        await self._app(scope, bounded_receive, send)

    async def _in_time(self, receive: Receive, until: float) -> Message:
        """The next part of a body. Raises RbeeError(REQUEST_TOO_SLOW) when it is not there by then (loop time)."""
        try:
            async with asyncio.timeout_at(until):
                return await receive()
        except TimeoutError:
            raise too_slow("the body was", self._read_s) from None

    def _too_large(self, size: int) -> RbeeError:
        return RbeeError(
            Code.BODY_TOO_LARGE,
            f"the body has at least {size} bytes, the limit is {self._limit}",
            details={"bytes": size, "limit": self._limit},
        )
