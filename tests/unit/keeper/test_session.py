"""The keeper finds its queen, talks only to one of its own version, and says what to run when there is none."""

import asyncio
from pathlib import Path

import pytest

from daemons import __version__
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import FleetSnapshot, LogLines
from daemons.contracts.routes import FLEET
from daemons.kit.auth import ADMIN_KEY, key_path
from daemons.kit.paths import Paths
from daemons.kit.procs import ProcessIdentity, own_identity
from daemons.kit.runfile import RunFile, run_path, write_run_file
from rbee_tui.keeper.installation import Installation, open_installation
from rbee_tui.keeper.packages import install_command
from rbee_tui.keeper.session import check_version, connect, connect_if_running, ensure, find_queen
from tests.support.fake_queen import KEY, FakeQueen
from tests.unit.keeper.conftest import Heard


def publish(paths: Paths, url: str, identity: ProcessIdentity | None = None) -> None:
    """The run file and key of a queen at `url` that lives in this process."""
    paths.create()
    key = key_path(paths, ADMIN_KEY)
    key.touch(mode=0o600)
    key.write_text(KEY + "\n")
    run = RunFile(name="queen", identity=identity or own_identity(), url=url, version=__version__, started_at=1.0)
    write_run_file(run_path(paths, "queen"), run)


class TestFinding:
    """--queen > RBEE_QUEEN_URL > configuration > run file."""

    URLS = ("http://flag:1", "http://environment:2", "http://file:3", "http://127.0.0.1:4")

    @pytest.mark.parametrize("given", [4, 3, 2, 1, 0])
    def test_the_nearest_place_wins(self, environ: dict[str, str], tmp_path: Path, given: int) -> None:
        flag, environment, file, run = self.URLS
        if given > 2:
            environ["RBEE_QUEEN_URL"] = environment
        if given > 1:
            config = tmp_path / "config.toml"
            config.write_text(f'[queen]\nurl = "{file}"\n')
            environ["RBEE_CONFIG"] = str(config)
        installation = open_installation(queen_url=flag if given > 3 else None, environ=environ)
        if given > 0:
            publish(installation.paths, run)
        found = find_queen(installation)
        assert (found.url if found else None) == [None, *reversed(self.URLS)][given]

    def test_a_run_file_whose_process_is_gone_counts_for_nothing(self, environ: dict[str, str]) -> None:
        installation = open_installation(environ=environ)
        identity = own_identity()
        gone = ProcessIdentity(identity.pid, identity.boot_id, identity.started + 1)
        publish(installation.paths, "http://127.0.0.1:4", gone)
        assert find_queen(installation) is None

    def test_a_queen_elsewhere_needs_a_key(self, environ: dict[str, str]) -> None:
        installation = open_installation(queen_url="http://box:8080", environ=environ)
        with pytest.raises(RbeeError, match=r"no key for the queen at http://box:8080.*RBEE_QUEEN_KEY") as raised:
            find_queen(installation)
        assert raised.value.code is Code.INVALID_API_KEY

    @pytest.mark.parametrize("key", ["with space\n", "schlüssel", " padded"])
    def test_a_key_that_no_header_can_carry_is_named_as_such(self, environ: dict[str, str], key: str) -> None:
        installation = open_installation(queen_url="http://box:1", environ={**environ, "RBEE_QUEEN_KEY": key})
        with pytest.raises(RbeeError) as raised:
            find_queen(installation)
        assert (raised.value.code, key in raised.value.message) == (Code.CONFIG_INVALID, False)

    @pytest.mark.parametrize("url", ["box:8080", "ftp://box", "http://", "http://box:port", "http://bo\x1bx:1"])
    def test_an_address_that_is_none_is_refused_with_its_source(self, environ: dict[str, str], url: str) -> None:
        with pytest.raises(RbeeError, match=r"environment RBEE_QUEEN_URL.*http://host:port") as raised:
            open_installation(environ={**environ, "RBEE_QUEEN_URL": url})
        assert raised.value.code is Code.CONFIG_INVALID
        assert raised.value.message.isprintable()


