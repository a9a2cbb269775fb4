"""`rbee logs`, `config`, `doctor`, `completion`, `queen` and `hive`, as whole commands."""

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from daemons import __version__
from daemons.contracts.fleet import LogLine
from daemons.kit.procs import identify
from daemons.kit.runfile import RunFile, write_run_file
from daemons.kit.settings import setting_keys
from rbee_tui.keeper.checks import Check, Result
from rbee_tui.keeper.daemons import DaemonStatus
from tests.support.fake_queen import FakeQueen
from tests.unit.cli.conftest import Rbee


class TestLogs:
    LINE = LogLine(
        node="local", source="hive", at=1_700_000_000.0, level="info", text="a\x1b[31m\nb", fields={"pid": 7}
    )

    def test_a_line_has_time_place_level_text_and_fields(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.lines = [self.LINE]
        finished = rbee("logs", "--node", "local", "--worker", "w-1", "--since", "10m", "--tail", "5")
        assert finished.code == 0
        assert finished.out.endswith(" local/hive INFO a b pid=7\n")
        assert finished.out.startswith("2023-11-1")
        (query,) = queen.queries
        assert (query.node, query.worker, query.since_s, query.tail, query.follow) == ("local", "w-1", 600.0, 5, False)

    def test_with_json_each_line_is_an_object(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.lines = [self.LINE, self.LINE]
        lines = rbee("logs", "--json").out.splitlines()
        assert [LogLine.model_validate_json(line) for line in lines] == queen.lines

    def test_no_lines_are_said_on_stderr(self, rbee: Rbee, queen: FakeQueen) -> None:
        assert (rbee("logs").out, rbee("logs").err) == ("", "[keeper] there are no such lines\n")

    @pytest.mark.parametrize("args", [("--since", "soon"), ("--tail", "-1"), ("--tail", "x")])
    def test_wrong_usage(self, rbee: Rbee, args: tuple[str, ...]) -> None:
        assert rbee("logs", *args).code == 2

    def test_without_a_queen_the_files_of_this_machine_are_read(self, rbee: Rbee, tmp_path: Path) -> None:
        logs = tmp_path / "h" / "logs"
        logs.mkdir(parents=True)
        (logs / "queen.out").write_text("ModuleNotFoundError: No module named 'duckdb'\n")
        finished = rbee("logs", "--tail", "40")
        assert (finished.code, "local/queen INFO ModuleNotFoundError" in finished.out) == (0, True)
        assert rbee("logs", "--follow").code == 1


class TestConfig:
    def test_each_setting_with_its_value_and_source(
        self, rbee: Rbee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = tmp_path / "u" / ".config" / "rbee" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text("[queen]\nqueue_limit = 7\nlocal_hive = false\n")
        monkeypatch.setenv("RBEE_QUEEN_KEY", "rbee-very-secret-key")
        finished = rbee("config", "show", "--queen", "http://flag:1")
        shown = {line.split("\t")[0]: line.split("\t")[1:] for line in finished.out.splitlines()[1:]}
        assert list(shown) == [key.dotted for key in setting_keys()]
        assert shown["queen.url"] == ["http://flag:1", "flag"]
        assert shown["queen.queue_limit"] == ["7", str(config)]
        assert shown["queen.local_hive"] == ["false", str(config)]
        assert shown["hive.port"] == ["9200", "default"]
        assert shown["queen.key"][1] == "environment RBEE_QUEEN_KEY"
        assert "very-secret" not in finished.out + finished.err + rbee("config", "show", "--json").out

    def test_json(self, rbee: Rbee, tmp_path: Path) -> None:
        answer = json.loads(rbee("config", "show", "--json").out)
        assert answer["home"] == str(tmp_path / "h")
        row = next(row for row in answer["settings"] if row["key"] == "queen.port")
        assert (row["value"], row["source"], row["variable"]) == (8080, "default", "RBEE_QUEEN_PORT")
        assert answer["files"][0]["exists"] is False

    @pytest.mark.parametrize(
        "args", [("config", "show"), ("status",), ("infer", "-m", "demo", "hi"), ("queen", "start")]
    )
    def test_a_mistake_is_named_with_file_key_and_what_was_expected(
        self, rbee: Rbee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
    ) -> None:
        config = tmp_path / "my.toml"
        config.write_text('[queen]\nport = "eighty"\nprot = 1\n')
        monkeypatch.setenv("RBEE_CONFIG", str(config))
        finished = rbee(*args)
        assert (finished.code, finished.out) == (1, "")
        for text in ("error CONFIG_INVALID: ", str(config), "queen.port", "valid integer", "queen.prot", "unknown key"):
            assert text in finished.err

    def test_a_state_folder_that_is_a_file_is_told_by_whatever_asks(
        self, rbee: Rbee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("RBEE_HOME", str(tmp_path / "file"))
        for args in (("status",), ("queen", "status"), ("hive", "stop")):
            finished = rbee(*args)
            assert (finished.code, finished.err.startswith("error HOME_UNUSABLE: RBEE_HOME is ")) == (1, True)


class TestDoctor:
    CHECKS = (Check("python", Result.OK, "3.11"), Check("runtime", Result.FAIL, "killed by SIGILL", "pip install x"))

    @pytest.fixture
    def checks(self, monkeypatch: pytest.MonkeyPatch) -> list[Check]:
        """What the fake use case finds."""
        found = list(self.CHECKS)

        async def run_checks(on_check: object) -> list[Check]:
            assert callable(on_check)
            for check in found:
                on_check(check)
            return found

        monkeypatch.setattr("rbee_tui.cli.commands.doctor.run_checks", run_checks)
        return found

    def test_a_failed_check_names_the_command_and_fails(self, rbee: Rbee, checks: list[Check]) -> None:
        finished = rbee("doctor")
        assert (finished.code, finished.err) == (1, "")
        assert finished.out == "ok    python: 3.11\nfail  runtime: killed by SIGILL\n      run: pip install x\n"

    def test_json(self, rbee: Rbee, checks: list[Check]) -> None:
        finished = rbee("doctor", "--json")
        answer = json.loads(finished.out)
        assert (finished.code, answer["ok"]) == (1, False)
        assert answer["checks"][1] == {
            "name": "runtime", "result": "fail", "sentence": "killed by SIGILL", "command": "pip install x",
        }  # fmt: skip

    def test_warnings_are_no_failure(self, rbee: Rbee, checks: list[Check]) -> None:
        checks[1] = Check("runtime", Result.WARN, "not installed", "pip install x")
        assert rbee("doctor").code == 0


class TestDaemons:
    @pytest.mark.parametrize("name", ["queen", "hive"])
    def test_nothing_running_is_said_and_is_no_failure(self, rbee: Rbee, name: str) -> None:
        status, stop = rbee(name, "status"), rbee(name, "stop")
        assert (status.code, status.out) == (0, f"{name}: none is running (start one with: rbee {name} start)\n")
        assert (stop.code, stop.out) == (0, f"{name}: none was running\n")
        assert json.loads(rbee(name, "status", "--json").out) == {name: None, "ended_unexpectedly": None}
        workers: dict[str, list[object]] = {"workers": []} if name == "hive" else {}
        assert json.loads(rbee(name, "stop", "--json").out) == {name: None, **workers}

    def test_workers_that_a_killed_hive_left_are_ended_and_named(self, rbee: Rbee, tmp_path: Path) -> None:
        folder = tmp_path / "h" / "run" / "workers"
        folder.mkdir(parents=True)
        with subprocess.Popen(["sleep", "60"]) as left:
            identity = identify(left.pid)
            assert identity is not None
            (folder / "w-1.json").write_text(json.dumps({"identity": identity.to_json()}))
            finished = rbee("hive", "stop")
            left.kill()
        assert (finished.code, left.returncode, list(folder.iterdir())) == (0, -signal.SIGTERM, [])
        first, second = finished.out.splitlines()
        assert first == "hive: none was running"
        assert second.startswith(f"worker w-1, left without its hive: pid {left.pid} ended after SIGTERM")

    def test_the_configured_queen_is_shown_and_asked_to_end(self, rbee: Rbee, queen: FakeQueen) -> None:
        assert rbee("queen", "status").out == f"queen: {__version__} at {queen.url}\n"
        assert rbee("queen", "stop").out == f"the queen at {queen.url} finishes what it does and ends\n"
        assert [path for path, _ in queen.seen][-1] == "POST /v2/admin/shutdown"

    @pytest.mark.parametrize("args", [("queen", "stop"), ("hive", "stop"), ("queen", "status"), ("hive", "status")])
    def test_wrong_settings_are_told_and_keep_nobody_from_stopping(
        self, rbee: Rbee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
    ) -> None:
        config = tmp_path / "my.toml"
        config.write_text("[queen\n")
        monkeypatch.setenv("RBEE_CONFIG", str(config))
        finished = rbee(*args)
        assert (finished.code, f"{args[0]}: none " in finished.out) == (0, True)
        assert f"[keeper] warning: {config}: " in finished.err
        assert f"default settings (mend it: ${{EDITOR:-nano}} {config})" in finished.err

    def test_wrong_settings_do_not_turn_a_stop_to_another_queen(
        self, rbee: Rbee, queen: FakeQueen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RBEE_QUEEN_PORT", "many")
        assert rbee("queen", "stop").out == f"the queen at {queen.url} finishes what it does and ends\n"
        monkeypatch.setenv("RBEE_QUEEN_URL", "nonsense")
        assert rbee("queen", "stop").out == "queen: none was running\n"
        assert rbee("queen", "stop", "--queen", "nonsense").code == 1

    def test_a_queen_of_another_version_can_be_stopped(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.version = "0.0.9"
        mismatch = rbee("workers", "list")
        assert (mismatch.code, "error VERSION_MISMATCH: " in mismatch.err) == (1, True)
        assert "hint: rbee queen stop\n" in mismatch.err
        assert rbee("queen", "stop").code == 0

    @pytest.mark.parametrize("name", ["queen", "hive"])
    def test_one_that_ended_unexpectedly_is_named_with_its_log(self, rbee: Rbee, tmp_path: Path, name: str) -> None:
        run = RunFile.of_this_process(name, "http://127.0.0.1:9")
        run = run.model_copy(update={"identity": replace(run.identity, boot_id="another boot")})
        (tmp_path / "h" / "run").mkdir(parents=True)
        write_run_file(tmp_path / "h" / "run" / f"{name}.json", run)
        log = str(tmp_path / "h" / "logs" / f"{name}.log")
        finished = rbee(name, "status")
        assert (finished.code, finished.out) == (
            0,
            f"{name}: none is running (start one with: rbee {name} start)\n"
            f"{name}: pid {os.getpid()}, which was at http://127.0.0.1:9, ended unexpectedly (see: rbee logs; {log})\n",
        )
        told = json.loads(rbee(name, "status", "--json").out)["ended_unexpectedly"]
        assert told == {"name": name, "pid": os.getpid(), "url": "http://127.0.0.1:9", "log": log}
        first, second = rbee(name, "stop").out.splitlines()
        assert (first, "ended unexpectedly" in second) == (f"{name}: none was running", True)
        assert "unexpectedly" not in rbee(name, "status").out, "it has been told, and cleared away"

    @pytest.mark.parametrize("name", ["queen", "hive"])
    @pytest.mark.parametrize(
        ("flags", "fits"),
        [
            ((), True),
            (("--port", "4321"), True),
            (("--port", "0"), True),
            (("--host", "127.0.0.1", "--port", "4321"), True),
            (("--host", "localhost"), True),
            (("--port", "9999"), False),
            (("--host", "127.0.0.2"), False),
            (("--host", "not a host"), False),
        ],
    )
    def test_one_that_runs_keeps_its_address(
        self, rbee: Rbee, monkeypatch: pytest.MonkeyPatch, name: str, flags: tuple[str, ...], fits: bool
    ) -> None:
        async def start_daemon(installation: object, which: str, say: object) -> tuple[DaemonStatus, bool]:
            return DaemonStatus(which, "http://127.0.0.1:4321", "0.1.0", 7, None), False

        monkeypatch.setattr("rbee_tui.cli.commands.daemons.start_daemon", start_daemon)
        finished = rbee(name, "start", *flags)
        if fits:
            assert (finished.code, finished.out) == (
                0, f"{name}: 0.1.0 at http://127.0.0.1:4321, pid 7 (it was running)\n",
            )  # fmt: skip
            return
        asked = shlex.join(flags)
        assert (finished.code, finished.out) == (1, "")
        keeps = f"error ALREADY_RUNNING: the {name} runs already and keeps its address http://127.0.0.1:4321; {asked} "
        assert keeps in finished.err
        assert f"hint: rbee {name} stop; rbee {name} start {asked}\n" in finished.err

    @pytest.mark.parametrize("args", [("queen", "start"), ("hive", "start"), ("hive", "stop"), ("hive", "status")])
    def test_a_queen_elsewhere_is_refused_where_this_machine_is_meant(self, rbee: Rbee, args: tuple[str, ...]) -> None:
        for line in (("--queen", "http://far:1", *args), (*args, "--queen", "http://far:1")):
            finished = rbee(*line)
            assert (finished.code, finished.out) == (2, "")
            assert f"rbee {' '.join(args)} is for this machine; --queen http://far:1 names a queen" in finished.err

    @pytest.mark.parametrize("name", ["queen", "hive"])
    def test_start_takes_host_and_port_as_settings(
        self, rbee: Rbee, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        seen: list[tuple[str, int]] = []

        async def start_daemon(installation: object, which: str, say: object) -> tuple[DaemonStatus, bool]:
            section = getattr(getattr(installation, "settings"), which)  # noqa: B009
            seen.append((section.host, section.port))
            return DaemonStatus(which, "http://127.0.0.1:1", "0.1.0", 7, None), True

        monkeypatch.setattr("rbee_tui.cli.commands.daemons.start_daemon", start_daemon)
        finished = rbee(name, "start", "--host", "::1", "--port", "0")
        assert (finished.code, seen) == (0, [("::1", 0)])
        assert finished.out == f"{name}: 0.1.0 at http://127.0.0.1:1, pid 7\n"
        assert rbee(name, "start", "--port", "70000").code == 2


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_a_script_for_each_shell(self, rbee: Rbee, shell: str) -> None:
        finished = rbee("completion", shell)
        assert finished.code == 0
        assert f"_RBEE_COMPLETE={shell}_complete" in finished.out

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_commands_of_the_help_work_where_no_folder_is_there_yet(
        self, rbee: Rbee, shell: str, tmp_path: Path
    ) -> None:
        listed = rbee("completion", "--help").out.partition(f"  {shell}: ")[2].splitlines()
        commands = "\n".join(listed[:2])
        assert commands.count("rbee completion") == 1
        fake_rbee = 'rbee() { echo "script for $2"; }\n'
        subprocess.run(["sh", "-ec", fake_rbee + commands], env={"HOME": str(tmp_path), "PATH": os.defpath}, check=True)
        (script,) = [file for file in tmp_path.rglob("*rbee*") if file.is_file()]
        assert script.read_text() == f"script for {shell}\n"

    def test_other_shells_are_wrong_usage(self, rbee: Rbee) -> None:
        assert rbee("completion", "csh").code == 2

    @pytest.mark.parametrize(
        ("typed", "expected"),
        [
            ("rbee wor", {"workers"}),
            ("rbee workers ", {"list", "health", "start", "shutdown"}),
            ("rbee infer --back", {"--backend"}),
            ("rbee infer --backend c", {"cpu", "cuda"}),
            ("rbee completion z", {"zsh"}),
            ("rbee infer --priority ", {"interactive", "batch"}),
        ],
    )
    def test_what_it_offers(self, typed: str, expected: set[str]) -> None:
        words = typed.split(" ")
        environ = {
            **os.environ, "_RBEE_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1),
        }  # fmt: skip
        script = "from rbee_tui.cli.main import main; main()"
        done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
        assert {line.partition(",")[2] for line in done.stdout.splitlines()} == expected
