"""`rbee tasks`: list, show, cancel."""

import click

from daemons.contracts.tasks import TaskState
from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.columns import TASK_COLUMNS, task_lines
from rbee_tui.keeper.tasks import cancel_task, list_tasks, read_text, show_task


@click.group(short_help="List, show and cancel tasks")
def tasks() -> None:
    """Tasks: requests for inference, as the queen keeps them."""


@tasks.command("list", short_help="Tasks, newest first")
@command_options
def list_(call: Call) -> None:
    """List tasks that wait, run, or have ended, newest first."""
    call.screen.listing("tasks", call.with_queen(list_tasks), TASK_COLUMNS, nothing="there are no tasks")


@tasks.command(short_help="Everything about one task")
@click.argument("task_id", metavar="TASK")
@click.option("--text", is_flag=True, help="Only its text, as far as it is kept; of a task that runs, to its end.")
@command_options
def show(call: Call, task_id: str, text: bool) -> None:
    """Show everything about one task."""
    if text:
        _show_text(call, task_id)
        return
    row = call.with_queen(lambda session: show_task(session, task_id))
    if call.screen.as_json:
        call.screen.json(row)
        return
    for line in task_lines(row):
        call.screen.line(line)


def _show_text(call: Call, task_id: str) -> None:
    parts: list[str] = []

    def write(part: str) -> None:
        parts.append(part)
        if not call.screen.as_json:
            call.screen.write(part)

    tokens = call.with_queen(lambda session: read_text(session, task_id, write))
    if call.screen.as_json:
        call.screen.json({"id": task_id, "text": "".join(parts), "tokens": tokens})
    elif parts:
        call.screen.write("\n")
    else:
        call.screen.say(f"no text of {task_id} is kept: a task that was completed has given it to its reader")


@tasks.command(short_help="Cancel a task")
@click.argument("task_id", metavar="TASK")
@command_options
def cancel(call: Call, task_id: str) -> None:
    """Cancel a task; one that has ended stays as it is."""
    state = call.with_queen(lambda session: cancel_task(session, task_id))
    if call.screen.as_json:
        call.screen.json({"id": task_id, "cancelled": state is TaskState.CANCELLED, "state": state.value})
    elif state is TaskState.CANCELLED:
        call.screen.line(f"{task_id} is cancelled")
    else:
        call.screen.line(f"{task_id} had ended before: {state.value}")
