"""What an ephemeral keeper started is stopped again: asked first, waited for by its identity, never under others."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemons import __version__
from daemons.contracts.errors import Code
from daemons.contracts.tasks import TaskState
from daemons.kit.client import DaemonClient, Peer
from daemons.kit.procs import ChildProcess, is_alive, send_signal, spawn, stop
from daemons.kit.runfile import RunFile, run_path, write_run_file
from rbee_tui.keeper.installation import Installation, open_installation
from rbee_tui.keeper.session import EphemeralSession, QueenAddress
from tests.support.fake_queen import KEY, FakeQueen, task_row
from tests.unit.keeper.conftest import Heard

SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_DFL); time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


@pytest.fixture
def installation(environ: dict[str, str]) -> Installation:
    quick = {**environ, "RBEE_POLICY_DRAIN_S": "0.05", "RBEE_POLICY_TERM_S": "0.1"}
    return open_installation(environ=quick)


class Started:
    """A process in the place of the queen's, and the session that has to end it."""

    def __init__(self, process: ChildProcess, session: EphemeralSession, run: Path) -> None:
        self.process, self.session, self.run = process, session, run

    @property
    def runs(self) -> bool:
        return is_alive(self.process.identity)


async def start(installation: Installation, queen: FakeQueen, heard: Heard, code: str = SLEEP) -> Started:
    await asyncio.to_thread(installation.paths.create)
    out = installation.paths.logs / "queen.out"
    process = await asyncio.to_thread(lambda: spawn([sys.executable, "-c", code], log_path=out))
    run = RunFile(
        name="queen", identity=process.identity, url=queen.url, version=__version__, started_at=1.0, ephemeral=True
    )
    path = run_path(installation.paths, "queen")
    await asyncio.to_thread(write_run_file, path, run)
    address = QueenAddress(queen.url, KEY, "run file")
    client = DaemonClient(Peer(queen.url, KEY, "the queen", Code.QUEEN_UNREACHABLE), installation.policy)
    return Started(process, EphemeralSession(client, address, installation, run, heard), path)


@pytest.fixture
async def started(installation: Installation, queen: FakeQueen, heard: Heard) -> AsyncIterator[Started]:
    started = await start(installation, queen, heard)
    yield started
    await stop(started.process, kill_after_s=0.1)


async def test_it_is_asked_to_end_and_waited_for(
    installation: Installation, queen: FakeQueen, heard: Heard, started: Started
) -> None:
    queen.on_shutdown = lambda: send_signal(started.process.identity, signal.SIGTERM)
    await started.session.close()
    assert not started.runs
    assert [path for path, _ in queen.seen] == ["GET /v2/fleet", "POST /v2/admin/shutdown"]
    assert not started.run.exists()
    assert heard.text.startswith("[keeper] stopping what was started")


async def test_one_that_does_not_end_is_ended(heard: Heard, started: Started) -> None:
    await started.session.close()
    assert not started.runs
    assert "after SIGTERM" in heard.text


async def test_one_that_is_deaf_is_killed(installation: Installation, queen: FakeQueen, heard: Heard) -> None:
    started = await start(installation, queen, heard, DEAF)
    out = installation.paths.logs / "queen.out"
    while not await asyncio.to_thread(out.read_text):  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.01)
    await started.session.close()
    assert not started.runs
    assert "SIGTERM and SIGKILL" in heard.text
    assert not started.run.exists()


async def test_it_stays_while_others_have_tasks_and_ends_with_them(
    queen: FakeQueen, heard: Heard, started: Started
) -> None:
    queen.tasks = [task_row(state=TaskState.RUNNING, ended_at=None, request_id="req-of-another")]
    await started.session.close()
    assert started.runs
    assert [path for path, _ in queen.seen] == ["GET /v2/fleet"]
    assert "stays for 1 task(s) of others" in heard.text


async def test_our_own_cancelled_task_does_not_keep_it(queen: FakeQueen, started: Started) -> None:
    ours = started.session.request_id
    queen.tasks = [task_row(state=TaskState.RUNNING, ended_at=None, request_id=ours)]
    await started.session.close()
    assert not started.runs
