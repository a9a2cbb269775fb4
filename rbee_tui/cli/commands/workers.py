"""`rbee workers`: list, health, start, shutdown."""

from typing import Any

import click

from daemons.contracts.events import Progress
from daemons.contracts.workers import WorkerRow
from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.columns import HEALTH_COLUMNS, WORKER_COLUMNS, worker_problems
from rbee_tui.cli.generation_options import placement_options
from rbee_tui.keeper.session import QueenSession, ensure
from rbee_tui.keeper.workers import (
    StartEvent,
    list_workers,
    shutdown_worker,
    start_request,
    start_worker,
    worker_health,
)

NOTHING = "there are no workers"


@click.group(short_help="List, check, start and shut down workers")
def workers() -> None:
    """Workers of all nodes: processes with one loaded model each."""


@workers.command("list", short_help="Every worker of every node")
@command_options
def list_(call: Call) -> None:
    """List every worker of every node."""
    rows = call.with_queen(list_workers)
    call.screen.listing("workers", rows, WORKER_COLUMNS, nothing=NOTHING)
    call.screen.remarks(worker_problems(rows))


@workers.command(short_help="Ask each worker now how it is")
@click.option("--node", metavar="N", help="Only the workers of this node.")
@command_options
def health(call: Call, node: str | None) -> None:
    """Ask each worker now how it is."""
    rows = call.with_queen(lambda session: worker_health(session, node))
    call.screen.listing("workers", rows, HEALTH_COLUMNS, nothing=NOTHING)


@workers.command(short_help="Load a model before anybody asks for it")
@click.option("--model", "-m", required=True, metavar="M", help="demo, file:///path/model.gguf or hf:org/repo[:QUANT].")
@placement_options
@click.option("--no-mmap", is_flag=True, help="Read the whole model into memory instead of mapping its file.")
@command_options
def start(call: Call, model: str, no_mmap: bool, **fields: Any) -> None:
    """Start a worker and wait until its model is loaded."""
    request = start_request(model, {**fields, "mmap": False if no_mmap else None})

    def show(event: StartEvent) -> None:
        if isinstance(event, Progress):
            call.screen.progress(event)
        else:
            call.screen.narrate(event)

    installation = call.installation()

    async def work() -> WorkerRow:
        async with await ensure(installation, call.screen.narrate) as session:
            return await start_worker(session, request, show)

    _show_one(call, call.run(work()))


@workers.command(short_help="Drain and end one worker")
@click.option("--id", "worker_id", required=True, metavar="W", help="Id of the worker (see: rbee workers list).")
@click.option("--drain", "drain_s", type=float, metavar="SECONDS", help="Its requests may go on for this long.")
@command_options
def shutdown(call: Call, worker_id: str, drain_s: float | None) -> None:
    """Let a worker finish what it does, end it, and wait until it is gone."""

    async def work(session: QueenSession) -> WorkerRow:
        return await shutdown_worker(session, worker_id, drain_s=drain_s)

    row = call.with_queen(work)
    if call.screen.as_json:
        call.screen.json({"worker": row})
    else:
        call.screen.line(f"{row.id} on {row.node} is gone")


def _show_one(call: Call, row: WorkerRow) -> None:
    if call.screen.as_json:
        call.screen.json({"worker": row})
    else:
        call.screen.table([row], WORKER_COLUMNS)
