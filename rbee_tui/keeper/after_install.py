"""What is left to do for the person after an install, each with the command for it."""

import os
import pwd
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemons.kit.paths import Places
from daemons.kit.settings import setting_keys
from daemons.lifecycle.plan import QUEEN
from daemons.lifecycle.units import unit_name
from rbee_tui.keeper.install import SERVICE_USER, Wish

_LINGER = Path("/var/lib/systemd/linger")
_SYSTEMD_RUNS = Path("/run/systemd/system")
"""Made by systemd when it is the first process (sd_booted(3))."""

_PROFILES = {"bash": "~/.bashrc", "zsh": "~/.zshrc"}


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that the person should know, and what to run."""

    sentence: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the notes depend on. `rbee` is the program of that name that a shell finds; `linger` None: not known."""

    path: Sequence[str]
    shell: str
    rbee: str
    systemd: bool
    linger: bool | None
    account: bool
    closed: str
    """A folder on the way to this environment that other users cannot enter; "" when there is none."""


def this_machine(environ: Mapping[str, str], scripts: Mapping[str, Path]) -> Machine:
    """Looks at this machine, for this user."""
    path = environ.get("PATH", "")
    return Machine(
        path=[folder for folder in path.split(os.pathsep) if folder],
        shell=Path(environ.get("SHELL", "")).name,
        rbee=shutil.which("rbee", path=path) or "",
        systemd=_SYSTEMD_RUNS.is_dir(),
        linger=(_LINGER / _user_name()).exists() if _SYSTEMD_RUNS.is_dir() else None,
        account=_has_account(SERVICE_USER),
        closed=_closed_folder([*scripts.values(), Path(__file__)]),
    )


def notes(wish: Wish, places: Places, machine: Machine, environ: Mapping[str, str]) -> list[Note]:
    """Everything that is left to say, in the order in which it is to be done."""
    return [
        *_path_notes(places, machine),
        *_reach_notes(wish, machine),
        *_service_notes(wish, places, machine, environ),
    ]


def _path_notes(places: Places, machine: Machine) -> Iterator[Note]:
    folder = str(places.programs)
    if folder not in machine.path:
        yield Note(f"{folder} is not on your PATH; add it, then open a new shell", _add_to_path(folder, machine.shell))
    elif machine.rbee and Path(machine.rbee).parent != places.programs:
        yield Note(f"a shell finds another rbee first: {machine.rbee}", "type -a rbee")


def _add_to_path(folder: str, shell: str) -> str:
    if shell == "fish":
        return f"fish_add_path {shlex.quote(folder)}"
    line = f'export PATH={shlex.quote(folder)}:"$PATH"'
    return f"echo {shlex.quote(line)} >> {_PROFILES.get(shell, '~/.profile')}"


def _reach_notes(wish: Wish, machine: Machine) -> Iterator[Note]:
    if wish.system and machine.closed:
        yield Note(
            f"other users, and a service, cannot use these programs: they may not enter {machine.closed}; "
            "install from an environment that all may read, such as /opt/rbee",
            f"ls -ld {shlex.quote(machine.closed)}",
        )


def _service_notes(wish: Wish, places: Places, machine: Machine, environ: Mapping[str, str]) -> Iterator[Note]:
    if not wish.service:
        return
    if lost := _lost_variables(environ):
        yield Note(f"services do not see what your shell has set: {', '.join(lost)}", f"nano {places.config}")
    if wish.prefix:
        yield Note(
            f"systemd does not look for units in {places.units}", f"systemd-analyze verify {places.units}/*.service"
        )
        return
    if wish.system and not machine.account:
        yield Note(
            f"the services run as the user {SERVICE_USER}, who does not exist yet",
            f"sudo useradd --system --home-dir {places.state.home} --shell /usr/sbin/nologin {SERVICE_USER}",
        )
    yield _enable(wish, machine)
    if not wish.system and not machine.linger:
        known = "is off" if machine.linger is False else "may be off"
        yield Note(
            f"services of a user end at logout, unless lingering is on; it {known}", "sudo loginctl enable-linger $USER"
        )


def _enable(wish: Wish, machine: Machine) -> Note:
    """The queen starts and watches the hive of its machine; the hive's own unit is for machines without a queen."""
    name = unit_name(QUEEN).removesuffix(".service")
    control = "sudo systemctl" if wish.system else "systemctl --user"
    here = "" if machine.systemd else "systemd does not run here; where it does: "
    return Note(
        f"{here}enable {name}, which starts the hive too (rbee-hive alone where there is no queen)",
        f"{control} daemon-reload && {control} enable --now {name}",
    )


def _lost_variables(environ: Mapping[str, str]) -> list[str]:
    return [key.variable for key in setting_keys() if key.variable in environ]


def _closed_folder(paths: Sequence[Path]) -> str:
    """The outermost folder above these paths that others may not enter."""
    folders = sorted({parent for path in paths for parent in path.resolve().parents})
    return next((str(folder) for folder in folders if not folder.stat().st_mode & 0o001), "")


def _has_account(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