class TestConnecting:
    """A session is with a queen that answers, in our version."""

    async def test_requests_of_one_command_carry_one_request_id(
        self, installed: Installation, queen: FakeQueen, heard: Heard
    ) -> None:
        async with await connect(installed, heard) as session:
            snapshot = await session.get(FLEET, FleetSnapshot)
        assert snapshot.queen_url == queen.url
        assert queen.seen == [("GET /health", installed.request_id), ("GET /v2/fleet", installed.request_id)]
        assert heard == []

    async def test_none_running_says_how_to_start_one(self, environ: dict[str, str], heard: Heard) -> None:
        with pytest.raises(RbeeError, match="no queen runs on this machine") as raised:
            await connect(open_installation(environ=environ), heard)
        assert (raised.value.code, raised.value.hint) == (Code.QUEEN_UNREACHABLE, "rbee queen start")
        assert await connect_if_running(open_installation(environ=environ), heard) is None

    async def test_one_that_does_not_answer_is_tried_again_and_each_try_is_told(
        self, environ: dict[str, str], heard: Heard
    ) -> None:
        installation = open_installation(
            queen_url="http://127.0.0.1:9", environ={**environ, "RBEE_QUEEN_KEY": KEY, "RBEE_POLICY_HTTP_TRIES": "3"}
        )
        with pytest.raises(RbeeError, match="try 3 of 3") as raised:
            await connect(installation, heard)
        assert raised.value.code is Code.QUEEN_UNREACHABLE
        assert [row.fields["attempt"] for row in heard] == [1, 2]
        assert all("does not answer" in row.text and "again in 0.0 s" in row.text for row in heard)

    async def test_the_run_file_leads_to_the_queen_of_this_machine(
        self, environ: dict[str, str], queen: FakeQueen, heard: Heard
    ) -> None:
        installation = open_installation(environ=environ)
        await asyncio.to_thread(publish, installation.paths, queen.url)
        async with await connect(installation, heard) as session:
            assert (session.address.url, session.address.source) == (queen.url, "run file")

    async def test_a_wrong_key_is_refused_by_name(
        self, environ: dict[str, str], queen: FakeQueen, heard: Heard
    ) -> None:
        installation = open_installation(queen_url=queen.url, environ={**environ, "RBEE_QUEEN_KEY": "wrong"})
        async with await connect(installation, heard) as session:
            with pytest.raises(RbeeError) as raised:
                await session.get(FLEET, FleetSnapshot)
        assert (raised.value.code, raised.value.request_id) == (Code.INVALID_API_KEY, installation.request_id)

    @pytest.mark.parametrize("theirs", ["0.2.0", "1.1.0", "0.10.0", ""])
    async def test_another_major_minor_is_refused_with_both_versions(
        self, installed: Installation, queen: FakeQueen, heard: Heard, theirs: str
    ) -> None:
        queen.version = theirs
        with pytest.raises(RbeeError) as raised:
            await connect(installed, heard)
        error = raised.value
        assert (error.code, error.hint) == (Code.VERSION_MISMATCH, "rbee queen stop")
        assert (error.details["queen"], error.details["keeper"]) == (theirs, __version__)
        assert __version__ in error.message

    async def test_what_is_no_queen_at_all_is_named_as_such(
        self, installed: Installation, queen: FakeQueen, heard: Heard
    ) -> None:
        async with await connect(installed, heard) as session:
            with pytest.raises(RbeeError, match="something else than rbee's protocol") as raised:
                await session.get(FLEET, LogLines)
        assert (raised.value.code, raised.value.hint) == (Code.HIVE_BAD_RESPONSE, "rbee queen status")

    def test_another_patch_is_no_obstacle(self) -> None:
        check_version("0.1.7", "http://q", ours="0.1.0")


class TestEnsuring:
    """A queen is started only where none is and none is configured."""

    async def test_a_configured_queen_is_used_and_none_is_started(
        self, installed: Installation, queen: FakeQueen, heard: Heard
    ) -> None:
        async with await ensure(installed, heard, ephemeral=True) as session:
            assert session.address.url == queen.url
        assert not run_path(installed.paths, "queen").exists()
        assert ("POST /v2/admin/shutdown", installed.request_id) not in queen.seen

    async def test_a_running_queen_is_used_and_left_running_also_by_an_ephemeral_keeper(
        self, environ: dict[str, str], queen: FakeQueen, heard: Heard
    ) -> None:
        installation = open_installation(environ=environ)
        await asyncio.to_thread(publish, installation.paths, queen.url)
        async with await ensure(installation, heard, ephemeral=True) as session:
            assert session.address.url == queen.url
        assert "POST /v2/admin/shutdown" not in [path for path, _ in queen.seen]
        assert heard == []

    async def test_without_its_packages_the_hint_installs_them(
        self, environ: dict[str, str], heard: Heard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rbee_tui.keeper.session.missing_modules", lambda role: ["duckdb"])
        with pytest.raises(RbeeError, match="duckdb not installed") as raised:
            await ensure(open_installation(environ=environ), heard)
        assert raised.value.hint == await asyncio.to_thread(install_command, "queen", "hive", "worker")
