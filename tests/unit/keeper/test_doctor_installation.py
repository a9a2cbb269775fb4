"""What `rbee doctor` says of installed programs and units."""

from pathlib import Path

import pytest

from daemons.kit.paths import user_places
from daemons.kit.settings import Settings
from daemons.lifecycle.installing import Action, Kind, Step, Thing
from rbee_tui.keeper.after_install import Machine
from rbee_tui.keeper.checks import Check, Result
from rbee_tui.keeper.doctor_installation import check_installation, judge_programs, judge_services
from rbee_tui.keeper.install import Wish, carry_out, make_plan

UNIT = Thing(Path("/home/bee/.config/systemd/user/rbee-queen.service"), Kind.FILE, "systemd unit")
LINKS = [Thing(Path("/home/bee/.local/bin") / name, Kind.LINK, "program", f"/opt/bin/{name}") for name in ("a", "b")]


def machine(linger: bool | None) -> Machine:
    return Machine(path=[], shell="", rbee="", systemd=True, linger=linger, account=False, closed="")


@pytest.mark.parametrize(
    ("actions", "result", "words"),
    [
        ((Action.MAKE, Action.MAKE), Result.OK, "not installed for you"),
        ((Action.KEEP, Action.KEEP), Result.OK, "installed in /home/bee/.local/bin"),
        ((Action.KEEP, Action.MAKE), Result.WARN, "not installed: b"),
        ((Action.KEEP, Action.REPLACE), Result.WARN, "/home/bee/.local/bin/b: elsewhere"),
        ((Action.LEAVE, Action.KEEP), Result.WARN, "/home/bee/.local/bin/a: elsewhere"),
        ((), Result.OK, "installed by pip"),
    ],
)
def test_programs(actions: tuple[Action, ...], result: Result, words: str) -> None:
    check = judge_programs([Step(action, link, "elsewhere") for action, link in zip(actions, LINKS, strict=False)])
    assert (check.result, words in check.sentence) == (result, True), check
    assert bool(check.command) is (result is Result.WARN)


@pytest.mark.parametrize(
    ("action", "linger", "result", "command"),
    [
        (Action.KEEP, True, Result.OK, ""),
        (Action.LEAVE, None, Result.OK, ""),
        (Action.KEEP, False, Result.WARN, "loginctl enable-linger"),
        (Action.REPLACE, True, Result.WARN, "rbee install --service"),
    ],
)
def test_services(action: Action, linger: bool | None, result: Result, command: str) -> None:
    (check,) = judge_services([Step(action, UNIT, "older")], machine(linger))
    assert (check.result, command in check.command) == (result, True)


def test_no_unit_is_nothing_to_say() -> None:
    assert judge_services([Step(Action.MAKE, UNIT)], machine(False)) == []


def test_a_real_install_is_found(tmp_path: Path) -> None:
    environ, settings = {"HOME": str(tmp_path)}, Settings()
    assert [check.name for check in check_installation(settings, environ)] == ["programs"]
    wish = Wish(service=True)
    carry_out(make_plan(wish, settings, environ), wish, user_places(environ), lambda _: None)
    programs, services = check_installation(settings, environ)
    assert programs == Check("programs", Result.OK, f"installed in {tmp_path}/.local/bin")
    assert "rbee-queen.service, rbee-hive.service" in services.sentence
