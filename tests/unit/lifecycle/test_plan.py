"""Command line and environment of a daemon, and what a failed start is called."""

import json
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.paths import Paths
from daemons.kit.procs import ExitReport, own_identity
from daemons.kit.settings import HiveSettings, QueenSettings, Settings
from daemons.lifecycle.plan import (
    HIVE,
    LOG_LINES,
    QUEEN,
    Binding,
    binding_of,
    daemon_argv,
    daemon_environment,
    ended_too_early,
    never_answered,
    start_error_in,
)

LOG = Path("/home/bee/.rbee/logs/queen.out")
OURS = Binding("127.0.0.1", 8080, "")
IN_HOME = Paths(Path("/srv/rbee"), Path("/srv/rbee/models"), Path("/srv/rbee/config.toml"))
SPREAD = Paths(Path("/home/bee/.rbee"), Path("/home/bee/.local/share/rbee/models"), Path("/home/bee/config.toml"))


def test_a_daemon_is_a_module_of_this_installation() -> None:
    assert daemon_argv(QUEEN, OURS, python="/venv/bin/python", owner_pid=None) == (
        "/venv/bin/python",
        "-P",
        "-m",
        "daemons.queen.main",
        "serve",
    )


def test_an_ephemeral_daemon_is_told_its_owner() -> None:
    argv = daemon_argv(HIVE, OURS, python="python", owner_pid=4711)
    assert argv[-5:] == ("daemons.hive.main", "serve", "--ephemeral", "--owner-pid", "4711")


def test_a_configured_program_is_what_runs() -> None:
    binding = Binding("127.0.0.1", 0, "/opt/rbee/bin/queen-rbee")
    assert daemon_argv(QUEEN, binding, python="python", owner_pid=None) == ("/opt/rbee/bin/queen-rbee", "serve")


def test_each_kind_has_its_own_settings() -> None:
    settings = Settings(
        queen=QueenSettings(host="127.0.0.2", port=1, program="q"), hive=HiveSettings(host="127.0.0.3", port=2)
    )
    assert binding_of(QUEEN, settings) == Binding("127.0.0.2", 1, "q")
    assert binding_of(HIVE, settings) == Binding("127.0.0.3", 2, "", "local")
    assert binding_of(HIVE, settings, ephemeral=True) == Binding("127.0.0.3", 0, "", "local")


def test_host_and_port_of_the_starter_count() -> None:
    environment = daemon_environment(
        HIVE, Binding("127.0.0.1", 9, ""), SPREAD, {"PATH": "/bin", "RBEE_HIVE_PORT": "1"}, Path("/")
    )
    assert environment == {"PATH": "/bin", "RBEE_HIVE_HOST": "127.0.0.1", "RBEE_HIVE_PORT": "9"}


def test_a_hive_is_told_its_name() -> None:
    environment = daemon_environment(HIVE, Binding("127.0.0.1", 9, "", "attic"), SPREAD, {}, Path("/"))
    assert environment["RBEE_HIVE_NODE"] == "attic"


def test_a_home_that_holds_the_models_too_is_named() -> None:
    environment = daemon_environment(QUEEN, OURS, IN_HOME, {"RBEE_HOME": "/elsewhere"}, Path("/"))
    assert environment["RBEE_HOME"] == "/srv/rbee"


@pytest.mark.parametrize(("given_path", "expected"), [("my.toml", "/work/my.toml"), ("/etc/my.toml", "/etc/my.toml")])
def test_a_relative_configuration_file_stays_the_same_file(given_path: str, expected: str) -> None:
    environment = daemon_environment(QUEEN, OURS, IN_HOME, {"RBEE_CONFIG": given_path}, Path("/work"))
    assert environment["RBEE_CONFIG"] == expected


def error_line(error: RbeeError) -> str:
    return json.dumps({"error": error.as_dict()})


def test_the_error_that_a_daemon_printed_is_raised_as_it_is() -> None:
    printed = RbeeError(Code.PORT_IN_USE, "port 8080 is held by nginx", details={"port": 8080}, hint="do this")
    lines = ["noise", error_line(printed), "sys:1: ResourceWarning: something", ""]
    error = ended_too_early(QUEEN, ExitReport(own_identity(), 1), lines, LOG)
    assert (error.code, error.message, error.details, error.hint) == (
        printed.code,
        printed.message,
        printed.details,
        printed.hint,
    )


def test_the_last_error_counts() -> None:
    lines = [error_line(RbeeError(code, "…")) for code in (Code.PORT_IN_USE, Code.STATE_CORRUPT)]
    error = start_error_in(lines)
    assert error is not None
    assert error.code is Code.STATE_CORRUPT


@given(st.lists(st.text() | st.recursive(st.none() | st.integers(), st.lists, max_leaves=3).map(json.dumps)))
def test_other_output_is_no_error(lines: list[str]) -> None:
    assert start_error_in(lines) is None


@pytest.mark.parametrize("line", ['{"error": "no"}', '{"error": {}}', '{"fault": {"code": "INTERNAL"}}', "NaN"])
def test_json_that_is_no_error_object_is_no_error(line: str) -> None:
    assert start_error_in([line]) is None


def test_an_end_without_a_word_shows_exit_and_last_lines() -> None:
    lines = [f"line {number}" for number in range(LOG_LINES + 5)]
    error = ended_too_early(HIVE, ExitReport(own_identity(), -signal.SIGSEGV), lines, LOG)
    assert error.code is Code.DAEMON_START_FAILED
    assert error.message.startswith(
        f"the hive killed by SIGSEGV before it answered; the last lines of {LOG}:\n  line 5"
    )
    assert error.message.endswith(f"line {LOG_LINES + 4}")
    assert error.details["lines"] == lines[-LOG_LINES:]


def test_a_daemon_that_never_answered_shows_the_limit() -> None:
    error = never_answered(QUEEN, 30.0, [], LOG)
    assert error.code is Code.DAEMON_START_FAILED
    assert error.message == (f"the queen did not answer within 30 s and was stopped; the last lines of {LOG}: (none)")
