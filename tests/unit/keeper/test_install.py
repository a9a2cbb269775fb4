"""An install on a real disk: whole, repeatable, and harmless to what others put there, wherever it is interrupted."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Narration
from daemons.kit.auth import read_key
from daemons.kit.config_file import default_config
from daemons.kit.settings import Settings
from daemons.lifecycle.installing import PROGRAMS, Action, Step
from daemons.lifecycle.units import is_as_written
from rbee_tui.keeper.install import Wish, carry_out, find_scripts, make_plan, places_of

WISH = Wish(service=True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "u").mkdir()
    return tmp_path / "u"


@pytest.fixture
def environ(home: Path) -> dict[str, str]:
    return {"HOME": str(home)}


def run(environ: dict[str, str], wish: Wish = WISH) -> list[Step]:
    """Plan and carry out; the steps done."""
    said: list[Narration] = []
    steps = make_plan(wish, Settings(), environ)
    done = carry_out(steps, wish, places_of(wish, environ), said.append)
    assert len(said) == len(done)
    return done


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder, with the link's target or the file's text."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_all_of_it_is_made_and_again_is_nothing(home: Path, environ: dict[str, str]) -> None:
    done = run(environ)
    assert all(step.action is Action.MAKE for step in done)
    for name in PROGRAMS:
        assert os.readlink(home / ".local/bin" / name) == str(find_scripts()[name])
    config = home / ".config/rbee/config.toml"
    assert (config.read_text(), config.stat().st_mode & 0o777) == (default_config(), 0o600)
    for folder in (".rbee", ".rbee/keys", ".rbee/run/workers"):
        assert (home / folder).stat().st_mode & 0o777 == 0o700
    for name in ("admin", "infer", "hive"):
        assert read_key(home / ".rbee/keys" / f"{name}.key")
    assert sorted(path.name for path in (home / ".config/systemd/user").iterdir()) == [
        "rbee-hive.service",
        "rbee-queen.service",
    ]
    before = tree(home)
    assert run(environ) == []
    assert tree(home) == before


def test_what_a_person_wrote_is_kept_byte_for_byte(home: Path, environ: dict[str, str]) -> None:
    config = home / ".config/rbee/config.toml"
    config.parent.mkdir(parents=True)
    config.write_bytes(b"[queen]\r\nport = 1 # \xff\n")
    run(environ)
    assert config.read_bytes() == b"[queen]\r\nport = 1 # \xff\n"


def test_a_foreign_program_and_a_changed_unit_are_left_and_told_after_the_rest_is_done(
    home: Path, environ: dict[str, str]
) -> None:
    run(environ)
    program, unit = home / ".local/bin/rbee", home / ".config/systemd/user/rbee-queen.service"
    program.unlink()
    program.write_text("#!/bin/sh\n")
    unit.write_text(unit.read_text() + "Nice=5\n")
    (home / ".rbee/keys/infer.key").unlink()
    before = tree(home)
    with pytest.raises(RbeeError) as caught:
        run(environ)
    assert caught.value.code is Code.INSTALL_FAILED
    assert str(program) in caught.value.message
    assert str(unit) in caught.value.message
    assert caught.value.hint == f"mv {program} {program}.old"
    assert {**tree(home), ".rbee/keys/infer.key": ""} == {**before, ".rbee/keys/infer.key": ""}
    assert read_key(home / ".rbee/keys/infer.key")


@pytest.mark.parametrize(
    ("entry", "action"),
    [
        ("from rbee_tui.cli.main import main", Action.REPLACE),
        ("gone", Action.REPLACE),
        ("echo 'another rbee'", Action.LEAVE),
    ],
)
def test_a_link_is_moved_from_another_environment_of_rbee_only(
    home: Path, environ: dict[str, str], entry: str, action: Action
) -> None:
    other = home / "other/bin/rbee"
    other.parent.mkdir(parents=True)
    if entry != "gone":
        other.write_text(f"#!/usr/bin/python3\n{entry}\n")
    link = home / ".local/bin/rbee"
    link.parent.mkdir(parents=True)
    link.symlink_to(other)
    step = next(step for step in make_plan(WISH, Settings(), environ) if step.thing.path == link)
    assert step.action is action
    assert str(other) in step.why


def test_a_link_that_cannot_be_looked_at_is_told_before_anything_is_made(home: Path, environ: dict[str, str]) -> None:
    link = home / ".local/bin/rbee"
    link.parent.mkdir(parents=True)
    link.symlink_to("h" * 300)
    with pytest.raises(RbeeError, match="nothing was installed.*File name too long") as raised:
        make_plan(WISH, Settings(), environ)
    assert raised.value.hint == f"ls -ld {link}"


def test_an_older_unit_is_renewed(home: Path, environ: dict[str, str]) -> None:
    run(environ)
    environ["RBEE_CONFIG"] = "/somewhere/else.toml"
    assert [(step.action, step.thing.path.name) for step in run(environ)] == [
        (Action.REPLACE, "rbee-queen.service"),
        (Action.REPLACE, "rbee-hive.service"),
    ]
    assert "Environment=RBEE_CONFIG=/somewhere/else.toml\n" in tree(home)[".config/systemd/user/rbee-hive.service"]


def test_a_file_where_a_folder_has_to_be_refuses_before_anything_is_made(home: Path, environ: dict[str, str]) -> None:
    (home / ".local").write_text("")
    with pytest.raises(RbeeError) as caught:
        run(environ)
    assert (caught.value.code, "Not a directory" in caught.value.message) == (Code.INSTALL_FAILED, True)
    assert list(tree(home)) == [".local"]


def test_no_right_to_write_refuses_before_anything_is_made_and_says_sudo(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For root nothing is forbidden; the feature tests ask with another user."""
    monkeypatch.setattr(os, "access", lambda path, mode: "etc" not in str(path))
    (tmp_path / "p/etc").mkdir(parents=True)
    with pytest.raises(RbeeError) as caught:
        run(environ, Wish(system=True, prefix=tmp_path / "p"))
    assert caught.value.code is Code.PERMISSION_DENIED
    assert f"{tmp_path}/p/etc: Permission denied" in caught.value.message
    assert caught.value.hint == f"sudo {find_scripts()['rbee']} install --system --prefix {tmp_path}/p"
    assert tree(tmp_path / "p") == {}


