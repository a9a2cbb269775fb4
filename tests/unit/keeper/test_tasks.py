"""Tasks: list, show, cancel."""

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType, TextSnapshot
from daemons.contracts.tasks import TaskState
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.session import connect
from rbee_tui.keeper.tasks import cancel_task, list_tasks, read_text, show_task
from tests.support.fake_queen import TASK_ID, FakeQueen, Step, answer_of, task_row
from tests.unit.keeper.conftest import Heard


async def test_list_show_and_cancel(installed: Installation, queen: FakeQueen) -> None:
    async with await connect(installed, Heard()) as session:
        assert await list_tasks(session) == queen.tasks
        assert await show_task(session, TASK_ID) == queen.tasks[0]
        assert await cancel_task(session, TASK_ID) is TaskState.COMPLETED, "it has ended"
        queen.tasks = [task_row(state=TaskState.RUNNING)]
        assert await cancel_task(session, TASK_ID) is TaskState.CANCELLED
    assert queen.cancelled.is_set()


async def test_the_text_of_a_task_is_read_to_its_end(installed: Installation, queen: FakeQueen) -> None:
    kept: list[Step] = [(EventType.SNAPSHOT, TextSnapshot(text="Bees ", index=2)), *answer_of("hum."), None]
    queen.events = kept
    parts: list[str] = []
    async with await connect(installed, Heard()) as session:
        assert await read_text(session, TASK_ID, parts.append) == 2
    assert "".join(parts) == "Bees hum."


@pytest.mark.parametrize("task_id", ["task-ffffffffffff", "", "../registry/beehives/list", "a\nb"])
async def test_an_unknown_id_is_named_and_addresses_nothing_else(installed: Installation, task_id: str) -> None:
    async with await connect(installed, Heard()) as session:
        for act in (show_task, cancel_task):
            with pytest.raises(RbeeError) as raised:
                await act(session, task_id)
            assert raised.value.code is Code.TASK_NOT_FOUND
            assert raised.value.message.isprintable()
