"""`rbee queen` and `rbee hive`: start, stop, restart, status."""

import time
from dataclasses import asdict
from typing import Any

import click

from daemons.kit.procs import ExitReport
from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.figures import age
from rbee_tui.keeper.daemons import (
    DaemonStatus,
    EndedDaemon,
    ask_queen_to_end,
    check_address,
    daemon_status,
    end_workers_left,
    ended_unexpectedly,
    restart_flags,
    restart_hive,
    start_daemon,
    stop_local,
)
from rbee_tui.keeper.installation import Installation

QUEEN = "queen"
HIVE = "hive"


@click.group(short_help="Start, stop and look at the queen of this machine")
def queen() -> None:
    """The queen: knows the nodes, places tasks, keeps their history."""


@click.group(short_help="Start, stop and look at the hive of this machine")
def hive() -> None:
    """The hive: this machine's models, devices and workers."""


@queen.command("start", short_help="Start the queen unless it runs")
@click.option("--host", metavar="ADDRESS", help="Address to bind; default 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="Port; 0 is any free one; default 8080.")
@command_options
def queen_start(call: Call, host: str | None, port: int | None) -> None:
    """Start the queen of this machine; one that runs is left as it is."""
    _refuse_queen_url(call, "rbee queen start")
    _start(call, QUEEN, host, port)


@queen.command("stop", short_help="Let the queen finish and end")
@command_options
def queen_stop(call: Call) -> None:
    """Let the queen finish what runs, and end it. Hives and workers go on, and a new queen finds them."""
    installation = call.installation_or_defaults()
    url = call.run(ask_queen_to_end(installation))
    if url is None:
        _stop(call, installation, QUEEN)
    elif call.screen.as_json:
        call.screen.json({QUEEN: {"url": url, "stopping": True}})
    else:
        call.screen.line(f"the queen at {url} finishes what it does and ends")


@queen.command("restart", short_help="Stop the queen and start it again")
@command_options
def queen_restart(call: Call) -> None:
    """Let the queen finish what runs, end it, and start one in its place, which finds hives and workers again."""
    _refuse_queen_url(call, "rbee queen restart")
    installation = call.installation(restart_flags(call.installation(), QUEEN))
    before = call.run(stop_local(installation, QUEEN, call.screen.narrate))
    status, _ = call.run(start_daemon(installation, QUEEN, call.screen.narrate))
    if call.screen.as_json:
        call.screen.json({QUEEN: asdict(status), "before": _stopped(before) if before else None})
    else:
        call.screen.line(sentence(status))


@queen.command("status", short_help="Whether the queen runs, and where")
@command_options
def queen_status(call: Call) -> None:
    """Show whether a queen runs, where, and in which version."""
    _status(call, QUEEN)


@hive.command("start", short_help="Start the hive unless it runs")
@click.option("--host", metavar="ADDRESS", help="Address to bind; default 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="Port; 0 is any free one; default 9200.")
@command_options
def hive_start(call: Call, host: str | None, port: int | None) -> None:
    """Start the hive of this machine; one that runs is left as it is."""
    _refuse_queen_url(call, "rbee hive start")
    _start(call, HIVE, host, port)


@hive.command("stop", short_help="End the hive and its workers")
@command_options
def hive_stop(call: Call) -> None:
    """End the hive of this machine and its workers, those of a hive that was killed, too."""
    _refuse_queen_url(call, "rbee hive stop")
    _stop(call, call.installation_or_defaults(), HIVE)


@hive.command("restart", short_help="Replace the hive; its workers go on")
@command_options
def hive_restart(call: Call) -> None:
    """Replace the hive of this machine by a new one, for an upgrade or because it was killed.

    Its workers go on with what they do, and belong to the new one then.
    """
    _refuse_queen_url(call, "rbee hive restart")
    installation = call.installation(restart_flags(call.installation(), HIVE))
    done = call.run(restart_hive(installation, call.screen.narrate))
    if call.screen.as_json:
        before = _stopped(done.before) if done.before else None
        call.screen.json({HIVE: asdict(done.hive), "before": before, "workers": done.found, "lost": done.lost})
        return
    call.screen.line(f"{sentence(done.hive)}; workers that go on: {', '.join(done.found) or 'none'}")
    for worker_id in done.lost:
        call.screen.line(f"worker {worker_id} is gone (see: rbee logs --worker {worker_id})")


@hive.command("status", short_help="Whether the hive runs, and where")
@command_options
def hive_status(call: Call) -> None:
    """Show whether a hive runs on this machine, where, and in which version."""
    _refuse_queen_url(call, "rbee hive status")
    _status(call, HIVE)


def _refuse_queen_url(call: Call, command: str) -> None:
    """Raises click.UsageError: what was meant for another machine is not done on this one."""
    if call.queen_url:
        raise click.UsageError(f"{command} is for this machine; --queen {call.queen_url} names a queen elsewhere.")


def _start(call: Call, name: str, host: str | None, port: int | None) -> None:
    installation = call.installation({f"{name}.host": host, f"{name}.port": port})
    status, started = call.run(start_daemon(installation, name, call.screen.narrate))
    if not started:
        check_address(status, host=host, port=port)
    if call.screen.as_json:
        call.screen.json({name: asdict(status), "started": started})
    else:
        call.screen.line(f"{sentence(status)}{'' if started else ' (it was running)'}")


def _stop(call: Call, installation: Installation, name: str) -> None:
    gone = ended_unexpectedly(installation.paths, name)
    report = call.run(stop_local(installation, name, call.screen.narrate))
    left = call.run(end_workers_left(installation)) if name == HIVE else {}
    if call.screen.as_json:
        workers = [{"id": worker_id, **_stopped(ended)} for worker_id, ended in left.items()]
        stopped = {name: _stopped(report) if report else None}
        call.screen.json(stopped | ({"workers": workers} if name == HIVE else {}))
        return
    call.screen.line(f"{name}: {report.describe() if report else 'none was running'}")
    if gone:
        call.screen.line(ended_sentence(gone))
    for worker_id, ended in left.items():
        call.screen.line(f"worker {worker_id}, left without its hive: {ended.describe()}")


def _stopped(report: ExitReport) -> dict[str, Any]:
    return {"pid": report.identity.pid, "ended": report.ended}


def _status(call: Call, name: str) -> None:
    installation = call.installation_or_defaults()
    status = call.run(daemon_status(installation, name))
    ended = None if status else ended_unexpectedly(installation.paths, name)
    if call.screen.as_json:
        call.screen.json(
            {name: asdict(status) if status else None, "ended_unexpectedly": asdict(ended) if ended else None}
        )
        return
    call.screen.line(sentence(status) if status else none_running(name))
    if ended:
        call.screen.line(ended_sentence(ended))


def none_running(name: str) -> str:
    return f"{name}: none is running (start one with: rbee {name} start)"


def ended_sentence(ended: EndedDaemon) -> str:
    """``queen: pid 4711, which was at http://127.0.0.1:8080, ended unexpectedly (see: rbee logs; /…/queen.log)``."""
    return f"{ended.name}: pid {ended.pid}, which was at {ended.url}, ended unexpectedly (see: rbee logs; {ended.log})"


def sentence(status: DaemonStatus) -> str:
    """``queen: 0.1.0 at http://127.0.0.1:8080, pid 4711, up 3m05s``."""
    pid = f", pid {status.pid}" if status.pid else ""
    up = f", up {age(status.started_at, time.time())}" if status.started_at else ""
    return f"{status.name}: {status.version} at {status.url}{pid}{up}{', ephemeral' if status.ephemeral else ''}"
