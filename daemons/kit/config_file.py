"""The configuration file that `rbee install` writes: every setting as a comment with its default."""

import json
from typing import Any

from daemons.kit.settings import Settings, setting_keys

_HEAD = """\
# Configuration of rbee. Every setting stands here with its default; take the # away in front of a name to change it.
# A flag on the command line wins over the environment (RBEE_QUEEN_PORT is port under [queen]), and that over this file.
# What is in force, and where each value comes from: rbee config show
"""


def default_config() -> str:
    """TOML in which all sections are empty, because all keys are comments; each below what it means."""
    parts = [_HEAD]
    section = ""
    for key in setting_keys():
        if key.section != section:
            section = key.section
            parts.append(f"\n[{section}]\n")
        value = getattr(getattr(Settings(), section), key.name)
        parts.append(f"# {key.description}\n# {key.name} = {_toml(value)}\n")
    return "".join(parts)


def _toml(value: Any) -> str:
    """A string, number, boolean or list of strings as TOML, which JSON's spelling of these is."""
    return json.dumps(value, ensure_ascii=False)
