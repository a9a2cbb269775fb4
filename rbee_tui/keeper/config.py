"""The settings in force: each value, where it comes from, what it means."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemons.kit.auth import fingerprint
from daemons.kit.paths import SYSTEM_CONFIG, Paths
from daemons.kit.settings import setting_keys
from rbee_tui.keeper.installation import Installation

SECRETS = frozenset({"queen.key"})
"""Keys whose values are shown to nobody."""


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting. A secret's value is its fingerprint; `variable` is what sets it in the environment."""

    key: str
    value: Any
    source: str
    variable: str
    description: str


def settings_rows(installation: Installation) -> list[SettingRow]:
    """Every setting, in the order of the file."""
    values = installation.settings.model_dump(mode="json")
    return [
        SettingRow(
            key=key.dotted,
            value=_shown(key.dotted, values[key.section][key.name]),
            source=installation.loaded.sources[key.dotted],
            variable=key.variable,
            description=key.description,
        )
        for key in setting_keys()
    ]


def config_files(paths: Paths, named: str | None) -> Iterable[Path]:
    """The files that settings are read from, strongest first; `named` is RBEE_CONFIG."""
    if named:
        yield Path(named).expanduser()
    yield paths.user_config
    yield SYSTEM_CONFIG


def _shown(key: str, value: Any) -> Any:
    if key in SECRETS and value:
        return f"set, fingerprint {fingerprint(value)}"
    return value
