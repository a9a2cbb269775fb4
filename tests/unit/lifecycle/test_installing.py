"""The plan of an install: what is missing is made, what is ours is renewed, what is somebody else's is left alone."""

from pathlib import Path

import pytest

from daemons.kit.paths import system_places, user_places
from daemons.kit.policy import Policy
from daemons.lifecycle.installing import PROGRAMS, Action, Found, Kind, Thing, plan, step_for, wanted
from daemons.lifecycle.plan import QUEEN
from daemons.lifecycle.units import Service

PLACES = user_places({"HOME": "/home/bee"})
SCRIPTS = {name: Path("/opt/rbee/bin") / name for name in PROGRAMS}
LINK = Thing(Path("/home/bee/.local/bin/rbee"), Kind.LINK, "program rbee", "/opt/rbee/bin/rbee")
CONFIG = Thing(Path("/home/bee/.config/rbee/config.toml"), Kind.FILE, "configuration", "# new", yours=True)
UNIT = Thing(Path("/home/bee/.config/systemd/user/rbee-queen.service"), Kind.FILE, "systemd unit", "new")
STATE = Thing(Path("/home/bee/.rbee"), Kind.FOLDER, "state", mode=0o700)
KEY = Thing(Path("/home/bee/.rbee/keys/admin.key"), Kind.KEY, "key", "admin")


@pytest.mark.parametrize(
    ("thing", "found", "action"),
    [
        (LINK, None, Action.MAKE),
        (LINK, Found(Kind.LINK, LINK.content), Action.KEEP),
        (LINK, Found(Kind.LINK, "/old/bin/rbee", ours=True), Action.REPLACE),
        (LINK, Found(Kind.LINK, "/usr/bin/something"), Action.LEAVE),
        (LINK, Found(Kind.FILE, "#!/bin/sh"), Action.LEAVE),
        (LINK, Found(Kind.FOLDER, mode=0o755), Action.LEAVE),
        (CONFIG, None, Action.MAKE),
        (CONFIG, Found(Kind.FILE, "[queen]\nport = 1"), Action.KEEP),
        (CONFIG, Found(Kind.FOLDER), Action.LEAVE),
        (UNIT, Found(Kind.FILE, "new", ours=True), Action.KEEP),
        (UNIT, Found(Kind.FILE, "older", ours=True), Action.REPLACE),
        (UNIT, Found(Kind.FILE, "my own"), Action.LEAVE),
        (STATE, None, Action.MAKE),
        (STATE, Found(Kind.FOLDER, mode=0o700), Action.KEEP),
        (STATE, Found(Kind.FOLDER, mode=0o500), Action.KEEP),
        (STATE, Found(Kind.FOLDER, mode=0o750), Action.CLOSE),
        (STATE, Found(Kind.FILE), Action.LEAVE),
        (KEY, None, Action.MAKE),
        (KEY, Found(Kind.KEY), Action.KEEP),
        (KEY, Found(Kind.OTHER), Action.LEAVE),
    ],
)
def test_one_thing(thing: Thing, found: Found | None, action: Action) -> None:
    step = step_for(thing, found)
    assert step.action is action
    assert bool(step.why) is (action in {Action.REPLACE, Action.LEAVE, Action.CLOSE})


def test_the_models_folder_is_as_open_as_the_person_has_it() -> None:
    models = next(thing for thing in wanted(PLACES, {}, [], Policy()) if thing.about == "models")
    assert step_for(models, Found(Kind.FOLDER, mode=0o775)).action is Action.KEEP


def test_everything_that_belongs_to_it_is_wanted_outer_folders_first() -> None:
    services = [Service(QUEEN, ("/opt/rbee/bin/queen-rbee", "serve"), {})]
    things = wanted(PLACES, SCRIPTS, services, Policy())
    assert len({thing.path for thing in things}) == len(things)
    assert {thing.path.name for thing in things if thing.kind is Kind.LINK} == set(PROGRAMS)
    assert {thing.content for thing in things if thing.kind is Kind.KEY} == {"admin", "infer", "hive"}
    assert things[-1].path == Path("/home/bee/.config/systemd/user/rbee-queen.service")
    made: set[Path] = set()
    for thing in things:
        assert not any(other.is_relative_to(thing.path) for other in made), thing.path
        made.add(thing.path)


def test_programs_that_pip_put_there_itself_are_not_linked_to_themselves() -> None:
    scripts = {name: PLACES.programs / name for name in PROGRAMS}
    assert not [thing for thing in wanted(PLACES, scripts, [], Policy()) if thing.kind is Kind.LINK]


def test_what_is_there_already_leaves_nothing_to_do() -> None:
    things = wanted(PLACES, SCRIPTS, [], Policy())
    steps = plan(things, lambda thing: Found(thing.kind, thing.content, thing.mode))
    assert [step.thing for step in steps] == things
    assert not any(step.action.changes for step in steps)


def test_a_configuration_is_closed_to_others_for_a_user_and_open_for_a_machine() -> None:
    modes = {
        thing.path: thing.mode
        for places in (PLACES, system_places())
        for thing in wanted(places, {}, [], Policy())
        if thing.about == "configuration"
    }
    assert modes == {Path("/home/bee/.config/rbee/config.toml"): 0o600, Path("/etc/rbee/config.toml"): 0o644}
