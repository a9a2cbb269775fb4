"""Requests that reach the engine's mailbox when nobody reads it any more."""

import asyncio
import threading
from collections.abc import Sequence
from queue import SimpleQueue

import pytest

from daemons.contracts.errors import Code
from daemons.contracts.workers import WorkerState
from daemons.worker.bridge import Bridge, Ticket
from daemons.worker.engine.backend import DecodeStatus, Span
from daemons.worker.engine.request import Failed, GenerateRequest, SamplingParams
from tests.support.fake_backend import FakeBackend, fake_tokens

REQUEST = GenerateRequest(id="late", tokens=fake_tokens("x"), max_tokens=5, sampling=SamplingParams(temperature=0.0))


async def loaded(backend: FakeBackend) -> Bridge:
    bridge = Bridge(backend, slots=4, batch=64)
    bridge.start()
    async for state in bridge.states():
        if state is WorkerState.IDLE:
            break
    return bridge


async def code_of(ticket: Ticket) -> Code:
    """With which code a request failed."""
    async with asyncio.timeout(5.0):
        while True:
            for event in await ticket.take():
                if isinstance(event, Failed):
                    return event.code


async def test_request_that_comes_after_the_engines_death_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def die(_batch: Sequence[Span]) -> DecodeStatus:
        entered.set()
        go_on.wait(5.0)
        raise OSError("the accelerator is gone")

    bridge = await loaded(FakeBackend(fail=die))
    first = bridge.submit(GenerateRequest(id="first", tokens=(3,), max_tokens=5, sampling=SamplingParams()))
    assert await asyncio.to_thread(entered.wait, 5.0)
    monkeypatch.setattr(bridge._engine, "_mailbox", SimpleQueue())  # the one that is read last is emptied already
    late = bridge.submit(REQUEST)
    monkeypatch.undo()
    go_on.set()
    assert await code_of(first) is Code.ENGINE_FAILED
    assert await code_of(late) is Code.ENGINE_FAILED
    assert bridge.slots_busy == 0


async def test_request_that_comes_while_the_engine_stops_fails() -> None:
    bridge = await loaded(FakeBackend())
    bridge._engine.stop()
    assert await asyncio.to_thread(bridge._engine.join, 5.0)
    late = bridge.submit(REQUEST)
    assert await bridge.stop(5.0)
    assert await code_of(late) is Code.DRAINING
    await asyncio.wait_for(bridge.until_idle(), 5.0)
