"""Drives an engine from a test: submit, wait for events, collect what each request got."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TypeVar

from daemons.worker.engine.backend import Backend
from daemons.worker.engine.engine import Engine
from daemons.worker.engine.request import (
    LAST_EVENTS,
    EmbedRequest,
    EngineDied,
    Event,
    Failed,
    GenerateRequest,
    Loaded,
    LoadFailed,
    Token,
)

EventT = TypeVar("EventT")
WAIT_S = 20.0


class EngineDriver:
    """An engine whose events land in one queue; `events` keeps them all, in order."""

    def __init__(
        self, backend: Backend, *, slots: int = 4, batch: int = 64, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._queue: SimpleQueue[list[Event]] = SimpleQueue()
        self.batches: list[list[Event]] = []
        self.events: list[Event] = []
        self.engine = Engine(backend, slots=slots, batch=batch, sink=self._queue.put, clock=clock)

    def __enter__(self) -> "EngineDriver":
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.stop()
        assert self.engine.join(WAIT_S), "the engine's thread did not end"
        self._drain()

    def _drain(self) -> None:
        while not self._queue.empty():
            self._take(self._queue.get())

    def _take(self, batch: list[Event]) -> None:
        self.batches.append(batch)
        self.events.extend(batch)

    def until(self, found: Callable[[], EventT | None]) -> EventT:
        """Wait until `found` gives something."""
        while True:
            result = found()
            if result:
                return result
            try:
                self._take(self._queue.get(timeout=WAIT_S))
            except Empty:
                raise AssertionError(f"nothing more after {self.events[-3:]}") from None

    @contextmanager
    def loaded_context(self) -> "Iterator[EngineDriver]":
        """A running engine with its model loaded."""
        with self:
            event = self.until(lambda: next((e for e in self.events if isinstance(e, Loaded | LoadFailed)), None))
            assert isinstance(event, Loaded), event
            yield self

    def submit(self, *requests: GenerateRequest | EmbedRequest) -> None:
        for request in requests:
            self.engine.submit(request)

    def run(self, *requests: GenerateRequest | EmbedRequest) -> None:
        """Submit and wait for the end of each."""
        self.submit(*requests)
        for request in requests:
            self.end(request.id)

    def of(self, id: str) -> list[Event]:
        return [event for event in self.events if getattr(event, "id", None) == id]

    def first(self, id: str, kind: type[EventT]) -> EventT:
        return self.until(lambda: next((event for event in self.of(id) if isinstance(event, kind)), None))

    def end(self, id: str) -> Event:
        def ends() -> list[Event]:
            return [event for event in self.of(id) if isinstance(event, LAST_EVENTS)]

        return self.until(ends)[0]

    def failed(self, id: str) -> Failed:
        event = self.end(id)
        assert isinstance(event, Failed), event
        return event

    def died(self) -> EngineDied:
        return self.until(lambda: next((event for event in self.events if isinstance(event, EngineDied)), None))

    def tokens(self, id: str) -> list[Token]:
        return [event for event in self.of(id) if isinstance(event, Token)]

    def text(self, id: str) -> str:
        return "".join(event.text for event in self.tokens(id))
