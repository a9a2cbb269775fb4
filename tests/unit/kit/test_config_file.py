"""The configuration file of an install: all of it comments, and each of them true."""

import re
import tomllib
from pathlib import Path

from daemons.kit.config_file import default_config
from daemons.kit.paths import Paths
from daemons.kit.settings import Settings, load_settings, setting_keys


def test_it_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(default_config(), encoding="utf-8")
    loaded = load_settings(Paths(tmp_path, tmp_path, file), environ={}, system_config=tmp_path / "no-such-file")
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}


def test_without_the_comment_signs_it_is_every_setting_with_its_default() -> None:
    given = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", default_config(), flags=re.MULTILINE))
    assert {f"{section}.{name}" for section in given for name in given[section]} == {k.dotted for k in setting_keys()}
    assert Settings.model_validate(given) == Settings()


def test_each_setting_stands_below_what_it_means() -> None:
    for key in setting_keys():
        assert f"\n# {key.description}\n# {key.name} = " in default_config()
