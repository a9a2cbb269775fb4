"""`rbee doctor`: is everything in order here?"""

import click

from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.clean import one_line
from rbee_tui.cli.exits import Exit
from rbee_tui.keeper.checks import Check, Result
from rbee_tui.keeper.doctor import run_checks


@click.command(short_help="Check this installation and say what to run")
@command_options
@click.pass_context
def doctor(context: click.Context, call: Call) -> None:
    """Check this installation: folders, settings, keys, packages, services, llama.cpp, devices, daemons, ports.

    Exits with 1 when something does not work.
    """

    def tell(check: Check) -> None:
        if not call.screen.as_json:
            for line in lines_of(check):
                call.screen.line(line)

    checks = call.run(run_checks(tell))
    bad = [check for check in checks if check.result is Result.FAIL]
    if call.screen.as_json:
        rows = [{"name": c.name, "result": c.result, "sentence": c.sentence, "command": c.command} for c in checks]
        call.screen.json({"ok": not bad, "checks": rows})
    if bad:
        context.exit(Exit.FAILED)


def lines_of(check: Check) -> list[str]:
    """The check on one line, and what to run on a line of its own, so that it can be copied whole."""
    lines = [f"{check.result.value:<4}  {check.name}: {one_line(check.sentence)}"]
    return [*lines, f"      run: {check.command}"] if check.command else lines
