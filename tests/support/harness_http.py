"""The one HTTP client of the scenarios: speaks to addresses of the route table over real sockets, and records it."""

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx
from httpx_sse import EventSource

from daemons.contracts.events import LAST_EVENTS
from daemons.contracts.routes import Route
from tests.support.harness import Recorder

ANSWER_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """One server-sent event and when it arrived (monotonic seconds)."""

    number: int
    type: str
    data: dict[str, Any]
    at: float

    @property
    def is_last(self) -> bool:
        return self.type in LAST_EVENTS


class Api:
    """One daemon as a client with one key sees it. `url` and `key` as in the run file and the key file."""

    def __init__(self, url: str, key: str | None, recorder: Recorder) -> None:
        self.url = url
        self.key = key
        self._recorder = recorder
        # Loopback and plain HTTP only: what a client would load for TLS is not needed, and takes 20 ms each time.
        self._http = httpx.Client(base_url=url, timeout=ANSWER_WITHIN_S, trust_env=False, verify=False)

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        route: Route,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        id: str = "",
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send one request and read the whole answer, whatever its status."""
        return self.send(route.method, path_of(route, id), body, query=query, headers=headers)

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """As `call`, for addresses that may stand in no table."""
        request = self._request(method, path, body, query, headers)
        try:
            response = self._http.send(request)
        except httpx.HTTPError:
            self._recorder.saw_request(method, str(request.url), 0)
            raise
        self._recorder.saw_request(method, str(request.url), response.status_code)
        return response

    def stream(
        self,
        route: Route,
        body: Mapping[str, Any] | None = None,
        *,
        id: str = "",
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "EventReader":
        """Open an event stream; a thread reads it, so that arrival times are true. Close it, or use it as a context."""
        return EventReader(self._request(route.method, path_of(route, id), body, query, headers), self._recorder)

    def answers(self) -> bool:
        """Whether anything accepts connections at this address."""
        parts = httpx.URL(self.url)
        try:
            socket.create_connection((parts.host, parts.port or 80), timeout=1.0).close()
        except OSError:
            return False
        return True

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
    ) -> httpx.Request:
        all_headers = {"Authorization": f"Bearer {self.key}"} if self.key is not None else {}
        content = body if isinstance(body, bytes) or body is None else json.dumps(dict(body)).encode()
        if content is not None:
            all_headers["Content-Type"] = "application/json"
        return self._http.build_request(
            method, path, content=content, params=dict(query or {}), headers={**all_headers, **(headers or {})}
        )


class EventReader:
    """Reads one event stream on a thread. Leaving the context cuts the connection."""

    def __init__(self, request: httpx.Request, recorder: Recorder) -> None:
        self._http = httpx.Client(timeout=httpx.Timeout(ANSWER_WITHIN_S, read=120.0), trust_env=False, verify=False)
        self._changed = threading.Condition()
        self._events: list[TimedEvent] = []
        self._ended = False
        self._failure: Exception | None = None
        try:
            self._response = self._http.send(request, stream=True)
        except httpx.HTTPError:
            recorder.saw_request(request.method, str(request.url), 0)
            self._http.close()
            raise
        recorder.saw_request(request.method, str(request.url), self._response.status_code)
        self.status = self._response.status_code
        self.headers = self._response.headers
        self._socket: socket.socket = self._response.extensions["network_stream"].get_extra_info("socket")
        self._thread = threading.Thread(target=self._read, name="event-reader", daemon=True)
        self._thread.start()

    def __enter__(self) -> "EventReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    @property
    def events(self) -> list[TimedEvent]:
        """What came so far."""
        with self._changed:
            return list(self._events)

    @property
    def text(self) -> str:
        return text_of(self.events)

    def wait_for(
        self, wanted: Callable[[TimedEvent], bool], what: str, *, within_s: float = ANSWER_WITHIN_S
    ) -> TimedEvent:
        """The first event that `wanted` accepts. Raises AssertionError when the stream ends or time passes first."""
        deadline = time.monotonic() + within_s
        with self._changed:
            while True:
                found = next((event for event in self._events if wanted(event)), None)
                if found is not None:
                    return found
                self._wait_until(deadline, what)

    def wait_tokens(self, count: int, *, within_s: float = ANSWER_WITHIN_S) -> list[TimedEvent]:
        """The first `count` token events."""
        deadline = time.monotonic() + within_s
        with self._changed:
            while len(self._tokens()) < count:
                self._wait_until(deadline, f"{count} token events")
            return self._tokens()[:count]

    def wait_end(self, *, within_s: float = 60.0) -> list[TimedEvent]:
        """All events, once the daemon has closed the stream."""
        deadline = time.monotonic() + within_s
        with self._changed:
            while not self._ended:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise AssertionError(f"the stream did not end within {within_s:g} s; events: {self._summary()}")
            assert self.status == 200, self._summary()
            if self._failure is not None:
                raise AssertionError(f"the stream broke: {self._failure!r}; events: {self._summary()}")
            return list(self._events)

    def refusal(self) -> dict[str, Any]:
        """The error object of a stream that was refused with an HTTP status."""
        self._thread.join(ANSWER_WITHIN_S)
        assert self.status >= 400, f"not refused: {self._summary()}"
        return error_of(self._response)

    def cut(self) -> float:
        """Cut the connection as a vanished client does; returns when (monotonic seconds)."""
        at = time.monotonic()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the daemon closed it before
        self._thread.join(5.0)
        self._http.close()
        return at

    def _tokens(self) -> list[TimedEvent]:
        return [event for event in self._events if event.type == "token"]

    def _wait_until(self, deadline: float, what: str) -> None:
        """Wait for news (the lock is held). Raises AssertionError when there can be none, or not in time."""
        left = deadline - time.monotonic()
        if self._ended or left <= 0:
            why = f"the stream ended ({self._failure!r})" if self._ended else "the deadline passed"
            raise AssertionError(f"{what}: {why}; {self._summary()}")
        self._changed.wait(left)

    def _summary(self) -> str:
        shown = [f"{event.type} {json.dumps(event.data)[:300]}" for event in self._events[-12:]]
        refused = f" {self._response.text[:500]}" if self._ended and self.status != 200 else ""
        return f"HTTP {self.status}{refused}, {len(self._events)} events, the last ones {shown}"

    def _read(self) -> None:
        try:
            if self.status != 200:
                self._response.read()
                return
            for sse in EventSource(self._response).iter_sse():
                if sse.data:
                    self._add(TimedEvent(int(sse.id or 0), sse.event, json.loads(sse.data), time.monotonic()))
        except (httpx.HTTPError, OSError) as error:
            self._failure = error
        finally:
            self._response.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _add(self, event: TimedEvent) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()


def path_of(route: Route, id: str = "") -> str:
    """The route's path, with its id filled in."""
    return route.path.format(id=quote(id, safe="")) if "{id}" in route.path else route.path


def text_of(events: list[TimedEvent]) -> str:
    """The generated text of a list of events."""
    return "".join(event.data["token"] for event in events if event.type == "token")


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The object under ``error`` of a failed answer. Raises AssertionError when there is none."""
    body = response.json()
    assert isinstance(body, dict), body
    error = body.get("error")
    assert isinstance(error, dict), f"no error object in HTTP {response.status_code}: {body}"
    return error
