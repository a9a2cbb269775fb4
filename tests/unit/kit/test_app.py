"""The application reaches every address of the tables, also those whose path goes on behind an id."""

from collections.abc import Mapping

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Scope

from daemons.contracts.routes import Daemon, Role, Route, routes_of
from daemons.kit.app import Handler, Result, build_app
from daemons.kit.auth import Keyring
from daemons.kit.policy import Policy


def handlers_that_name_themselves(daemon: Daemon) -> Mapping[Route, Handler]:
    """For each route a handler that answers with the route's name, whatever it is asked."""

    def handler(route: Route) -> Handler:
        async def answer(_request: Request, _body: object) -> Result:
            return PlainTextResponse(route.name)

        return answer

    return {route: handler(route) for route in routes_of(daemon)}


async def asked(daemon: Daemon, route: Route) -> str:
    """Text of the answer to a request for `route`, with an id where it has one."""
    app = build_app(
        daemon,
        handlers_that_name_themselves(daemon),
        keyring=lambda: Keyring({"key": route.role or Role.ADMIN}),
        policy=Policy(),
    )
    scope: Scope = {
        "type": "http",
        "method": route.method,
        "path": route.path.replace("{id}", "task-1"),
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer key")],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return b"".join(message.get("body", b"") for message in sent).decode()


@pytest.mark.parametrize("route", [r for d in Daemon for r in routes_of(d) if r.body is None], ids=lambda r: r.name)
async def test_each_address_reaches_its_own_handler(route: Route) -> None:
    assert await asked(route.daemon, route) == route.name
