"""`rbee logs`: what queen, hives and workers wrote."""

import asyncio

import click

from daemons.contracts.fleet import LogLine, LogQuery
from daemons.contracts.wire import parse_request
from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.clean import one_line
from rbee_tui.cli.columns import log_line
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.logs import follow_logs, parse_since, read_local_logs, read_logs
from rbee_tui.keeper.session import QueenSession, connect_if_running


class TimeSpan(click.ParamType[float]):
    """``90``, ``90s``, ``10m``, ``2h``, ``1d`` as seconds."""

    name = "time span"

    def convert(self, value: float | str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_since(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(short_help="Log lines of queen, hives and workers")
@click.option("--node", metavar="N", help="Only of this node.")
@click.option("--worker", metavar="W", help="Only of this worker.")
@click.option("--since", "since_s", type=TimeSpan(), metavar="10m", help="Only this far back.")
@click.option(
    "--tail", type=click.IntRange(min=0), default=100, show_default=True, metavar="N", help="Last N lines; 0: all."
)
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl+C.")
@command_options
def logs(call: Call, node: str | None, worker: str | None, since_s: float | None, tail: int, follow: bool) -> None:
    """Print log lines, oldest first. Without a queen the files of this machine are read.

    With --json each line is one object.
    """
    query = parse_request(
        LogQuery, {"node": node, "worker": worker, "since_s": since_s, "tail": tail, "follow": follow}
    )

    def show(line: LogLine) -> None:
        if call.screen.as_json:
            call.screen.line(line.model_dump_json())
        else:
            call.screen.line(one_line(log_line(line)))

    if follow:
        call.with_queen(lambda session: follow_logs(session, query, show))
        return
    lines = call.run(_read(call, call.installation(), query))
    for line in lines:
        show(line)
    if not lines:
        call.screen.say("there are no such lines")


async def _read(call: Call, installation: Installation, query: LogQuery) -> list[LogLine]:
    session: QueenSession | None = await connect_if_running(installation, call.screen.narrate)
    if session is None:
        return await asyncio.to_thread(read_local_logs, installation.paths, query)
    async with session:
        return await read_logs(session, query)
