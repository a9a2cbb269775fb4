"""Server-sent events, written: encoding, and a response that notices at once when its reader is gone.

Format: WHATWG HTML, section 9.2 (event streams). Data is always one line of JSON.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

PING = b": ping\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def encode_event(event: str, data: BaseModel | Mapping[str, Any], number: int | None = None) -> bytes:
    """One event as bytes: ``id`` when numbered, ``event``, one ``data`` line of JSON."""
    text = data.model_dump_json(exclude_none=True) if isinstance(data, BaseModel) else json.dumps(dict(data))
    return encode_raw(event, text, number)


def encode_raw(event: str, text: str, number: int | None = None) -> bytes:
    """As `encode_event`, from data that is one line of JSON already."""
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {event}\ndata: {text}\n\n".encode()


class SseResponse:
    """ASGI response that sends chunks of whole events as they come.

    A reader that closes its connection cancels `chunks` (its ``finally`` blocks run at once, before any further event).
    While nothing is sent for `ping_s` seconds a comment goes out, so that a dead peer is found.
    """

    def __init__(
        self, chunks: AsyncIterator[bytes], *, ping_s: float = 15.0, headers: Mapping[str, str] | None = None
    ) -> None:
        self._chunks = chunks
        self._ping_s = ping_s
        self._headers = [*_HEADERS, *((k.lower().encode(), v.encode()) for k, v in (headers or {}).items())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        writing = asyncio.create_task(self._write(send))
        others = [asyncio.create_task(_until_disconnect(receive)), asyncio.create_task(self._ping(send))]
        try:
            await asyncio.wait([writing, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, *others):
                task.cancel()
            results = await asyncio.gather(writing, *others, return_exceptions=True)
        failure = results[0]
        if isinstance(failure, Exception) and not isinstance(failure, OSError):
            raise failure

    async def _write(self, send: Send) -> None:
        try:
            async for chunk in self._chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            close = getattr(self._chunks, "aclose", None)
            if close is not None:
                await close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _ping(self, send: Send) -> None:
        while True:
            await asyncio.sleep(self._ping_s)
            await send({"type": "http.response.body", "body": PING, "more_body": True})


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
