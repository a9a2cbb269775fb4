"""Roles are known by modules that can be looked up, and installed by extras that exist."""

import tomllib
from pathlib import Path

import pytest

from rbee_tui.keeper.packages import ROLE_MODULES, install_command, missing_modules


def test_every_role_is_an_extra_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert set(ROLE_MODULES) <= set(project["optional-dependencies"])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "duckdb" else object())
    assert missing_modules("queen") == ["duckdb"]
    assert missing_modules("tui") == []


def test_the_command_takes_several_roles() -> None:
    assert install_command("hive", "worker") == "pip install 'rbee[hive,worker]'"
