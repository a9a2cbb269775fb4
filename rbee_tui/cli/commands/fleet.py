"""`rbee status`, `rbee devices`, `rbee ps`: the fleet at one moment."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import click

from daemons.contracts.fleet import FleetSnapshot
from daemons.contracts.notices import Notice
from daemons.contracts.tasks import ENDED
from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.columns import DEVICE_COLUMNS, NODE_COLUMNS, PS_COLUMNS, TASK_COLUMNS, worker_problems
from rbee_tui.cli.commands.daemons import ended_sentence, none_running, sentence
from rbee_tui.cli.figures import age
from rbee_tui.cli.screen import Screen
from rbee_tui.cli.tables import Column
from rbee_tui.keeper.daemons import ThisMachine, this_machine
from rbee_tui.keeper.fleet import devices_of, fleet, nodes
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.session import connect_if_running

RowT = TypeVar("RowT")

_QUEEN_FIELDS = {
    "version": "version", "queen_url": "url", "queen_pid": "pid", "started_at": "started_at",
    "draining": "draining", "ephemeral": "ephemeral",
}  # fmt: skip


@click.command(short_help="Queen, nodes, workers and queue at a glance")
@command_options
def status(call: Call) -> None:
    """Show the queen, its nodes and workers, the tasks that wait and run.

    Without a queen on this machine that is said, and is no failure; what goes on without it is shown.
    """
    installation = call.installation()
    snapshot = call.run(_snapshot(call, installation))
    machine = this_machine(installation.paths)
    if call.screen.as_json:
        call.screen.json(status_object(snapshot, machine))
    elif snapshot is None:
        _show_without_queen(call.screen, machine)
    else:
        _show(call, snapshot)
        for ended in machine.ended_unexpectedly if not installation.settings.queen.url else ():
            call.screen.say(ended_sentence(ended))


async def _snapshot(call: Call, installation: Installation) -> FleetSnapshot | None:
    session = await connect_if_running(installation, call.screen.narrate)
    if session is None:
        return None
    async with session:
        return await fleet(session)


def status_object(snapshot: FleetSnapshot | None, machine: ThisMachine) -> dict[str, Any]:
    """The JSON of `rbee status`: the queen's own fields under ``queen`` (null: none runs), and the lists beside it.

    ``this_machine`` is what is known here without a queen.
    """
    here = {"this_machine": asdict(machine)}
    if snapshot is None:
        return {"queen": None, **here}
    fields = snapshot.model_dump(mode="json")
    return {"queen": {short: fields.pop(name) for name, short in _QUEEN_FIELDS.items()}, **fields, **here}


def _show_without_queen(screen: Screen, machine: ThisMachine) -> None:
    count = len(machine.workers)
    workers = f"{count} {'worker' if count == 1 else 'workers'}"
    screen.line(none_running("queen"))
    if machine.hive:
        screen.line(f"{sentence(machine.hive)}, {workers} (stop it with: rbee hive stop)")
    for ended in machine.ended_unexpectedly:
        screen.line(ended_sentence(ended))
    if count and not machine.hive:
        screen.line(
            f"hive: none is running, but {workers} without it (adopt with: rbee hive start; end with: rbee hive stop)"
        )


def _show(call: Call, snapshot: FleetSnapshot) -> None:
    screen, queue = call.screen, snapshot.queue
    marks = [word for word, holds in (("draining", snapshot.draining), ("ephemeral", snapshot.ephemeral)) if holds]
    screen.line(
        f"queen: {snapshot.version} at {snapshot.queen_url}, pid {snapshot.queen_pid}, "
        f"up {age(snapshot.started_at, time.time())}{''.join(f', {mark}' for mark in marks)}"
    )
    screen.line(f"queue: {queue.waiting} waiting, {queue.running} running, limit {queue.limit}")
    _section(screen, snapshot.nodes, NODE_COLUMNS)
    _section(screen, snapshot.workers, PS_COLUMNS)
    _section(screen, [task for task in snapshot.tasks if task.state not in ENDED], TASK_COLUMNS)
    for node in snapshot.nodes:
        if node.problem:
            screen.say(f"node {node.name}: {node.problem}")
    screen.remarks(worker_problems(snapshot.workers))
    for notice in snapshot.notices:
        screen.say(notice_sentence(notice, time.time()))


def notice_sentence(notice: Notice, now: float) -> str:
    """``4m12s ago: the database … was gone: restored from … (see: ls -l …)``."""
    where = f"node {notice.node}: " if notice.node else ""
    hint = f" (see: {notice.hint})" if notice.hint else ""
    return f"{age(notice.at, now)} ago: {where}{notice.text}{hint}"


def _section(screen: Screen, rows: Sequence[RowT], columns: Sequence[Column[RowT]]) -> None:
    if rows:
        screen.line("")
        screen.table(rows, columns)


@click.command(short_help="Devices of all nodes, with memory and use")
@click.option("--node", metavar="N", help="Only of this node.")
@command_options
def devices(call: Call, node: str | None) -> None:
    """List the devices that workers can run on."""
    found = devices_of(call.with_queen(nodes), node)
    if call.screen.as_json:
        call.screen.json({"devices": [{"node": row.node, **row.device.model_dump(mode="json")} for row in found]})
    else:
        call.screen.listing("devices", found, DEVICE_COLUMNS, nothing="no node has told its devices yet")


@click.command(short_help="Loaded models and the workers that hold them")
@command_options
def ps(call: Call) -> None:
    """List the loaded models: where, how busy, and when they are unloaded."""
    snapshot = call.with_queen(fleet)
    call.screen.listing("workers", snapshot.workers, PS_COLUMNS, nothing="no model is loaded")
    call.screen.remarks(worker_problems(snapshot.workers))
