"""A whole queen inside a test: the real service, store and routes over real HTTP, with fake hives behind them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemons.contracts.errors import Code
from daemons.contracts.events import EventType
from daemons.contracts.routes import TASK_CREATE, TASK_EVENTS, Daemon, Role
from daemons.kit.app import build_app
from daemons.kit.auth import Keyring
from daemons.kit.client import DaemonClient, Event, Peer
from daemons.kit.policy import Policy
from daemons.kit.store import Store
from daemons.queen.core.state import Limits
from daemons.queen.fleet import QueenIdentity
from daemons.queen.hives import Hive
from daemons.queen.http.table import queen_handlers
from daemons.queen.logs import QueenLogs
from daemons.queen.service import Parts, QueenService
from daemons.queen.store import MIGRATIONS, QueenStore
from tests.support.fake_hive import FakeHive
from tests.support.http_service import running

ADMIN_KEY = "test-admin-key-0123456789"
INFER_KEY = "test-infer-key-0123456789"
OTHER_KEY = "test-other-key-0123456789"
FAST = Policy(
    telemetry_interval_s=0.1, node_stale_s=1.0, node_unreachable_s=2.0, http_timeout_s=2.0, http_tries=2,
    http_first_wait_s=0.05, drain_s=2.0, inference_stall_s=5.0,
)  # fmt: skip


@dataclass
class QueenUnderTest:
    """A running queen and clients for it."""

    url: str
    service: QueenService
    admin: DaemonClient
    infer: DaemonClient
    other: DaemonClient

    async def run_task(self, client: DaemonClient | None = None, **body: Any) -> list[Event]:
        """All events of an attached task."""
        request = {"model": "demo", "prompt": "Hello", "max_tokens": 3, **body}
        async with (client or self.admin).stream(TASK_CREATE, body=request) as events:
            return [event async for event in events]

    async def detach(self, client: DaemonClient | None = None, **body: Any) -> str:
        """Start a detached task; its id."""
        request = {"model": "demo", "prompt": "Hello", "max_tokens": 3, **body}
        answer = await (client or self.admin).call(TASK_CREATE, body=request, headers={"Prefer": "respond-async"})
        return str(answer["id"])

    async def follow(self, task_id: str, last: int = 0) -> list[Event]:
        """All further events of a task."""
        headers = {"Last-Event-ID": str(last)} if last else {}
        async with self.admin.stream(TASK_EVENTS, path={"id": task_id}, headers=headers) as events:
            return [event async for event in events]


@asynccontextmanager
async def running_queen(
    folder: Path,
    hives: Mapping[str, Hive],
    *,
    policy: Policy = FAST,
    limits: Limits | None = None,
    start_hives: bool = True,
) -> AsyncIterator[QueenUnderTest]:
    """Serve a queen on a free port until the block ends. `folder` keeps its database."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    store = QueenStore(Store(folder / "queen.duckdb", MIGRATIONS, folder / "backups"))
    await store.open()
    identity = QueenIdentity(time.time())
    parts = Parts(policy, limits or Limits(default_slots=2), dict(hives), store, identity, start_hives=start_hives)
    service = QueenService(parts)
    logs = QueenLogs(folder / "queen.log", service.watchers, service.closing)
    keyring = Keyring({ADMIN_KEY: Role.ADMIN, INFER_KEY: Role.INFER, OTHER_KEY: Role.INFER})
    app = build_app(Daemon.QUEEN, queen_handlers(service, logs), keyring=lambda: keyring, policy=policy)
    async with running(app, service, drain_s=policy.drain_s) as url:  # type: ignore[arg-type]
        identity.url = url
        clients = [
            DaemonClient(Peer(url, key, "the queen", Code.QUEEN_UNREACHABLE), policy)
            for key in (ADMIN_KEY, INFER_KEY, OTHER_KEY)
        ]
        try:
            yield QueenUnderTest(url, service, *clients)
        finally:
            for client in clients:
                await client.close()


@asynccontextmanager
async def queen_and_hive(folder: Path, **arguments: Any) -> AsyncIterator[tuple[QueenUnderTest, FakeHive]]:
    """A queen with one node, `local`, that is up."""
    async with FakeHive().serving() as hive, running_queen(folder, {"local": hive}, **arguments) as queen:
        await until(lambda: queen.service.watchers["local"].connected and queen.service.state.nodes["local"].sample)
        yield queen, hive


async def until(condition: Callable[[], object], limit_s: float = 5.0) -> None:
    """Wait until something holds. Raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - many different things are waited for
            await asyncio.sleep(0.005)


def kinds(events: list[Event]) -> list[str]:
    return [event.type for event in events]


def text_of(events: list[Event]) -> str:
    """What a reader has on its screen: a snapshot replaces, tokens are appended."""
    text = ""
    for event in events:
        if event.type == EventType.SNAPSHOT:
            text = event.data["text"]
        elif event.type == EventType.TOKEN:
            text += event.data["token"]
    return text


def sentences(events: list[Event]) -> list[str]:
    """``[actor] text`` of every narration."""
    return [f"[{e.data['actor']}] {e.data['text']}" for e in events if e.type == EventType.NARRATION]
