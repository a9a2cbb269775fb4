"""Client of any rbee daemon: routes in, wire types or events out, failures as RbeeError. The only importer of httpx."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from httpx_sse import EventSource
from pydantic import BaseModel, ValidationError

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import LAST_EVENTS, EventType
from daemons.contracts.routes import REQUEST_ID, Route
from daemons.contracts.wire import as_json_dict
from daemons.kit.policy import Policy

REQUEST_ID_HEADER = REQUEST_ID.name

AnswerT = TypeVar("AnswerT", bound=BaseModel)
OnRetry = Callable[[int, int, float, RbeeError], None]
"""Told before each wait: try that failed (from 1), tries in all, seconds to wait, why."""
OnHeaders = Callable[[Mapping[str, str]], None]
"""Told the answer's headers (any case of a name finds them) before the first event of a stream."""


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: number (0: unnumbered), type, and its line of JSON, which a relay passes on as it is."""

    number: int
    type: str
    raw: str

    @property
    def data(self) -> dict[str, Any]:
        """The decoded JSON object. Raises ValueError when it is none."""
        decoded = json.loads(self.raw)
        if not isinstance(decoded, dict):
            raise ValueError(f"event {self.type} carries {type(decoded).__name__}, not an object")
        return decoded

    @property
    def is_last(self) -> bool:
        return self.type in LAST_EVENTS


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is being talked to: its address, our key for it, what to call it, and the code when it does not answer."""

    url: str
    key: str
    name: str
    unreachable: Code


