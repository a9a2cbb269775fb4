"""The README is part of the product: commands, settings and error codes stand in it, and its local links exist."""

import re
from pathlib import Path

import click
import pytest

from daemons.contracts.errors import Code
from daemons.kit.settings import SettingKey, Settings, setting_keys
from rbee_tui.cli.main import rbee

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def command_paths(group: click.Group, prefix: str = "rbee") -> list[str]:
    """`rbee infer`, `rbee workers list`, … for every command that can be typed."""
    context = click.Context(group)
    found: list[str] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        path = f"{prefix} {name}"
        found += command_paths(command, path) if isinstance(command, click.Group) else [path]
    return found


@pytest.mark.parametrize("path", command_paths(rbee))
def test_every_command_is_described(path: str) -> None:
    assert f"`{path}" in README


@pytest.mark.parametrize("code", list(Code))
def test_every_error_code_is_described(code: Code) -> None:
    assert f"| `{code.value}` |" in README


@pytest.mark.parametrize("key", list(setting_keys()), ids=lambda key: str(key.dotted))
def test_every_setting_is_described_with_its_default(key: SettingKey) -> None:
    value = getattr(getattr(Settings(), key.section), key.name)
    row = next((line for line in README.splitlines() if line.startswith(f"| `{key.dotted}` |")), "")
    assert row, f"{key.dotted} is not in the table of settings"
    shown = row.split("|")[2].strip().strip("`")
    expected = (
        str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    )
    assert shown.strip("'\"") == expected


def test_the_two_commands_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"demo", "test", "check", "bench", "clean"} <= set(targets)
    for target in ("demo", "test", "check", "bench"):
        assert f"make {target}" in README


def test_changelog_has_this_version() -> None:
    from daemons import __version__

    assert re.search(rf"^## \[{re.escape(__version__)}\]", CHANGELOG, flags=re.MULTILINE)
    assert "Keep a Changelog" in CHANGELOG
