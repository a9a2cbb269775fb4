"""`rbee doctor`: each thing that can be out of order is found, and has a command."""

import os
import socket
from pathlib import Path

import pytest

from daemons import __version__
from daemons.kit.auth import ADMIN_KEY, ensure_key, key_path
from daemons.kit.paths import Paths
from daemons.kit.procs import bind_listening
from daemons.kit.settings import LoadedSettings, ModelSettings, Settings
from rbee_tui.keeper import doctor
from rbee_tui.keeper.checks import Check, Result
from rbee_tui.keeper.daemons import DaemonStatus
from rbee_tui.keeper.doctor import (
    check_folder,
    check_keys,
    check_model_folders,
    check_packages,
    check_port,
    check_python,
    judge_daemon,
    run_checks,
)
from rbee_tui.keeper.packages import install_command


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "h", tmp_path / "h" / "models", tmp_path / "config.toml")
    paths.create()
    return paths


@pytest.mark.parametrize(("version", "result"), [((3, 10), Result.FAIL), ((3, 11), Result.OK), ((4, 0), Result.OK)])
def test_python(version: tuple[int, int], result: Result) -> None:
    assert check_python(version).result is result


class TestFolder:
    def test_a_private_one_is_fine(self, paths: Paths) -> None:
        assert check_folder(paths.home) == Check("state folder", Result.OK, str(paths.home))

    def test_one_that_is_not_there_is_made_later(self, tmp_path: Path) -> None:
        check = check_folder(tmp_path / "new" / "deeper")
        assert (check.result, "is made at the first start" in check.sentence) == (Result.OK, True)

    def test_one_that_others_may_write_is_a_warning_with_the_command(self, paths: Paths) -> None:
        paths.home.chmod(0o777)
        check = check_folder(paths.home)
        assert (check.result, check.command) == (Result.WARN, f"chmod 700 {paths.home}")

    def test_a_file_in_its_place_is_a_failure(self, tmp_path: Path) -> None:
        (tmp_path / "h").touch()
        check = check_folder(tmp_path / "h")
        assert (check.result, "RBEE_HOME" in check.command) == (Result.FAIL, True)


class TestKeys:
    def test_before_the_first_start_there_are_none(self, paths: Paths) -> None:
        assert check_keys(paths) == [Check("keys", Result.OK, "made at the first start")]

    def test_a_key_that_others_may_read_is_a_failure_with_the_command(self, paths: Paths) -> None:
        ensure_key(paths, ADMIN_KEY)
        assert check_keys(paths) == [Check("keys", Result.OK, "admin")]
        key_path(paths, ADMIN_KEY).chmod(0o644)
        (check,) = check_keys(paths)
        assert (check.result, check.command) == (Result.FAIL, f"chmod 600 {key_path(paths, ADMIN_KEY)}")


class TestModelFolders:
    def check(self, *folders: str) -> list[Check]:
        settings = Settings(models=ModelSettings(allowed_folders=list(folders)))
        sources = {"models.allowed_folders": "environment RBEE_MODELS_ALLOWED_FOLDERS"}
        return check_model_folders(LoadedSettings(settings, sources))

    def test_none_named_is_nothing_to_check(self) -> None:
        assert self.check() == []

    def test_those_that_are_there_are_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "models").mkdir()
        (check,) = self.check(str(tmp_path), "~/models")
        assert check == Check("models.allowed_folders", Result.OK, f"{tmp_path}, {tmp_path}/models")

    @pytest.mark.parametrize("wrong", ["gone", "a-file"])
    def test_one_that_is_no_folder_is_a_warning_that_names_it_alone(self, tmp_path: Path, wrong: str) -> None:
        (tmp_path / "a-file").touch()
        (check,) = self.check(str(tmp_path), str(tmp_path / wrong))
        assert (check.result, check.command) == (Result.WARN, "unset RBEE_MODELS_ALLOWED_FOLDERS")
        assert f": {tmp_path / wrong} (" in check.sentence


