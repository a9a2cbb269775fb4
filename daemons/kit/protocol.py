"""HTTP/1.1 as it comes in: bounded in size and time; what is no request is answered as every other failure is.

On top of uvicorn's protocol, which has no limits of its own for what stands before a body.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.ids import new_request_id
from daemons.kit.middleware import MOST_HEAD_BYTES, error_body, error_headers, head_too_large, too_slow

_LINGER_S = 2.0
"""How long a client that was answered before it had sent its whole body may take to read the answer."""


class BoundedHttp(HttpToolsProtocol):
    """One connection. `read_s`, set by `bounded`: a head arrives within so many seconds, or the connection closes."""

    read_s = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self._head_bytes = 0
        self._head_open = False
        self._late: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_whole()
        self._let_go()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes, self._head_open = 0, True
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_is_whole()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # nothing else than HTTP is spoken here: the request is answered as any other
        except httptools.HttpParserError:
            # The parser itself takes no address that is as long as that.
            too_long = len(self.url) >= MOST_HEAD_BYTES
            broken = RbeeError(Code.INVALID_REQUEST, "this is not a request of HTTP/1.1")
            self._refuse(head_too_large(len(self.url)) if too_long else broken)
            return
        if self._head_open:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(head_too_large(self._head_bytes))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _let_go(self) -> None:
        """Nobody reads the answer that is being written; of several requests in a row uvicorn tells only the last."""
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def on_response_complete(self) -> None:
        unread = not self.pipeline and self.cycle.more_body
        super().on_response_complete()
        if unread:  # nobody reads the rest, and where it ends only the client knows
            self.loop.call_later(_LINGER_S, self.transport.close)

    def _expect_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.read_s, self._head_is_late)

    def _head_is_whole(self) -> None:
        self._head_open = False
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _head_is_late(self) -> None:
        if self._head_open:
            self._refuse(too_slow("the headers were", self.read_s))
        else:
            self.transport.close()  # connected, and never said a word

    def _refuse(self, error: RbeeError) -> None:
        """Answer and close. In the middle of another answer nothing can be said."""
        self._head_is_whole()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            body = error_body(error, new_request_id(), openai=False)
            headers = [*error_headers(error, body), (b"connection", b"close")]
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
            self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + body)
        else:
            self._let_go()
        self.pipeline.clear()
        self.transport.close()


def bounded(read_s: float) -> type[BoundedHttp]:
    """The protocol class with its time limit."""
    return type("BoundedHttp", (BoundedHttp,), {"read_s": read_s})
