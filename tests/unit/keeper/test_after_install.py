"""What an install leaves to the person: only what is missing on this machine, each with its command."""

from dataclasses import replace
from pathlib import Path

import pytest

from daemons.kit.paths import system_places, user_places
from rbee_tui.keeper.after_install import Machine, Note, notes, this_machine
from rbee_tui.keeper.install import Wish, find_scripts

ENVIRON = {"HOME": "/home/bee"}
USER, SYSTEM = user_places(ENVIRON), system_places()
READY = Machine(
    path=["/usr/local/bin", "/home/bee/.local/bin"],
    shell="bash",
    rbee="/home/bee/.local/bin/rbee",
    systemd=True,
    linger=True,
    account=True,
    closed="",
)
SERVICE = Wish(service=True)


def said(wish: Wish, machine: Machine, environ: dict[str, str] | None = None) -> list[Note]:
    return notes(wish, SYSTEM if wish.system else USER, machine, environ or ENVIRON)


def test_where_all_is_well_nothing_is_left() -> None:
    assert said(Wish(), READY) == []
    assert said(Wish(system=True), replace(READY, rbee="/usr/local/bin/rbee")) == []


@pytest.mark.parametrize(
    ("shell", "command"),
    [
        ("bash", """echo 'export PATH=/home/bee/.local/bin:"$PATH"' >> ~/.bashrc"""),
        ("zsh", """echo 'export PATH=/home/bee/.local/bin:"$PATH"' >> ~/.zshrc"""),
        ("dash", """echo 'export PATH=/home/bee/.local/bin:"$PATH"' >> ~/.profile"""),
        ("fish", "fish_add_path /home/bee/.local/bin"),
    ],
)
def test_a_folder_that_is_not_on_the_path_comes_with_the_line_for_the_shell(shell: str, command: str) -> None:
    (note,) = said(Wish(), replace(READY, path=["/usr/bin"], shell=shell))
    assert "/home/bee/.local/bin is not on your PATH" in note.sentence
    assert note.command == command


def test_another_rbee_that_is_found_first_is_named() -> None:
    (note,) = said(Wish(), replace(READY, rbee="/usr/bin/rbee"))
    assert "/usr/bin/rbee" in note.sentence


def test_services_are_enabled_by_the_person() -> None:
    (note,) = said(SERVICE, READY)
    assert note.command == "systemctl --user daemon-reload && systemctl --user enable --now rbee-queen"
    (note,) = said(replace(SERVICE, system=True), replace(READY, rbee="/usr/local/bin/rbee"))
    assert note.command == "sudo systemctl daemon-reload && sudo systemctl enable --now rbee-queen"


@pytest.mark.parametrize(("linger", "state"), [(False, "it is off"), (None, "it may be off")])
def test_lingering_is_said_with_its_state(linger: bool | None, state: str) -> None:
    note = said(SERVICE, replace(READY, linger=linger))[-1]
    assert state in note.sentence
    assert note.command == "sudo loginctl enable-linger $USER"


def test_the_account_of_a_system_service_comes_before_the_service() -> None:
    first, second = said(replace(SERVICE, system=True), replace(READY, rbee="", account=False))
    assert first.command.startswith("sudo useradd --system --home-dir /var/lib/rbee ")
    assert "enable --now" in second.command


def test_an_environment_that_others_cannot_enter_is_told_for_the_machine_only() -> None:
    closed = replace(READY, rbee="", closed="/root")
    assert said(Wish(), closed) == []
    (note,) = said(Wish(system=True), closed)
    assert "/root" in note.sentence


def test_what_the_shell_has_set_is_not_lost_in_silence() -> None:
    note = said(SERVICE, READY, {**ENVIRON, "RBEE_QUEEN_PORT": "9", "RBEE_HOME": "/data"})[0]
    assert note.sentence.endswith(": RBEE_QUEEN_PORT")
    assert note.command.endswith(str(USER.config))


def test_below_a_prefix_nothing_is_enabled() -> None:
    assert not [note for note in said(Wish(service=True, prefix=Path("/p")), READY) if "systemctl" in note.command]


def test_this_machine_is_looked_at() -> None:
    machine = this_machine({"PATH": "/usr/bin:/bin", "SHELL": "/bin/zsh"}, find_scripts())
    assert (machine.path, machine.shell) == (["/usr/bin", "/bin"], "zsh")
    assert machine.linger is None or machine.systemd
