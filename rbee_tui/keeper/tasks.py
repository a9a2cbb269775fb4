"""Tasks as the queen keeps them: list, show, cancel."""

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import TASK_CANCEL, TASK_LIST, TASK_SHOW
from daemons.contracts.tasks import ENDED, TaskList, TaskRow, TaskState
from rbee_tui.keeper.session import QueenSession


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


def _id(text: str) -> str:
    """An empty id would address the list."""
    if not text or not text.isprintable():
        raise RbeeError(Code.TASK_NOT_FOUND, f"{text[:80]!a} is no task id", hint="rbee tasks list")
    return text