CALLS = [
    *((os, name) for name in ("open", "fsync", "fdopen", "link")),
    *((Path, name) for name in ("mkdir", "symlink_to", "unlink")),
]
"""Every call with which an install changes the disk."""


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=type)
@pytest.mark.parametrize(("owner", "name"), CALLS)
def test_interrupted_at_any_call_nothing_half_made_counts_and_again_goes_on(
    home: Path,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    failure: BaseException,
) -> None:
    """The n-th such call fails, for every n, until an install gets through."""
    real = getattr(owner, name)
    for allowed in range(100):
        left = iter(range(allowed))

        def failing(*args: object, left: Iterator[int] = left, **kwargs: object) -> object:
            if next(left, None) is None:
                raise failure
            return real(*args, **kwargs)

        target = home / str(allowed)
        target.mkdir()
        environ["HOME"] = str(target)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing)
            try:
                run(environ)
                break
            except (KeyboardInterrupt, RbeeError):
                pass
        there = {path: text for path, text in tree(target).items() if not _is_fresh(path)}
        assert [path for path, text in there.items() if not _is_whole(target / path, text)] == []
        run(environ)
        assert run(environ) == []
    else:
        raise AssertionError(f"{name} is called without end")


def _is_fresh(path: str) -> bool:
    """A file that did not get its name; only where removing it was itself interrupted."""
    return f".{os.getpid()}" in path or ".key." in path


def _is_whole(path: Path, text: str) -> bool:
    if path.suffix == ".key":
        return bool(read_key(path))
    if path.suffix == ".service":
        return is_as_written(text)
    return text == default_config() if path.name == "config.toml" else Path(text).is_file()
