"""`rbee install`: this rbee for a user, or for the whole machine."""

import os
from dataclasses import asdict
from pathlib import Path

import click

from daemons.lifecycle.installing import Step
from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.columns import STEP_COLUMNS
from rbee_tui.keeper.after_install import Note, notes, this_machine
from rbee_tui.keeper.install import Wish, carry_out, find_scripts, make_plan, places_of


@click.command(short_help="Install programs, configuration and services")
@click.option("--system", is_flag=True, help="For the whole machine: /usr/local/bin, /etc/rbee, /var/lib/rbee.")
@click.option("--service", is_flag=True, help="Write systemd units of queen and hive, too.")
@click.option("--prefix", type=click.Path(), metavar="DIR", help="Put everything below this folder.")
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be done, and do nothing.")
@command_options
def install(call: Call, system: bool, service: bool, prefix: str | None, only_plan: bool) -> None:
    """Install this rbee: links to its programs, a configuration file of comments, its state folder and keys.

    For you alone, in your home folder; what is there already is kept. Again, it does what is still missing.
    """
    if call.queen_url:
        raise click.UsageError(f"rbee install is for this machine; --queen {call.queen_url} names a queen elsewhere.")
    if prefix == "":
        raise click.BadParameter("'' names no folder.", param_hint="'--prefix'")
    wish = Wish(system, service, Path(prefix).absolute() if prefix else None)
    settings = call.installation_or_defaults().settings
    steps = make_plan(wish, settings, os.environ)
    places = places_of(wish, os.environ)
    if only_plan:
        _show_plan(call, steps)
        return
    done = carry_out(steps, wish, places, call.screen.narrate)
    left = notes(wish, places, this_machine(os.environ, find_scripts()), os.environ)
    _show_end(call, steps, done, left)


def _show_plan(call: Call, steps: list[Step]) -> None:
    if call.screen.as_json:
        call.screen.json({"steps": [_row(step) for step in steps]})
        return
    call.screen.table(steps, STEP_COLUMNS)
    due = sum(step.action.changes for step in steps)
    call.screen.say(f"{due} of {len(steps)} steps are to be done" if due else "nothing to do: all of it is there")


def _show_end(call: Call, steps: list[Step], done: list[Step], left: list[Note]) -> None:
    if call.screen.as_json:
        call.screen.json(
            {"steps": [_row(step) for step in steps], "done": len(done), "next": [asdict(n) for n in left]}
        )
        return
    call.screen.line(
        f"installed: {len(done)} of {len(steps)} parts are new" if done else "nothing to do: all of it is there"
    )
    for note in left:
        call.screen.line(f"next: {note.sentence}")
        if note.command:
            call.screen.line(f"      {note.command}")


def _row(step: Step) -> dict[str, str]:
    return {
        "action": step.action.value,
        "kind": step.thing.kind.value,
        "path": str(step.thing.path),
        "about": step.thing.about,
        "why": step.why,
    }
