"""Events of one task: encoded once, numbered without gaps, kept up to a size, read by any number of readers.

This is the path of every token, so an event is turned into bytes when it arrives and never looked into again, unless
the text so far is asked for.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import BaseModel

from daemons.contracts.events import LAST_EVENTS, EventType, TextSnapshot
from daemons.kit.sse import encode_event, encode_raw

_KEPT_AFTER_DROP = 0.75
"""Share of the limit that is kept when events are dropped: dropping in bulk costs little per event."""

_MOST_PER_CHUNK = 256
_DATA = b"\ndata: "
_TOKEN = EventType.TOKEN.value
_MOST_TOKENS = 2**53


class TaskEvents:
    """The events of one task. `keep_bytes`: the oldest are dropped beyond this; of tokens the text stays.

    They are numbered on from `before`: higher than any number that readers have from an earlier life of the task, of
    which nothing is left. Such a reader gets everything.
    """

    def __init__(self, keep_bytes: int, before: int = 0) -> None:
        self._keep_bytes = keep_bytes
        self._kinds: list[str] = []
        self._encoded: list[bytes] = []
        self._before = before
        self._first = before + 1
        self._size = 0
        self._text = ""
        self._text_tokens = 0
        self._text_at = 0  # number of the last token event that is in the text
        self._last_token = b""
        self._readers: set[TaskReader] = set()
        self.closed = False
        self.left_to_the_next_queen = False

    @property
    def last(self) -> int:
        """Number of the newest event; `before` when there is none."""
        return self._first + len(self._encoded) - 1

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._size

    @property
    def over(self) -> bool:
        """Whether no further event can come here."""
        return self.closed or self.left_to_the_next_queen

    @property
    def readers(self) -> int:
        return len(self._readers)

    def add(self, kind: str, raw: str) -> None:
        """Append an event whose data is one line of JSON already. Nothing may follow a `done` or `error`."""
        assert not self.closed, f"{kind} after the end"
        encoded = encode_raw(kind, raw, self._first + len(self._encoded))
        self._kinds.append(kind)
        self._encoded.append(encoded)
        self._size += len(encoded)
        if kind == _TOKEN:
            self._last_token = encoded
        elif kind in LAST_EVENTS:
            self.closed = True
        if self._size > self._keep_bytes:
            self._drop_oldest()
        for reader in self._readers:
            reader.wake()

    def add_model(self, kind: str, data: BaseModel) -> None:
        """Append an event from a wire object."""
        self.add(kind, data.model_dump_json(exclude_none=True))

    def read(self, after: int = 0) -> "TaskReader":
        """A reader of everything behind event number `after`. Close it when done."""
        reader = TaskReader(self, max(after, self._before))
        self._readers.add(reader)
        return reader

    def leave_to_the_next_queen(self) -> None:
        """Nothing more comes here: readers end without a last event, and come back for the rest."""
        self.left_to_the_next_queen = True
        for reader in self._readers:
            reader.wake()

    def forget_reader(self, reader: "TaskReader") -> None:
        self._readers.discard(reader)

    @property
    def tokens(self) -> int:
        """Tokens so far, at least: the last event may hold several."""
        return max(_token_of(_data_of(self._last_token))[1] + 1, self._text_tokens) if self._last_token else 0

    @property
    def text(self) -> str:
        """All tokens so far, in one. Each is decoded once, however often the text is asked for."""
        start = max(self._text_at + 1 - self._first, 0)
        parts = [self._text]
        for offset in range(start, len(self._kinds)):
            if self._kinds[offset] == _TOKEN:
                token, index = _token_of(_data_of(self._encoded[offset]))
                parts.append(token)
                self._text_tokens = max(self._text_tokens, index + 1)
                self._text_at = self._first + offset
        self._text = "".join(parts)
        return self._text

    def batch_after(self, number: int) -> tuple[bytes, int]:
        """Events behind `number` as one chunk, and the number of its last; empty when there are none yet."""
        if self.lost_after(number):
            return self._snapshot()
        start = number - self._first + 1
        events = self._encoded[start : start + _MOST_PER_CHUNK]
        return b"".join(events), number + len(events)

    def typed_after(self, number: int) -> list[tuple[str, dict[str, Any]]]:
        """(type, data) of the kept events behind `number`."""
        start = number - self._first + 1
        return list(zip(self._kinds[start:], map(_data_of, self._encoded[start:]), strict=True))

    def lost_after(self, number: int) -> bool:
        """Whether events right behind `number` are not kept any more."""
        return number < self._first - 1

    def text_so_far(self) -> tuple[str, int]:
        """The text, and the number of the event up to which it goes; at least all that was dropped."""
        return self.text, max(self._text_at, self._first - 1)

    def _snapshot(self) -> tuple[bytes, int]:
        text, number = self.text_so_far()
        return encode_event(EventType.SNAPSHOT.value, TextSnapshot(text=text, index=self._text_tokens), number), number

    def _drop_oldest(self) -> None:
        assert self.text is not None  # decodes what is about to go
        count = 0
        while self._size > self._keep_bytes * _KEPT_AFTER_DROP and count < len(self._encoded) - 1:
            self._size -= len(self._encoded[count])
            count += 1
        del self._kinds[:count], self._encoded[:count]
        self._first += count


class TaskReader:
    """One reader of a task's events, from its own place on."""

    def __init__(self, events: TaskEvents, after: int) -> None:
        self._events = events
        self._number = min(after, events.last)
        self._news = asyncio.Event()

    def wake(self) -> None:
        self._news.set()

    def close(self) -> None:
        self._events.forget_reader(self)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Chunks of whole events up to the end; whatever came while the last one was sent is in the next."""
        while True:
            chunk, self._number = self._events.batch_after(self._number)
            if chunk:
                yield chunk
            elif self._at_end():
                return
            else:
                await self._wait()

    async def typed(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """(type, data) of each event up to the end; text that was dropped unread comes as one token."""
        told = 0
        while True:
            if self._events.lost_after(self._number):
                text, self._number = self._events.text_so_far()
                rows: list[tuple[str, dict[str, Any]]] = [(_TOKEN, {"token": text[told:], "index": 0})]
            else:
                rows = self._events.typed_after(self._number)
                self._number += len(rows)
            for kind, data in rows:
                if kind == _TOKEN:
                    token, index = _token_of(data)
                    told += len(token)
                    yield kind, {**data, "token": token, "index": index}
                else:
                    yield kind, data
            if self._at_end():
                return
            if not rows:
                await self._wait()

    def _at_end(self) -> bool:
        return self._events.over and self._number >= self._events.last

    async def _wait(self) -> None:
        self._news.clear()
        if self._number >= self._events.last and not self._events.over:
            await self._news.wait()


def _data_of(encoded: bytes) -> dict[str, Any]:
    """The decoded data of an encoded event; empty when it is no object. A worker's events are passed on unchecked."""
    try:
        data = json.loads(encoded[encoded.index(_DATA) + len(_DATA) :])
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _token_of(data: Mapping[str, Any]) -> tuple[str, int]:
    """(text, index) of a token event; what is missing or of another kind counts as no text, and as -1."""
    token, index = data.get("token"), data.get("index")
    return token if isinstance(token, str) else "", index if type(index) is int and 0 <= index < _MOST_TOKENS else -1
