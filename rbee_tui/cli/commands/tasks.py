"""`rbee tasks`: list, show, cancel."""

import click

from daemons.contracts.tasks import TaskState
from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.columns import TASK_COLUMNS, task_lines
from rbee_tui.keeper.tasks import cancel_task, list_tasks, show_task


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
@command_options
def show(call: Call, task_id: str) -> None:
    """Show everything about one task."""
    row = call.with_queen(lambda session: show_task(session, task_id))
    if call.screen.as_json:
        call.screen.json(row)
        return
    for line in task_lines(row):
        call.screen.line(line)


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
