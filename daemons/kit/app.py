"""From the route table and a handler for each route to an ASGI application."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import Daemon, Role, Route, routes_of
from daemons.contracts.wire import parse_request
from daemons.kit.auth import ADMIN_KEY, HIVE_KEY, INFER_KEY, Keyring, may
from daemons.kit.middleware import Authentication, BodyLimit, FloodLimit, KeyPlace, RequestScope
from daemons.kit.policy import Policy

DEEPEST_JSON = 64
"""Levels of nesting that a request body may have."""

LONGEST_ID = 512
"""Characters of an id in an address: a model's reference is the longest."""

_HOME = "its home folder (RBEE_HOME, by default ~/.rbee)"
_SHOW = 'cat "${{RBEE_HOME:-$HOME/.rbee}}/keys/{name}.key"'
KEY_PLACES: Mapping[Daemon, KeyPlace] = {
    Daemon.QUEEN: KeyPlace(
        f"the queen's keys are keys/{INFER_KEY}.key and keys/{ADMIN_KEY}.key in {_HOME}; "
        "rbee sends another one from the setting queen.key or RBEE_QUEEN_KEY",
        _SHOW.format(name=INFER_KEY),
    ),
    Daemon.HIVE: KeyPlace(f"the hive's key is keys/{HIVE_KEY}.key in {_HOME}", _SHOW.format(name=HIVE_KEY)),
    Daemon.WORKER: KeyPlace("a worker's key is made by its hive, which tells it to the queen only"),
}

Result = BaseModel | Mapping[str, Any] | Response | ASGIApp | None
Handler = Callable[[Request, Any], Awaitable[Result]]
"""Gets the request and its validated body or query (None without one). A wire object becomes JSON, None 204."""


def build_app(
    daemon: Daemon, handlers: Mapping[Route, Handler], *, keyring: Callable[[], Keyring], policy: Policy
) -> ASGIApp:
    """The application of one daemon. Every route of the table needs a handler; a missing one is a programming error."""
    table = routes_of(daemon)
    missing = [route.name for route in table if route not in handlers]
    if missing:
        raise ValueError(f"routes without a handler: {', '.join(missing)}")
    by_path: dict[str, dict[str, _Endpoint]] = {}
    for route in table:
        by_path.setdefault(route.path, {})[route.method] = _Endpoint(route, handlers[route])
    # An id at the end takes the rest of the path, so a longer path with something behind the id is looked at first.
    paths = sorted(by_path, key=lambda path: path.endswith("{id}"))
    # A bare Router: the Starlette class would answer failures itself, as plain text.
    app: ASGIApp = Router(
        [StarletteRoute(_starlette_path(path), _Methods(by_path[path])) for path in paths],
        redirect_slashes=False,
        default=_not_found,
    )
    app = BodyLimit(app, policy)
    app = Authentication(app, keyring, {route.path for route in table if route.role is None}, KEY_PLACES[daemon])
    app = FloodLimit(app, keyring, policy, spared=() if daemon is Daemon.QUEEN else (Role.ADMIN,))
    return RequestScope(app, daemon)


def _starlette_path(path: str) -> str:
    """Ids may hold slashes (models of a hub), so a parameter at the end takes the rest of the path."""
    return path.removesuffix("{id}") + "{id:path}" if path.endswith("{id}") else path


class _Methods:
    """ASGI endpoint of one path: picks the route by method."""

    def __init__(self, endpoints: Mapping[str, "_Endpoint"]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            allowed = ", ".join(self._endpoints)
            raise RbeeError(
                Code.METHOD_NOT_ALLOWED,
                f"{scope['path']!r} takes {allowed}, not {scope['method']}",
                details={"allowed": list(self._endpoints)},
            )
        await endpoint(scope, receive, send)


class _Endpoint:
    """ASGI endpoint of one route: role, body, handler, answer. A class, so that Starlette adds nothing around it."""

    def __init__(self, route: Route, handler: Handler) -> None:
        self._route = route
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_role(scope)
        request = Request(scope, receive, send)
        result = await self._handler(request, await self._validated(request))
        await self._as_response(result)(scope, receive, send)

    async def _validated(self, request: Request) -> Any:
        """Body or query as the route's type. Raises RbeeError(INVALID_REQUEST)."""
        _check_id(request.path_params.get("id", ""))
        if self._route.body is not None:
            return parse_request(self._route.body, await read_json(request))
        if self._route.query is not None:
            return parse_request(self._route.query, _single_values(request))
        return None

    def _check_role(self, scope: Scope) -> None:
        needed = self._route.role
        role: Role | None = scope.get("role")
        if needed is not None and (role is None or not may(role, needed)):
            raise RbeeError(
                Code.ROLE_FORBIDDEN,
                f"{self._route.method} {self._route.path} needs a key with the role {needed.value}, "
                f"this key has {role.value if role else 'none'}",
                details={"needed": needed.value},
            )

    def _as_response(self, result: Result) -> ASGIApp:
        if result is None:
            return Response(status_code=204)
        if isinstance(result, BaseModel):
            return Response(
                result.model_dump_json(exclude_none=True),
                status_code=self._route.status,
                media_type="application/json",
            )
        if isinstance(result, Mapping):
            return JSONResponse(dict(result), status_code=self._route.status)
        return result


async def read_json(request: Request) -> Any:
    """Decoded request body; an empty body counts as an empty object.

    Raises RbeeError(INVALID_REQUEST) also for what could not be written as JSON again, further down the line: half a
    surrogate pair, and nesting deeper than `DEEPEST_JSON`.
    """
    raw = await request.body()
    try:
        decoded = json.loads(raw, parse_constant=_no_number) if raw else {}
        if b"\\ud" in raw or b"\\uD" in raw:
            json.dumps(decoded, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RbeeError(Code.INVALID_REQUEST, f"the body is not JSON: {error}") from None
    if raw.count(b"[") + raw.count(b"{") > DEEPEST_JSON and _deeper_than(decoded, DEEPEST_JSON):
        raise RbeeError(Code.INVALID_REQUEST, f"the body is nested deeper than {DEEPEST_JSON} levels")
    return decoded


def _no_number(name: str) -> NoReturn:
    """RFC 8259 knows no NaN and no Infinity; Python's reader does."""
    raise ValueError(f"{name} is no number of JSON")


def _deeper_than(decoded: Any, limit: int) -> bool:
    """Whether lists and objects are nested in more than `limit` levels."""
    level = [decoded]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _check_id(text: str) -> None:
    """Raises RbeeError(INVALID_REQUEST) for what may be said neither to a terminal nor to a database."""
    if not text.isprintable() or len(text) > LONGEST_ID:
        raise RbeeError(
            Code.INVALID_REQUEST,
            f"an id has at most {LONGEST_ID} printable characters, given are {len(text)}: {text[:40]!a}",
        )


def _single_values(request: Request) -> dict[str, str]:
    """The query parameters. Raises RbeeError(INVALID_REQUEST) for one that is given twice: which one would count?"""
    given = request.query_params.multi_items()
    values = dict(given)
    if len(values) < len(given):
        raise RbeeError(Code.INVALID_REQUEST, "a query parameter is given more than once")
    return values


def metrics_response(registry: CollectorRegistry) -> Response:
    """Prometheus text of a registry."""
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def _not_found(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise RbeeError(Code.ROUTE_NOT_FOUND, f"no route {scope['method']} {scope['path']!r}")
