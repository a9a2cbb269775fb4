"""What `rbee doctor` says of an install: its programs, its units, and whether services outlive a logout."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from daemons.contracts.errors import RbeeError
from daemons.kit.settings import Settings
from daemons.lifecycle.installing import Action, Kind, Step
from rbee_tui.keeper.after_install import Machine, this_machine
from rbee_tui.keeper.checks import Check, Result
from rbee_tui.keeper.install import Wish, find_scripts, make_plan

INSTALL = "rbee install"
UNIT_SUFFIX = ".service"


def check_installation(settings: Settings, environ: Mapping[str, str]) -> list[Check]:
    """Programs and, where units are written, services. Reads the disk."""
    try:
        steps = make_plan(Wish(service=True), settings, environ)
        machine = this_machine(environ, find_scripts())
    except RbeeError as error:
        return [Check("programs", Result.WARN, error.message, error.hint)]
    links = [step for step in steps if step.thing.kind is Kind.LINK]
    units = [step for step in steps if step.thing.path.suffix == UNIT_SUFFIX]
    return [judge_programs(links), *judge_services(units, machine)]


def judge_programs(links: Sequence[Step]) -> Check:
    """Whether the programs that were installed are those of this environment."""
    astray = [step for step in links if step.action in {Action.REPLACE, Action.LEAVE}]
    if astray:
        told = f"{astray[0].thing.path}: {astray[0].why}, and this rbee is {Path(astray[0].thing.content).parent}"
        return Check("programs", Result.WARN, told, INSTALL)
    missing = [step.thing.path.name for step in links if step.action is Action.MAKE]
    if links and len(missing) == len(links):
        return Check("programs", Result.OK, f"not installed for you; {INSTALL} would put them on your PATH")
    if missing:
        return Check("programs", Result.WARN, f"not installed: {', '.join(missing)}", INSTALL)
    return Check("programs", Result.OK, f"installed in {links[0].thing.path.parent}" if links else "installed by pip")


def judge_services(units: Sequence[Step], machine: Machine) -> list[Check]:
    """Whether the units that are there are those of this rbee. None is needed."""
    there = [step for step in units if step.action is not Action.MAKE]
    if not there:
        return []
    stale = [step.thing.path.name for step in there if step.action is Action.REPLACE]
    if stale:
        told = f"{', '.join(stale)}: written for another version, environment or configuration"
        return [Check("services", Result.WARN, told, f"{INSTALL} --service && systemctl --user daemon-reload")]
    names = ", ".join(step.thing.path.name for step in there)
    if machine.linger is False:
        told = f"{names}; they end when you log out, because lingering is off"
        return [Check("services", Result.WARN, told, "sudo loginctl enable-linger $USER")]
    return [Check("services", Result.OK, names)]
