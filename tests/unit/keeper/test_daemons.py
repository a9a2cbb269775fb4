"""Queen and hive as daemons: what is said of those that run, of those that do not, and of those that cannot."""

import asyncio
import json
from dataclasses import replace

import pytest

from daemons import __version__
from daemons.contracts.errors import Code, RbeeError
from daemons.kit.runfile import RunFile, run_path, write_run_file
from rbee_tui.keeper import daemons
from rbee_tui.keeper.daemons import (
    NAMES,
    DaemonStatus,
    EndedDaemon,
    ThisMachine,
    ask_queen_to_end,
    check_address,
    daemon_status,
    ended_unexpectedly,
    restart_flags,
    start_daemon,
    stop_local,
    this_machine,
)
from rbee_tui.keeper.installation import Installation, open_installation
from rbee_tui.keeper.packages import install_command
from tests.support.fake_queen import FakeQueen
from tests.unit.keeper.conftest import Heard
from tests.unit.keeper.test_session import publish


@pytest.mark.parametrize("name", NAMES)
async def test_nothing_runs(environ: dict[str, str], heard: Heard, name: str) -> None:
    installation = open_installation(environ=environ)
    assert await daemon_status(installation, name) is None
    assert await stop_local(installation, name, heard) is None
    assert await ask_queen_to_end(installation) is None
    assert heard == []


async def test_a_queen_of_this_machine_is_known_by_its_run_file_and_asked_now(
    environ: dict[str, str], queen: FakeQueen
) -> None:
    installation = open_installation(environ=environ)
    await asyncio.to_thread(publish, installation.paths, queen.url)
    queen.version = "0.7.0"
    status = await daemon_status(installation, "queen")
    assert status is not None
    assert (status.url, status.version, status.started_at) == (queen.url, "0.7.0", 1.0)
    assert run_path(installation.paths, "queen").exists()


async def test_a_stop_tells_how_long_requests_may_go_on(
    environ: dict[str, str], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = open_installation(environ={**environ, "RBEE_POLICY_DRAIN_S": "12.5"})
    await asyncio.to_thread(publish, installation.paths, "http://127.0.0.1:9")

    async def spared(*_: object) -> None:
        """The run file is that of this process, which goes on."""

    monkeypatch.setattr(daemons, "stop_daemon", spared)
    await stop_local(installation, "queen", heard)
    assert heard.text == "[keeper] stopping the queen; waiting up to 12.5 s for running requests"


async def test_one_that_should_be_there_and_does_not_answer_is_a_failure(environ: dict[str, str]) -> None:
    installation = open_installation(environ=environ)
    await asyncio.to_thread(publish, installation.paths, "http://127.0.0.1:9")
    with pytest.raises(RbeeError) as raised:
        await daemon_status(installation, "queen")
    assert raised.value.code is Code.QUEEN_UNREACHABLE


async def test_a_queen_elsewhere_has_no_pid_here(installed: Installation, queen: FakeQueen) -> None:
    status = await daemon_status(installed, "queen")
    assert status is not None
    assert (status.url, status.version, status.pid, status.started_at) == (queen.url, __version__, None, None)
    assert await ask_queen_to_end(installed) == queen.url


@pytest.mark.parametrize("name", NAMES)
async def test_without_its_packages_the_hint_installs_them(
    environ: dict[str, str], heard: Heard, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(daemons, "missing_modules", lambda role: ["duckdb"])
    with pytest.raises(RbeeError, match=f"cannot run a {name}: duckdb not installed") as raised:
        await start_daemon(open_installation(environ=environ), name, heard)
    assert (raised.value.code, raised.value.hint) == (
        Code.DAEMON_START_FAILED,
        await asyncio.to_thread(install_command, name),
    )


def test_without_a_queen_the_run_files_tell_what_goes_on_and_what_died(environ: dict[str, str]) -> None:
    paths = open_installation(environ=environ).paths
    paths.create()
    assert this_machine(paths) == ThisMachine(None, [], [])
    ours = RunFile.of_this_process("hive", "http://127.0.0.1:9")
    gone = ours.model_copy(update={"name": "queen", "identity": replace(ours.identity, boot_id="another boot")})
    write_run_file(run_path(paths, "hive"), ours)
    write_run_file(run_path(paths, "queen"), gone)
    (paths.worker_run / "w-1.json").write_text(json.dumps({"identity": ours.identity.to_json()}))
    (paths.worker_run / "w-2.json").write_text(json.dumps({"identity": gone.identity.to_json()}))
    (paths.worker_run / "w-3.json").write_text("half a fi")
    machine = this_machine(paths)
    assert machine.hive is not None
    assert (machine.hive.pid, machine.workers) == (ours.identity.pid, ["w-1"])
    log = str(paths.log_file("queen"))
    assert machine.ended_unexpectedly == [EndedDaemon("queen", gone.identity.pid, gone.url, log)]


def test_one_that_ends_in_order_while_it_is_looked_at_did_not_end_unexpectedly(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = open_installation(environ=environ).paths
    paths.create()
    run = RunFile.of_this_process("hive", "http://127.0.0.1:9")
    gone = run.model_copy(update={"identity": replace(run.identity, boot_id="another boot")})
    seen = iter([gone, None])
    monkeypatch.setattr(daemons, "read_run_file", lambda path: next(seen))
    assert ended_unexpectedly(paths, "hive") is None


@pytest.mark.parametrize(
    ("url", "host", "port", "fits"),
    [
        ("http://127.0.0.1:8080", None, 8080, True),
        ("http://127.0.0.1:8080", "localhost", 0, True),
        ("http://[::1]:8080", "::1", None, True),
        ("http://[::1]:8080", "::2", None, False),
        ("http://127.0.0.1:8080", None, 8081, False),
        ("http://127.0.0.1:8080", "", None, False),
    ],
)
def test_a_daemon_that_runs_has_the_address_that_was_asked_for_or_says_how_to_change_it(
    url: str, host: str | None, port: int | None, fits: bool
) -> None:
    status = DaemonStatus("hive", url, "0.1.0", 7, 1.0)
    if fits:
        check_address(status, host=host, port=port)
        return
    with pytest.raises(RbeeError) as raised:
        check_address(status, host=host, port=port)
    assert raised.value.code is Code.ALREADY_RUNNING
    assert raised.value.hint.startswith("rbee hive stop; rbee hive start --")


@pytest.mark.parametrize("name", NAMES)
def test_the_next_one_keeps_the_address_unless_any_port_will_do(environ: dict[str, str], name: str) -> None:
    fixed = open_installation(environ={**environ, f"RBEE_{name.upper()}_PORT": "7777"})
    free = open_installation(environ={**environ, f"RBEE_{name.upper()}_PORT": "0"})
    assert restart_flags(fixed, name) == {}, "none runs"
    write_own(fixed, name)
    assert restart_flags(fixed, name) == {f"{name}.host": "127.0.0.1", f"{name}.port": 7788}
    assert restart_flags(free, name) == {}


def test_an_ephemeral_hive_is_not_replaced(environ: dict[str, str]) -> None:
    installation = open_installation(environ=environ)
    write_own(installation, "hive", ephemeral=True)
    with pytest.raises(RbeeError) as raised:
        restart_flags(installation, "hive")
    assert raised.value.code is Code.ALREADY_RUNNING
    assert "ephemeral" in raised.value.message


def write_own(installation: Installation, name: str, *, ephemeral: bool = False) -> None:
    """A run file that names this process."""
    installation.paths.create()
    run = RunFile.of_this_process(name, "http://127.0.0.1:7788", ephemeral=ephemeral)
    write_run_file(run_path(installation.paths, name), run)