class DaemonClient:
    """Talks to one daemon. Use as an async context manager; connections are kept alive."""

    def __init__(self, peer: Peer, policy: Policy, *, on_retry: OnRetry | None = None) -> None:
        self.peer = peer
        self._policy = policy
        self._on_retry = on_retry
        loopback = urlsplit(peer.url).hostname in {"127.0.0.1", "localhost", "::1"}
        self._http = httpx.AsyncClient(
            base_url=peer.url,
            headers={"Authorization": f"Bearer {peer.key}"},
            timeout=httpx.Timeout(policy.http_timeout_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            verify=ssl.create_default_context() if peer.url.startswith("https") else False,
            trust_env=not loopback,
        )

    async def __aenter__(self) -> "DaemonClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    def use_key(self, key: str) -> None:
        """Send another key from the next request on."""
        self.peer = replace(self.peer, key=key)
        self._http.headers["Authorization"] = f"Bearer {key}"

    async def call(
        self,
        route: Route,
        *,
        path: Mapping[str, str] | None = None,
        query: BaseModel | Mapping[str, Any] | None = None,
        body: BaseModel | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        tries: int | None = None,
    ) -> Any:
        """Decoded JSON of the answer (None for 204, text for a text route).

        A daemon that does not accept the connection is tried again as the policy says; a request that may have
        arrived is repeated only when its method is GET or DELETE. Raises the daemon's own RbeeError, or the peer's
        `unreachable` code with the number of tries.
        """
        request = self._request(route, path, query, body, headers, timeout_s)
        response = await self._send(request, tries or self._policy.http_tries, stream=False)
        if response.status_code >= 400:
            raise self._error_of(response)
        if response.status_code == 204 or not response.content:
            return None
        return self._decode(response)

    async def get(self, route: Route, answer: type[AnswerT], **arguments: Any) -> AnswerT:
        """As `call`, checked against the wire type `answer`. Raises HIVE_BAD_RESPONSE when it does not fit."""
        decoded = await self.call(route, **arguments)
        try:
            return answer.model_validate(decoded)
        except ValidationError as error:
            raise self._bad_answer(f"{error.error_count()} fields do not fit {answer.__name__}") from error

    @asynccontextmanager
    async def stream(
        self,
        route: Route,
        *,
        path: Mapping[str, str] | None = None,
        query: BaseModel | Mapping[str, Any] | None = None,
        body: BaseModel | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None = None,
        tries: int | None = None,
        on_headers: OnHeaders | None = None,
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Open an event stream. `silence_s`: longest time without a byte (None: no limit).

        Leaving the context closes the connection, which cancels attached work. Raises as `call` does.
        """
        request = self._request(route, path, query, body, {"Accept": "text/event-stream", **(headers or {})}, None)
        request.extensions["timeout"] = {**request.extensions["timeout"], "read": silence_s}
        response = await self._send(request, tries or self._policy.http_tries, stream=True)
        try:
            if response.status_code >= 400:
                raise await self._error_read_from(response)
            if on_headers is not None:
                on_headers(response.headers)
            yield self._events(response)
        finally:
            await response.aclose()

    async def _events(self, response: httpx.Response) -> AsyncIterator[Event]:
        try:
            async for sse in EventSource(response).aiter_sse():
                if sse.data:
                    yield Event(int(sse.id or 0), sse.event, sse.data)
        except httpx.ReadTimeout as error:
            raise RbeeError(Code.INFERENCE_STALLED, f"{self.peer.name} sent nothing within the stall limit") from error
        except httpx.HTTPError as error:
            raise RbeeError(Code.UPSTREAM_LOST, f"the stream of {self.peer.name} broke: {_reason(error)}") from error
        except ValueError as error:
            raise self._bad_answer(f"an event id that is not a number: {error}") from error

    def _request(
        self,
        route: Route,
        path: Mapping[str, str] | None,
        query: BaseModel | Mapping[str, Any] | None,
        body: BaseModel | Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        timeout_s: float | None,
    ) -> httpx.Request:
        fields = as_json_dict(query) if isinstance(query, BaseModel) else query or {}
        url = route.path.format(**{name: quote(value, safe="") for name, value in (path or {}).items()})
        content: bytes | None = None
        all_headers = dict(headers or {})
        if body is not None:
            text = body.model_dump_json(exclude_none=True) if isinstance(body, BaseModel) else json.dumps(dict(body))
            content = text.encode()
            all_headers["Content-Type"] = "application/json"
        return self._http.build_request(
            route.method,
            url,
            params={name: value for name, value in fields.items() if value is not None},
            content=content,
            headers=all_headers,
            timeout=timeout_s or self._policy.http_timeout_s,
        )

    async def _send(self, request: httpx.Request, tries: int, *, stream: bool) -> httpx.Response:
        waits = self._policy.http_retry.waits(self._policy.jitter)
        for attempt in range(1, tries + 1):
            try:
                return await self._http.send(request, stream=stream)
            except httpx.HTTPError as error:
                counted = f", try {attempt} of {tries}" if tries > 1 else ""
                failure = RbeeError(
                    self.peer.unreachable,
                    f"{self.peer.name} at {self.peer.url} does not answer ({_reason(error)}){counted}",
                    details={"url": self.peer.url, "tries": attempt},
                )
                repeatable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) or request.method != "POST"
                wait = next(waits, None)
                if attempt == tries or not repeatable or wait is None:
                    raise failure from error
                if self._on_retry is not None:
                    self._on_retry(attempt, tries, wait, failure)
                await asyncio.sleep(wait)
        raise AssertionError("unreachable: the last try returns or raises")

    def _decode(self, response: httpx.Response) -> Any:
        if not response.headers.get("content-type", "").startswith("application/json"):
            return response.text
        try:
            return response.json()
        except ValueError as error:
            raise self._bad_answer(f"not JSON: {error}") from error

    async def _error_read_from(self, response: httpx.Response) -> RbeeError:
        try:
            await response.aread()
        except httpx.HTTPError as error:
            return RbeeError(Code.UPSTREAM_LOST, f"the error answer of {self.peer.name} broke off: {_reason(error)}")
        return self._error_of(response)

    def _error_of(self, response: httpx.Response) -> RbeeError:
        try:
            return RbeeError.from_dict(response.json()["error"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._bad_answer(f"HTTP {response.status_code} without an error object")

    def _bad_answer(self, problem: str) -> RbeeError:
        return RbeeError(
            Code.HIVE_BAD_RESPONSE,
            f"{self.peer.name} at {self.peer.url} answered with something else than rbee's protocol: {problem}",
            details={"url": self.peer.url},
        )


async def until_end(events: AsyncIterator[Event], peer_name: str) -> AsyncIterator[Event]:
    """Pass events on up to the `done` or `error` that ends the stream.

    Raises RbeeError(UPSTREAM_LOST) when the stream closes without one.
    """
    async for event in events:
        yield event
        if event.is_last:
            return
    raise RbeeError(Code.UPSTREAM_LOST, f"the stream of {peer_name} closed without its end event")


def error_in(event: Event) -> RbeeError | None:
    """The failure that an `error` event carries, else None."""
    return RbeeError.from_dict(event.data) if event.type == EventType.ERROR else None


def _reason(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
