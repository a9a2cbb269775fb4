"""`rbee install`: programs, configuration, state and systemd units, for this user or for the whole machine.

It looks, plans, checks that it may write, and then carries out the plan, one step after the other. Every step is whole
or not there, so that it can be interrupted anywhere, and said again.
"""

import errno
import os
import shlex
import stat
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.auth import ensure_key
from daemons.kit.narration import Listener
from daemons.kit.paths import SYSTEM_HOME, Places, system_places, user_places
from daemons.kit.settings import Settings
from daemons.lifecycle.installing import PROGRAMS, Action, Found, Kind, Step, Thing, plan, wanted
from daemons.lifecycle.plan import HIVE, KINDS, QUEEN, DaemonKind, binding_of
from daemons.lifecycle.units import Service, is_as_written
from rbee_tui.keeper.session import narration

SERVICE_USER = "rbee"
_ENTRY_POINTS = ("rbee_tui.cli.main", "daemons.queen.main", "daemons.hive.main", "daemons.worker.main")
_KEPT_VARIABLES = ("RBEE_HOME", "RBEE_CONFIG", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
_DONE = {Action.MAKE: "made", Action.REPLACE: "replaced", Action.CLOSE: "closed to others"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for on the command line. `prefix` None: the places themselves."""

    system: bool = False
    service: bool = False
    prefix: Path | None = None

    @property
    def flags(self) -> list[str]:
        """The same as words of a command line."""
        named = [("--system", self.system), ("--service", self.service)]
        prefix = ["--prefix", str(self.prefix)] if self.prefix else []
        return [flag for flag, given in named if given] + prefix


def places_of(wish: Wish, environ: Mapping[str, str]) -> Places:
    """Where everything goes. Raises RbeeError(HOME_UNUSABLE)."""
    if wish.system:
        return system_places(wish.prefix or Path("/"))
    return user_places({"HOME": str(wish.prefix)} if wish.prefix else environ)


def make_plan(wish: Wish, settings: Settings, environ: Mapping[str, str]) -> list[Step]:
    """What has to be done, and what is there already. Reads the disk, writes nothing.

    Raises RbeeError: HOME_UNUSABLE, INSTALL_FAILED when this environment lacks the programs.
    """
    places = places_of(wish, environ)
    scripts = find_scripts()
    services = services_of(wish, settings, scripts, environ) if wish.service else []
    return plan(wanted(places, scripts, services, settings.policy), lambda thing: look(thing, wish))


def find_scripts() -> dict[str, Path]:
    """The programs of the environment that this keeper runs from. Raises RbeeError(INSTALL_FAILED)."""
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    folders = [Path(sysconfig.get_path("scripts", scheme)) for scheme in schemes]
    for folder in folders:
        scripts = {name: folder / name for name in PROGRAMS}
        if all(script.is_file() for script in scripts.values()):
            return scripts
    raise RbeeError(
        Code.INSTALL_FAILED,
        f"this rbee was not installed by pip: not all of {', '.join(PROGRAMS)} are in {folders[0]}",
        details={"folders": [str(folder) for folder in folders]},
        hint="pip install . in the folder of rbee",
    )


def services_of(
    wish: Wish, settings: Settings, scripts: Mapping[str, Path], environ: Mapping[str, str]
) -> list[Service]:
    """Queen and hive as services. A user's units keep what moved his folders; a system's have the system's folders."""
    places = places_of(wish, environ)
    if wish.system or wish.prefix:
        variables = {"RBEE_HOME": str(places.state.home), "RBEE_CONFIG": str(places.config)}
    else:
        variables = {name: _absolute(environ[name]) for name in _KEPT_VARIABLES if environ.get(name)}
    if wish.system and not wish.prefix:
        del variables["RBEE_CONFIG"]  # where it is looked for anyway
    state = SYSTEM_HOME.name if places.state.home == SYSTEM_HOME else ""
    return [
        Service(
            kind,
            (_program(kind, settings, scripts), "serve"),
            variables,
            user=SERVICE_USER if wish.system else "",
            state_directory=state,
        )
        for kind in KINDS.values()
    ]


def _absolute(value: str) -> str:
    return str(Path(value).expanduser().absolute())


def _program(kind: DaemonKind, settings: Settings, scripts: Mapping[str, Path]) -> str:
    names = {QUEEN.name: "queen-rbee", HIVE.name: "rbee-hive"}
    return binding_of(kind, settings).program or str(scripts[names[kind.name]])


def look(thing: Thing, wish: Wish) -> Found | None:
    """What is at the path of `thing` now; None when nothing is. Raises RbeeError when that cannot be seen."""
    try:
        return _seen(thing)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refusal([(thing.path, error)], wish) from error


def _seen(thing: Thing) -> Found:
    state = thing.path.lstat()
    if stat.S_ISLNK(state.st_mode) and thing.kind is not Kind.LINK:
        state = thing.path.stat() if thing.path.exists() else state
    mode = stat.S_IMODE(state.st_mode) & 0o777
    if stat.S_ISDIR(state.st_mode):
        return Found(Kind.FOLDER, mode=mode)
    if stat.S_ISLNK(state.st_mode):
        return _look_at_link(thing)
    if not stat.S_ISREG(state.st_mode):
        return Found(Kind.OTHER, mode=mode)
    if thing.kind is Kind.KEY or thing.yours:
        return Found(thing.kind, mode=mode)
    text = thing.path.read_text(encoding="utf-8", errors="replace")
    return Found(Kind.FILE, text, mode, ours=is_as_written(text))


def _look_at_link(thing: Thing) -> Found:
    target = thing.path.parent / os.readlink(thing.path)
    if target.exists() and os.path.samefile(target, thing.content):
        return Found(Kind.LINK, thing.content)
    return Found(Kind.LINK, str(target), ours=_is_program_of_rbee(target))


def _is_program_of_rbee(target: Path) -> bool:
    """Whether a link leads to a program of another environment of rbee, or to one that is gone."""
    if not target.exists():
        return target.name in PROGRAMS
    try:
        text = target.read_text(encoding="utf-8")[:4096]
    except (OSError, UnicodeDecodeError):
        return False
    return any(entry_point in text for entry_point in _ENTRY_POINTS)


def carry_out(steps: Sequence[Step], wish: Wish, places: Places, say: Listener) -> list[Step]:
    """Do what the plan says; the steps that were done.

    Raises RbeeError: PERMISSION_DENIED, HOME_UNUSABLE or INSTALL_FAILED before anything is made when a place cannot be
    written, INSTALL_FAILED when a step fails (a full disk) or something of somebody else's is in the way of one, and
    what `ensure_key` raises.
    """
    due = [step for step in steps if step.action.changes]
    faults = [fault for step in due if (fault := _cannot_write(step.thing)) is not None]
    if faults:
        raise _refusal(faults, wish)
    for done, step in enumerate(due):
        try:
            _do(step, places)
        except OSError as error:
            raise _broken_off(step, error, done, len(due)) from error
        say(narration(f"{_DONE[step.action]} {sentence(step)}"))
    _refuse_left(steps)
    return due


def sentence(step: Step) -> str:
    """``/home/bee/.local/bin/rbee -> /opt/rbee/bin/rbee (program rbee)``."""
    thing = step.thing
    leads = f" -> {thing.content}" if thing.kind is Kind.LINK else ""
    return f"{thing.path}{leads} ({thing.about}{f'; {step.why}' if step.why else ''})"


def _cannot_write(thing: Thing) -> tuple[Path, OSError] | None:
    """The folder that a step would write in and cannot, and why."""
    folder = next(parent for parent in thing.path.parents if os.path.lexists(parent))
    if not folder.is_dir():
        return folder, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if os.access(folder, os.W_OK | os.X_OK):
        return None
    read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
    number = errno.EROFS if read_only else errno.EACCES
    return folder, OSError(number, os.strerror(number))


def _refusal(faults: Iterable[tuple[Path, OSError]], wish: Wish) -> RbeeError:
    """What keeps us from writing, each folder once. sudo helps against permissions alone."""
    reasons = {str(folder): error for folder, error in faults}
    numbers = {error.errno for error in reasons.values()}
    told = "; ".join(f"{folder}: {error.strerror}" for folder, error in reasons.items())
    code, hint = Code.INSTALL_FAILED, f"ls -ld {shlex.join(reasons)}"
    if numbers <= {errno.EACCES, errno.EPERM}:
        code = Code.PERMISSION_DENIED
        if wish.system:
            hint = f"sudo {shlex.join([str(find_scripts()['rbee']), 'install', *wish.flags])}"
    elif errno.EROFS in numbers and not wish.system and not wish.prefix:
        code, hint = Code.HOME_UNUSABLE, "export HOME=/path/to/folder"
    return RbeeError(
        code,
        f"nothing was installed, because not all of it can be written: {told}",
        details={"folders": {folder: error.strerror for folder, error in reasons.items()}},
        hint=hint,
    )


def _broken_off(step: Step, error: OSError, done: int, due: int) -> RbeeError:
    return RbeeError(
        Code.INSTALL_FAILED,
        f"cannot make {step.thing.path}: {error.strerror or error}; {done} of {due} steps are done, "
        "and the same command goes on from there",
        details={"path": str(step.thing.path), "errno": error.errno, "done": done, "steps": due},
        hint=f"df -h {shlex.quote(str(step.thing.path.parent))}",
    )


def _refuse_left(steps: Iterable[Step]) -> None:
    """Say what could not be done, because somebody else's file is there. All the rest is done by then."""
    left = [step for step in steps if step.action is Action.LEAVE]
    if left:
        first = shlex.quote(str(left[0].thing.path))
        raise RbeeError(
            Code.INSTALL_FAILED,
            "; ".join(f"{step.thing.path} was left as it is: {step.why}" for step in left),
            details={"left": [str(step.thing.path) for step in left]},
            hint=f"mv {first} {first}.old",
        )


def _do(step: Step, places: Places) -> None:
    """One step, whole or not at all."""
    thing = step.thing
    if step.action is Action.CLOSE:
        thing.path.chmod(thing.mode)
    elif thing.kind is Kind.FOLDER:
        thing.path.mkdir(mode=thing.mode, parents=True, exist_ok=True)
    elif thing.kind is Kind.KEY:
        ensure_key(places.state, thing.content)
    else:
        thing.path.parent.mkdir(parents=True, exist_ok=True)
        _put(step)


def _put(step: Step) -> None:
    """A file or link under a name of its own first; it gets its place only when it is whole.

    What was not there is put there by link(2), which replaces nothing that came meanwhile.
    """
    thing = step.thing
    fresh = thing.path.with_name(f".{thing.path.name}.{os.getpid()}")
    try:
        if thing.kind is Kind.LINK:
            fresh.symlink_to(thing.content)
        else:
            _write(fresh, thing)
        if step.action is Action.MAKE:
            os.link(fresh, thing.path, follow_symlinks=False)
        else:
            fresh.replace(thing.path)
    finally:
        fresh.unlink(missing_ok=True)


def _write(path: Path, thing: Thing) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, thing.mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(thing.content)
        file.flush()
        os.fsync(file.fileno())
