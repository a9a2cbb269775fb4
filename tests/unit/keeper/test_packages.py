"""Roles are known by modules that can be looked up, and installed by extras that exist."""

import importlib.metadata
import json
import shlex
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


class FakeDistribution:
    """An installed package of which pip wrote down where it came from, or nothing."""

    def __init__(self, origin: object) -> None:
        self.files = {} if origin is None else {"direct_url.json": json.dumps(origin)}

    def read_text(self, name: str) -> str | None:
        return self.files.get(name)


class TestInstallCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        made = tmp_path / "my check out"
        made.mkdir()
        return made

    def installed_from(self, monkeypatch: pytest.MonkeyPatch, origin: object) -> None:
        monkeypatch.setattr("importlib.metadata.distribution", lambda name: FakeDistribution(origin))

    @pytest.mark.parametrize(("editable", "words"), [(True, ["-e"]), (False, [])])
    def test_from_a_folder_it_names_the_folder(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, editable: bool, words: list[str]
    ) -> None:
        self.installed_from(monkeypatch, {"url": folder.as_uri(), "dir_info": {"editable": True} if editable else {}})
        assert shlex.split(install_command("hive", "worker")) == ["pip", "install", *words, f"{folder}[hive,worker]"]

    @pytest.mark.parametrize(
        "origin",
        [
            None,
            {"url": "file:///gone/away", "dir_info": {"editable": True}},
            {"url": "https://git.example/rbee", "vcs_info": {"vcs": "git", "commit_id": "0"}},
            {"url": "file:///tmp", "archive_info": {}},
        ],
    )
    def test_otherwise_it_names_the_package(self, monkeypatch: pytest.MonkeyPatch, origin: object) -> None:
        self.installed_from(monkeypatch, origin)
        assert install_command("hive", "worker") == "pip install 'rbee[hive,worker]'"

    def test_run_from_sources_that_were_not_installed_it_names_the_package(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing(name: str) -> FakeDistribution:
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr("importlib.metadata.distribution", missing)
        assert install_command("tui") == "pip install 'rbee[tui]'"
