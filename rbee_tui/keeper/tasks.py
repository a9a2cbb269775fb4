"""Tasks as the queen keeps them: list, show, read, cancel."""

from collections.abc import Callable

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType, TextSnapshot, Token
from daemons.contracts.routes import TASK_CANCEL, TASK_EVENTS, TASK_LIST, TASK_SHOW
from daemons.contracts.tasks import ENDED, TaskList, TaskRow, TaskState
from daemons.kit.client import until_end
from rbee_tui.keeper.session import QueenSession, read_event


async def list_tasks(session: QueenSession) -> list[TaskRow]:
    """Queued, running and remembered tasks, newest first."""
    return (await session.get(TASK_LIST, TaskList)).tasks


async def show_task(session: QueenSession, task_id: str) -> TaskRow:
    """One task. Raises RbeeError(TASK_NOT_FOUND)."""
    return await session.get(TASK_SHOW, TaskRow, path={"id": _id(task_id)})


async def cancel_task(session: QueenSession, task_id: str) -> TaskState:
    """Cancel a task; one that has ended stays as it is, and how it ended is returned. Raises TASK_NOT_FOUND."""
    row = await show_task(session, task_id)
    if row.state in ENDED:
        return row.state
    await session.call(TASK_CANCEL, path={"id": task_id})
    return TaskState.CANCELLED


async def read_text(session: QueenSession, task_id: str, write: Callable[[str], None]) -> int:
    """Pass on the text that is kept of a task; of one that runs, up to its end. Returns the number of its tokens.

    How the task ended is no failure of this. Raises RbeeError(TASK_NOT_FOUND).
    """
    tokens = 0
    async with session.stream(TASK_EVENTS, path={"id": _id(task_id)}) as events:
        async for event in until_end(events, session.name):
            if event.type == EventType.SNAPSHOT:
                kept = read_event(event, TextSnapshot)
                tokens = kept.index
                write(kept.text)
            elif event.type == EventType.TOKEN:
                token = read_event(event, Token)
                tokens = max(tokens, token.index + 1)
                write(token.token)
    return tokens


def _id(text: str) -> str:
    """An empty id would address the list."""
    if not text or not text.isprintable():
        raise RbeeError(Code.TASK_NOT_FOUND, f"{text[:80]!a} is no task id", hint="rbee tasks list")
    return text