class TestPackages:
    def test_a_missing_role_is_a_warning_with_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "missing_modules", lambda role: ["duckdb"] if role == "queen" else [])
        found = {check.name: check for check in check_packages(remote_queen=False)}
        assert found["packages of the queen"].command == install_command("queen")
        assert found["packages of the queen"].result is Result.WARN
        assert found["packages of the worker"].result is Result.OK

    def test_beside_a_queen_elsewhere_nothing_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "missing_modules", lambda role: ["everything"])
        assert {check.result for check in check_packages(remote_queen=True)} == {Result.OK}


class TestPorts:
    def test_a_port_that_somebody_holds_is_a_warning_with_their_name(self) -> None:
        with bind_listening("127.0.0.1", 0) as taken:
            port: int = taken.getsockname()[1]
            check = check_port("queen", port)
        assert (check.result, check.command) == (Result.WARN, "rbee queen start --port 0")
        assert f"(pid {os.getpid()}) holds its port {port}" in check.sentence

    def test_a_free_port_is_fine(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        assert check_port("queen", port) == Check("queen", Result.OK, f"not running; port {port} is free")
        assert check_port("queen", 0).result is Result.OK


@pytest.mark.parametrize(("version", "result"), [(__version__, Result.OK), ("0.0.9", Result.FAIL)])
def test_a_running_daemon_has_to_be_of_our_version(version: str, result: Result) -> None:
    check = judge_daemon(DaemonStatus("hive", "http://127.0.0.1:9200", version, 7, 1.0))
    assert check.result is result
    assert (check.command == "rbee hive stop") is (result is Result.FAIL)


class TestAll:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the self-test, which has its own tests."""

        async def no_runtime(_program: str) -> list[Check]:
            return [Check("worker runtime", Result.OK, "fine")]

        monkeypatch.setattr(doctor, "check_runtime", no_runtime)

    async def test_each_check_is_told_as_it_is_done(self, environ: dict[str, str]) -> None:
        told: list[Check] = []
        checks = await run_checks(told.append, environ={**environ, "RBEE_QUEEN_PORT": "0", "RBEE_HIVE_PORT": "0"})
        assert told == checks
        names = [check.name for check in checks]
        assert names[:4] == ["python", "state folder", "keys", "configuration"]
        assert names[-3:] == ["worker runtime", "queen", "hive"]
        assert Result.FAIL not in {check.result for check in checks}

    async def test_a_model_folder_that_is_gone_is_told(self, environ: dict[str, str]) -> None:
        environ = {**environ, "RBEE_MODELS_ALLOWED_FOLDERS": "/nonexistent/models"}
        checks = await run_checks(lambda check: None, environ=environ)
        assert [check.name for check in checks if "/nonexistent" in check.sentence] == ["models.allowed_folders"]

    async def test_a_wrong_configuration_is_one_failure_and_the_rest_is_still_looked_at(
        self, environ: dict[str, str], tmp_path: Path
    ) -> None:
        config = tmp_path / "wrong.toml"
        config.write_text("[queen]\nprot = 1\n")
        checks = await run_checks(lambda check: None, environ={**environ, "RBEE_CONFIG": str(config)})
        (failed,) = [check for check in checks if check.result is Result.FAIL]
        assert failed.name == "configuration"
        assert "queen.prot: unknown key" in failed.sentence
        assert checks[-1].name == "hive"

    async def test_without_any_home_it_says_what_to_set(self) -> None:
        checks = await run_checks(lambda check: None, environ={})
        assert (checks[-1].name, checks[-1].result) == ("folders", Result.FAIL)
        assert "HOME" in checks[-1].sentence

    async def test_a_configured_queen_that_is_gone_is_a_failure(self, environ: dict[str, str]) -> None:
        checks = await run_checks(lambda check: None, environ={**environ, "RBEE_QUEEN_URL": "http://127.0.0.1:9"})
        queen = next(check for check in checks if check.name == "queen")
        assert (queen.result, "QUEEN_UNREACHABLE" in queen.sentence, queen.command) == (
            Result.FAIL, True, "rbee queen status",
        )  # fmt: skip
