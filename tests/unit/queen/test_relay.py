"""One generation on one worker, relayed: what is passed on as it is, how it ends, what it costs the connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import Receive, Scope, Send

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType
from daemons.contracts.tasks import TaskRequest
from daemons.kit.client import DaemonClient, Peer
from daemons.queen.core.events import RelayEnd
from daemons.queen.relay import Relay, RelayJob, RelayOutcome
from daemons.queen.task_events import TaskEvents
from tests.support.fake_hive import WORKER_KEY, FakeWorker
from tests.support.http_service import running
from tests.support.queen_core import worker_row
from tests.support.queen_harness import FAST, until

STOP = RbeeError(Code.CANCELLED, "stop")


class Line:
    """A worker at the other end of a real connection, and the relays that were run over it."""

    def __init__(self, worker: FakeWorker, client: DaemonClient) -> None:
        self.worker = worker
        self.client = client
        self.connections: set[Any] = set()

    def relay(self, *, max_tokens: int = 3, stall_s: float = 5.0) -> tuple[Relay, TaskEvents]:
        events = TaskEvents(2**20)
        request = TaskRequest(model="demo", prompt="Hi", max_tokens=max_tokens)
        job = RelayJob("task-1", self.worker.row.id, request, max_tokens, "req-1", None, stall_s)
        return Relay(job, events), events


@asynccontextmanager
async def _line(*, gated: bool = False) -> AsyncIterator[Line]:
    worker = FakeWorker(worker_row(slots_total=8), gated=gated)
    app: Callable[[Scope, Receive, Send], Awaitable[None]] = worker.app()
    connections: set[Any] = set()

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        connections.add(scope["client"])
        await app(scope, receive, send)

    async with running(counting) as url:
        peer = Peer(url, WORKER_KEY, "worker w-1", Code.WORKER_CRASHED)
        async with DaemonClient(peer, FAST) as client:
            line = Line(worker, client)
            line.connections = connections
            yield line


async def test_tokens_are_passed_on_as_they_are() -> None:
    async with _line() as line:
        relay, events = line.relay()
        outcome = await relay.run(line.client)
        assert (outcome.how, outcome.tokens) == (RelayEnd.DONE, 3)
        assert events.text == "t0 t1 t2 "
        assert outcome.done is not None
        assert outcome.done.total_tokens == 3
        assert '"total_tokens":3' in outcome.raw_done
        assert not events.closed, "the end is told by the owner of the state"


async def test_the_connection_is_used_again() -> None:
    """Reading a stream to its very end keeps its connection alive."""
    async with _line() as line:
        for _ in range(4):
            relay, _events = line.relay()
            assert (await relay.run(line.client)).how is RelayEnd.DONE
        assert len(line.connections) == 1


async def test_the_first_token_is_told_once() -> None:
    async with _line() as line:
        told: list[int] = []
        _relay, events = line.relay()
        job = _relay._job
        await Relay(job, events, on_first_token=lambda: told.append(1)).run(line.client)
        assert told == [1]


async def _stopped(line: Line, relay: Relay) -> RelayOutcome:
    running_relay = asyncio.create_task(relay.run(line.client))
    await until(lambda: line.worker.running == 1)
    relay.stop(STOP)
    return await asyncio.wait_for(running_relay, 1)


async def test_stopping_cancels_on_the_worker() -> None:
    async with _line(gated=True) as line:
        relay, events = line.relay()
        outcome = await _stopped(line, relay)
        assert (outcome.how, outcome.error) == (RelayEnd.STOPPED, STOP)
        await until(lambda: line.worker.running == 0, limit_s=1)
        assert "task-1" in line.worker.cancelled
        assert events.text == ""


async def test_stopping_before_the_start_sends_nothing() -> None:
    async with _line() as line:
        relay, _events = line.relay()
        relay.stop(STOP)
        outcome = await relay.run(line.client)
        assert outcome.how is RelayEnd.STOPPED
        assert line.worker.requests == []


async def test_a_stall_is_told_with_what_had_come() -> None:
    async with _line(gated=True) as line:
        relay, events = line.relay(stall_s=0.2, max_tokens=9)
        line.worker.step(2)
        outcome = await relay.run(line.client)
        assert outcome.how is RelayEnd.FAILED
        assert outcome.error is not None
        assert outcome.error.code is Code.INFERENCE_STALLED
        assert outcome.error.details["tokens_done"] == 2
        assert events.text == "t0 t1 "


async def test_slow_tokens_are_no_stall() -> None:
    """The limit is between two tokens, not for the whole answer."""
    async with _line(gated=True) as line:
        relay, _events = line.relay(stall_s=0.3, max_tokens=6)
        running_relay = asyncio.create_task(relay.run(line.client))
        for _ in range(6):
            await asyncio.sleep(0.1)
            line.worker.step()
        assert (await running_relay).how is RelayEnd.DONE


async def test_a_long_prompt_is_no_stall_and_its_progress_is_passed_on() -> None:
    async with _line(gated=True) as line:
        line.worker.prompt_parts = 6
        relay, events = line.relay(stall_s=0.3, max_tokens=1)
        running_relay = asyncio.create_task(relay.run(line.client))
        for _ in range(7):
            await asyncio.sleep(0.1)
            line.worker.step()
        outcome = await running_relay
        assert (outcome.how, outcome.tokens) == (RelayEnd.DONE, 1)
        assert events.text == "t0 "
        progress = [data for kind, data in events.typed_after(0) if kind == EventType.PROGRESS]
        assert [data["done"] for data in progress] == [1, 2, 3, 4, 5, 6]


async def test_a_broken_stream_is_a_lost_worker() -> None:
    async with _line() as line:
        line.worker.crash_after = 1
        relay, events = line.relay(max_tokens=9)
        outcome = await relay.run(line.client)
        assert (outcome.how, outcome.tokens) == (RelayEnd.LOST, 1)
        assert outcome.error is not None
        assert outcome.error.code is Code.WORKER_CRASHED
        assert outcome.error.details["tokens_asked"] == 9
        assert events.text == "t0 "


async def test_a_worker_that_is_not_there_is_lost_at_once() -> None:
    async with _line() as line:
        relay, _events = line.relay()
        peer = Peer("http://127.0.0.1:9", WORKER_KEY, "worker w-1", Code.WORKER_CRASHED)
        async with DaemonClient(peer, FAST) as nobody:
            outcome = await asyncio.wait_for(relay.run(nobody), 1)
        assert (outcome.how, outcome.tokens) == (RelayEnd.LOST, 0)


async def test_a_strangers_answer_at_the_address_is_a_lost_worker() -> None:
    """After a crash another worker may have got the port: it knows neither our key nor the request."""
    async with _line() as line:
        relay, _events = line.relay()
        peer = Peer(line.client.peer.url, "another-key-0123456789", "worker w-1", Code.WORKER_CRASHED)
        async with DaemonClient(peer, FAST) as client:
            assert (await relay.run(client)).how is RelayEnd.LOST


async def test_no_slot_is_a_refusal() -> None:
    async with _line() as line:
        line.worker.refuse_with = RbeeError(Code.MODEL_LOADING, "37 %")
        relay, _events = line.relay()
        outcome = await relay.run(line.client)
        assert (outcome.how, outcome.tokens) == (RelayEnd.REFUSED, 0)


async def test_stopping_after_the_stream_was_lost_changes_nothing() -> None:
    """The task waits for how the worker ended then; a client may leave meanwhile."""
    async with _line() as line:
        line.worker.crash_after = 1
        relay, _events = line.relay(max_tokens=9)
        outcome = await relay.run(line.client)
        relay.stop(STOP)
        assert outcome.how is RelayEnd.LOST
