"""What `rbee install` wants on a machine, and the steps from what it finds there, as pure functions.

A step never overwrites what somebody else made: such a thing is left as it is, and the step says so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from daemons.kit.auth import ADMIN_KEY, HIVE_KEY, INFER_KEY, key_path
from daemons.kit.config_file import default_config
from daemons.kit.paths import PRIVATE_FOLDER_MODE, Places
from daemons.kit.policy import Policy
from daemons.lifecycle.units import Service, unit_text

PROGRAMS = ("rbee", "rbee-keeper", "queen-rbee", "rbee-hive", "llm-worker-rbee")
_OPEN_FOLDER_MODE = 0o777  # as the person's umask has it


class Kind(StrEnum):
    """What is at a path. A key is a file whose content is made up when it is made."""

    FOLDER = "folder"
    LINK = "link"
    FILE = "file"
    KEY = "key"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that shall be there. `content` is a file's text, a link's target, a key's name.

    `yours`: made once and then the person's own, whatever it says.
    """

    path: Path
    kind: Kind
    about: str
    content: str = ""
    mode: int = 0o644
    yours: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What is there now. `ours`: an install wrote it, and nobody changed it since."""

    kind: Kind
    content: str = ""
    mode: int = 0
    ours: bool = False


class Action(StrEnum):
    """What a step does with its thing."""

    MAKE = "make"
    REPLACE = "replace"
    CLOSE = "close"
    KEEP = "keep"
    LEAVE = "leave"

    @property
    def changes(self) -> bool:
        """Whether anything is written."""
        return self in {Action.MAKE, Action.REPLACE, Action.CLOSE}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing, what is done with it, and why."""

    action: Action
    thing: Thing
    why: str = ""


def wanted(places: Places, scripts: Mapping[str, Path], services: Sequence[Service], policy: Policy) -> list[Thing]:
    """Everything that belongs to an installation. `scripts`: program name -> the script of this environment."""
    links = [
        Thing(places.programs / name, Kind.LINK, f"program {name}", content=str(script))
        for name, script in scripts.items()
        if script != places.programs / name
    ]
    state = places.state
    folders = [Thing(state.home, Kind.FOLDER, "state", mode=PRIVATE_FOLDER_MODE)]
    folders += [Thing(path, Kind.FOLDER, "state", mode=PRIVATE_FOLDER_MODE) for path in state.folders[1:]]
    keys = [Thing(key_path(state, name), Kind.KEY, "key", content=name) for name in (ADMIN_KEY, INFER_KEY, HIVE_KEY)]
    return [
        *links,
        Thing(places.config, Kind.FILE, "configuration", default_config(), places.config_mode, yours=True),
        *folders,
        *keys,
        Thing(state.models, Kind.FOLDER, "models", mode=_OPEN_FOLDER_MODE),
        *(
            Thing(places.units / service.unit, Kind.FILE, "systemd unit", content=unit_text(service, policy))
            for service in services
        ),
    ]


def plan(things: Iterable[Thing], found: Callable[[Thing], Found | None]) -> list[Step]:
    """A step for each thing, in order; `found` tells what is there (None: nothing)."""
    return [step_for(thing, found(thing)) for thing in things]


def step_for(thing: Thing, found: Found | None) -> Step:
    """What to do about one thing."""
    if found is None:
        return Step(Action.MAKE, thing)
    if found.kind is not thing.kind:
        return Step(Action.LEAVE, thing, f"there is a {found.kind.value} already that is not rbee's")
    if thing.kind is Kind.FOLDER:
        if found.mode & ~thing.mode:
            return Step(Action.CLOSE, thing, f"it had mode {found.mode:04o}")
        return Step(Action.KEEP, thing)
    if thing.yours or thing.kind is Kind.KEY or found.content == thing.content:
        return Step(Action.KEEP, thing)
    if found.ours:
        return Step(Action.REPLACE, thing, f"it led to {found.content}" if thing.kind is Kind.LINK else "it was older")
    return Step(Action.LEAVE, thing, _foreign(thing, found))


def _foreign(thing: Thing, found: Found) -> str:
    if thing.kind is Kind.LINK:
        return f"it leads to {found.content}, which is not rbee's"
    return "somebody has written or changed it"
