"""systemd units: what stands in them, that systemd takes them, and that a changed one is known as such."""

import shutil
import sys
from pathlib import Path

import pytest

from daemons.kit.policy import Policy
from daemons.lifecycle.plan import HIVE, QUEEN, DaemonKind
from daemons.lifecycle.units import Service, is_as_written, unit_text
from tests.support.systemd import verify_units

ODD = '/tmp/Bienen stöcke/100%/$HOME/"q"/\\'


def directives(text: str) -> dict[str, list[tuple[str, str]]]:
    """Section -> its directives in order; nothing else may stand there but comments and blank lines."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            section = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            name, sign, value = line.partition("=")
            assert (sign, bool(value)) == ("=", True), line
            section.append((name, value))
    return sections


def service(kind: DaemonKind = HIVE, **changes: object) -> Service:
    fields: dict[str, object] = {"kind": kind, "argv": (sys.executable, "serve"), "environment": {}, **changes}
    return Service(**fields)  # type: ignore[arg-type] # each test gives what it is about


@pytest.mark.parametrize("kind", [QUEEN, HIVE])
def test_the_end_of_a_daemon_is_not_the_end_of_its_workers(kind: DaemonKind) -> None:
    rows = dict(directives(unit_text(service(kind), Policy()))["Service"])
    assert (rows["KillMode"], rows["OOMPolicy"], rows["Restart"]) == ("process", "continue", "on-failure")
    assert rows.get("RestartKillSignal") == ("SIGUSR1" if kind is HIVE else None)
    assert rows["Type"] == "notify"


def test_restarts_and_the_time_to_stop_follow_the_policy() -> None:
    policy = Policy(restart_crashes=3, restart_window_s=90, drain_s=300, term_s=7)
    sections = directives(unit_text(service(), policy))
    unit, rows = dict(sections["Unit"]), dict(sections["Service"])
    assert (unit["StartLimitBurst"], unit["StartLimitIntervalSec"], rows["TimeoutStopSec"]) == ("3", "90", "321")


def test_the_hive_comes_first_and_nothing_waits_for_a_network() -> None:
    assert ("After", "rbee-hive.service") in directives(unit_text(service(QUEEN), Policy()))["Unit"]
    assert "network" not in unit_text(service(QUEEN), Policy()) + unit_text(service(HIVE), Policy())


def test_a_user_service_has_no_account_and_a_system_service_has_its_own() -> None:
    user, system = (
        directives(unit_text(service(user=name, state_directory="rbee" if name else ""), Policy()))
        for name in ("", "rbee")
    )
    assert (user["Install"], system["Install"]) == (
        [("WantedBy", "default.target")],
        [("WantedBy", "multi-user.target")],
    )
    assert {"User", "StateDirectory"}.isdisjoint(dict(user["Service"]))
    rows = dict(system["Service"])
    assert (rows["User"], rows["StateDirectory"], rows["StateDirectoryMode"]) == ("rbee", "rbee", "0700")


def test_odd_characters_are_quoted() -> None:
    text = unit_text(service(argv=(f"{ODD}/queen-rbee", "serve"), environment={"RBEE_HOME": ODD}), Policy())
    rows = dict(directives(text)["Service"])
    quoted = '/tmp/Bienen stöcke/100%%/$HOME/\\"q\\"/\\\\'
    assert rows["Environment"] == f'"RBEE_HOME={quoted}"'
    assert rows["ExecStart"] == f'"{quoted.replace("$", "$$")}/queen-rbee" serve'


@pytest.mark.parametrize("user", ["", "root"])
def test_systemd_takes_them(tmp_path: Path, user: str) -> None:
    """In a folder with spaces and letters of another alphabet, which the quoting has to bear."""
    program = tmp_path / "Bienen stöcke" / "queen-rbee"
    program.parent.mkdir()
    program.symlink_to(shutil.which("true") or "/bin/true")
    environment = {"RBEE_HOME": str(program.parent), "RBEE_CONFIG": '/100%/"q"/$HOME'}
    files = []
    for kind in (QUEEN, HIVE):
        made = Service(kind, (str(program), "serve"), environment, user, "rbee" if user else "")
        files.append(tmp_path / made.unit)
        files[-1].write_text(unit_text(made, Policy()), encoding="utf-8")
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    verify_units(files, environ, of_user=not user)


def test_a_unit_is_known_again_until_somebody_changes_it() -> None:
    text = unit_text(service(), Policy())
    assert is_as_written(text)
    assert is_as_written(unit_text(service(), Policy(drain_s=1)))
    assert not is_as_written(text.replace("RestartSec=5", "RestartSec=1"))
    assert not is_as_written("[Service]\nExecStart=/bin/true\n")
    assert not is_as_written("")
