"""Nodes, devices and models of the fleet."""

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import ModelRow
from rbee_tui.keeper.fleet import devices_of, fleet, models, nodes
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.session import connect
from tests.support.fake_queen import FakeQueen, node_row
from tests.unit.keeper.conftest import Heard


async def test_the_queens_answers_come_as_they_are(installed: Installation, queen: FakeQueen) -> None:
    queen.models = [
        ModelRow(id="m-1", ref="demo", path="/m", size_bytes=4_000_000, architecture="llama", context_length=2048)
    ]
    async with await connect(installed, Heard()) as session:
        snapshot = await fleet(session)
        assert (snapshot.nodes, snapshot.workers, snapshot.queue.waiting) == (queen.nodes, queen.workers, 1)
        assert await nodes(session) == queen.nodes
        assert await models(session) == queen.models


def test_devices_go_with_their_nodes() -> None:
    rows = [node_row("local"), node_row("empty", devices=[]), node_row("box")]
    assert [(row.node, row.device.name) for row in devices_of(rows)] == [("local", "CPU"), ("box", "CPU")]
    assert [row.node for row in devices_of(rows, "box")] == ["box"]
    assert devices_of(rows, "empty") == []


def test_a_node_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(RbeeError, match=r"no node 'bo\\x1b'; there are local") as raised:
        devices_of([node_row("local")], "bo\x1b")
    assert raised.value.code is Code.NODE_NOT_FOUND
