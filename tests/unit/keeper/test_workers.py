"""Workers: listed, asked, started, ended; what the queen refuses comes out as its own error."""

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType, Narration, Progress
from daemons.contracts.workers import Backend, StartWorkerRequest, WorkerState
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.session import connect
from rbee_tui.keeper.workers import (
    StartEvent,
    list_workers,
    shutdown_worker,
    start_request,
    start_worker,
    worker_health,
)
from tests.support.fake_queen import FakeQueen, node_row, worker_row
from tests.unit.keeper.conftest import Heard


def test_a_start_request_keeps_to_what_was_given() -> None:
    request = start_request("demo", {"backend": "cpu", "device": 0, "slots": None, "node": "box", "mmap": None})
    assert request == StartWorkerRequest(model_ref="demo", backend=Backend.CPU, device=0, node="box")


@pytest.mark.parametrize(
    ("model", "fields", "code"),
    [
        ("nonsense", {}, Code.INVALID_MODEL_REF),
        ("demo", {"backend": "abacus"}, Code.INVALID_BACKEND),
        ("demo", {"slots": 0}, Code.INVALID_REQUEST),
        ("demo", {"node": "Not A Host"}, Code.INVALID_REQUEST),
    ],
)
def test_a_faulty_start_is_refused_before_the_network(model: str, fields: dict[str, object], code: Code) -> None:
    with pytest.raises(RbeeError) as raised:
        start_request(model, fields)
    assert raised.value.code is code


async def test_list_and_health(installed: Installation, queen: FakeQueen) -> None:
    queen.nodes = [node_row("local"), node_row("box")]
    queen.workers = [worker_row("w-00000001"), worker_row("w-00000002", node="box", state=WorkerState.UNHEALTHY)]
    async with await connect(installed, Heard()) as session:
        assert await list_workers(session) == queen.workers
        assert [(row.id, row.healthy) for row in await worker_health(session)] == [
            ("w-00000001", True),
            ("w-00000002", False),
        ]
        assert [row.id for row in await worker_health(session, "box")] == ["w-00000002"]
        with pytest.raises(RbeeError) as raised:
            await worker_health(session, "nowhere")
    assert raised.value.code is Code.NODE_NOT_FOUND


async def test_shutdown_names_the_worker_or_says_that_there_is_none(installed: Installation) -> None:
    async with await connect(installed, Heard()) as session:
        assert (await shutdown_worker(session, "w-00000001", drain_s=0.5)).id == "w-00000001"
        with pytest.raises(RbeeError) as raised:
            await shutdown_worker(session, "w-00000009")
    assert raised.value.code is Code.WORKER_NOT_FOUND


class TestStart:
    async def start(self, installed: Installation, events: list[StartEvent]) -> str:
        async with await connect(installed, Heard()) as session:
            return (await start_worker(session, start_request("demo", {}), events.append)).id

    async def test_it_tells_the_load_and_returns_the_worker(self, installed: Installation, queen: FakeQueen) -> None:
        told = Narration(actor="hive local", text="starting")
        half = Progress(stage="load", done=50, total=100, unit="percent")
        queen.start_steps = [
            (EventType.NARRATION, told),
            (EventType.PROGRESS, half),
            (EventType.WORKER, worker_row("w-00000007")),
            (EventType.DONE, {"done": True}),
        ]
        events: list[StartEvent] = []
        assert await self.start(installed, events) == "w-00000007"
        assert events == [told, half]

    async def test_a_load_that_fails_is_its_error(self, installed: Installation, queen: FakeQueen) -> None:
        queen.start_steps = [(EventType.ERROR, RbeeError(Code.RAM_INSUFFICIENT, "needs 9 GiB").as_dict())]
        with pytest.raises(RbeeError, match="needs 9 GiB") as raised:
            await self.start(installed, [])
        assert raised.value.code is Code.RAM_INSUFFICIENT

    async def test_a_stream_that_just_closes_is_no_success(self, installed: Installation, queen: FakeQueen) -> None:
        queen.start_steps = [(EventType.WORKER, worker_row())]
        with pytest.raises(RbeeError) as raised:
            await self.start(installed, [])
        assert raised.value.code is Code.UPSTREAM_LOST
