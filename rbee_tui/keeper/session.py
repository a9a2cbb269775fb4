"""The keeper's way to its queen: finding it, starting one where none is, checking that both speak the same rbee.

Where a queen is looked for: ``--queen`` > ``RBEE_QUEEN_URL`` > configuration files > the run file of this machine.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from daemons import __version__
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Narration
from daemons.contracts.fleet import DrainRequest, FleetSnapshot, Health
from daemons.contracts.routes import FLEET, QUEEN_HEALTH, QUEEN_SHUTDOWN, Route
from daemons.contracts.tasks import ENDED
from daemons.kit.auth import ADMIN_KEY, key_path, read_key
from daemons.kit.client import REQUEST_ID_HEADER, DaemonClient, Event, OnHeaders, Peer
from daemons.kit.narration import Listener
from daemons.kit.policy import Policy
from daemons.kit.procs import stop
from daemons.kit.runfile import RunFile, remove_run_file, run_path
from daemons.lifecycle.local import ensure_queen, find_daemon
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.packages import install_command, missing_modules

ACTOR = "keeper"
QUEEN = "queen"
QUEEN_NAME = "the queen"

EventT = TypeVar("EventT", bound=BaseModel)
AnswerT = TypeVar("AnswerT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class QueenAddress:
    """Where a queen is, our key for it, and who says so."""

    url: str
    key: str = field(repr=False)
    source: str


class QueenSession:
    """An open line to a queen whose version fits ours. Use as an async context manager, or call `close`.

    Every request carries the same request id, and every failure names it.
    """

    name = QUEEN_NAME

    def __init__(self, client: DaemonClient, address: QueenAddress, installation: Installation) -> None:
        self.client = client
        self.address = address
        self.policy: Policy = installation.policy
        self.request_id = installation.request_id

    async def __aenter__(self) -> "QueenSession":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def call(self, route: Route, **arguments: Any) -> Any:
        """As `DaemonClient.call`."""
        with self._named():
            return await self.client.call(route, headers=self._headers, **arguments)

    async def get(self, route: Route, answer: type[AnswerT], **arguments: Any) -> AnswerT:
        """As `DaemonClient.get`."""
        with self._named():
            return await self.client.get(route, answer, headers=self._headers, **arguments)

    @asynccontextmanager
    async def stream(
        self,
        route: Route,
        *,
        path: Mapping[str, str] | None = None,
        body: BaseModel | None = None,
        query: BaseModel | None = None,
        silence_s: float | None = None,
        on_headers: OnHeaders | None = None,
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """As `DaemonClient.stream`."""
        with self._named():
            async with self.client.stream(
                route,
                path=path,
                body=body,
                query=query,
                headers=self._headers,
                silence_s=silence_s,
                on_headers=on_headers,
            ) as events:
                yield events

    @property
    def _headers(self) -> Mapping[str, str]:
        return {REQUEST_ID_HEADER: self.request_id}

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except RbeeError as error:
            if error.code is Code.HIVE_BAD_RESPONSE and error.details.get("url") == self.address.url:
                error.hint = "rbee queen status"  # it is not a hive that answered so
            if error.code is not Code.QUEEN_UNREACHABLE:  # then no log has it
                error.request_id = error.request_id or self.request_id
            raise


class EphemeralSession(QueenSession):
    """A session that ends the queen which was started for it, and so everything below it, when it is closed."""

    def __init__(
        self, client: DaemonClient, address: QueenAddress, installation: Installation, run: RunFile, say: Listener
    ) -> None:
        super().__init__(client, address, installation)
        self._installation = installation
        self._run = run
        self._say = say

    async def close(self) -> None:
        """End the queen and wait until its process is gone, unless others still use it."""
        try:
            others = await self._tasks_of_others()
            if others:
                # It watches our process, and ends by itself once we and they are gone.
                self._say(narration(f"the queen stays for {others} task(s) of others, and ends with them"))
                return
            await self._ask_to_end()
            await self._wait_gone()
        finally:
            await super().close()

    async def _tasks_of_others(self) -> int:
        try:
            snapshot = await self.get(FLEET, FleetSnapshot, tries=1)
        except RbeeError:
            return 0  # it is gone or stuck; waiting for its process tells
        return sum(task.state not in ENDED and task.request_id != self.request_id for task in snapshot.tasks)

    async def _ask_to_end(self) -> None:
        try:
            await self.call(QUEEN_SHUTDOWN, body=DrainRequest(drain_s=0.0), tries=1)
        except RbeeError:
            pass  # SIGTERM follows, when its time is over

    async def _wait_gone(self) -> None:
        policy = self.policy
        self._say(narration("stopping what was started"))
        report = await stop(
            self._run.identity, term_after_s=policy.drain_s + 2 * policy.term_s, kill_after_s=3 * policy.term_s
        )
        if report.sent:
            self._say(narration(f"the queen {report.describe()}"))
        path = run_path(self._installation.paths, QUEEN)
        await asyncio.to_thread(remove_run_file, path, self._run.identity)


def narration(text: str, **fields: Any) -> Narration:
    """A sentence of the keeper."""
    return Narration(actor=ACTOR, text=text, fields=fields)


def find_queen(installation: Installation) -> QueenAddress | None:
    """Where the queen is: as configured, else as the run file of this machine says; None when none runs.

    Reads files. Raises RbeeError(KEY_FILE_INVALID), or INVALID_API_KEY when there is no key for a configured queen.
    """
    settings = installation.settings.queen
    if settings.url:
        return QueenAddress(settings.url, _key_for(installation), installation.loaded.sources["queen.url"])
    run = find_daemon(QUEEN, installation.paths)
    return QueenAddress(run.url, _key_for(installation), "run file") if run else None


def _key_for(installation: Installation) -> str:
    """The configured key, else the one that the queen of this home made."""
    settings, path = installation.settings.queen, key_path(installation.paths, ADMIN_KEY)
    if not settings.key and settings.url and not path.exists():
        raise RbeeError(
            Code.INVALID_API_KEY,
            f"no key for the queen at {settings.url}: set RBEE_QUEEN_KEY, or key under [queen] in "
            f"{installation.paths.user_config}",
            details={"url": settings.url},
        )
    key = settings.key or read_key(path)
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise RbeeError(Code.CONFIG_INVALID, "queen.key holds characters that no key has", details={"key": "queen.key"})
    return key


async def connect(installation: Installation, say: Listener) -> QueenSession:
    """A session with the queen that is there.

    Raises RbeeError: QUEEN_UNREACHABLE (none runs, or it does not answer), VERSION_MISMATCH, and as `find_queen` does.
    """
    session = await connect_if_running(installation, say)
    if session is None:
        raise RbeeError(
            Code.QUEEN_UNREACHABLE, f"no queen runs on this machine (state in {installation.paths.home})",
            hint="rbee queen start",
        )  # fmt: skip
    return session


async def connect_if_running(installation: Installation, say: Listener) -> QueenSession | None:
    """As `connect`; None when no queen is configured and none runs on this machine."""
    address = await asyncio.to_thread(find_queen, installation)
    if address is None:
        return None
    return await _checked(QueenSession(_client(address, installation, say), address, installation))


async def ensure(installation: Installation, say: Listener, *, ephemeral: bool = False) -> QueenSession:
    """A session with the queen that is there, or with one that is started now.

    With `ephemeral` a queen that was started here ends when the session is closed; one that was there stays.
    Raises as `connect` and `lifecycle.local.ensure_queen` do.
    """
    if installation.settings.queen.url:
        return await connect(installation, say)
    if not await asyncio.to_thread(find_daemon, QUEEN, installation.paths):
        await asyncio.to_thread(_check_installed)
    daemon = await ensure_queen(
        installation.paths,
        installation.settings,
        ephemeral=ephemeral,
        narrate=lambda text, **fields: say(narration(text, **fields)),
    )
    address = QueenAddress(daemon.url, daemon.key, "run file")
    check_version(daemon.run.version, daemon.url)  # it has answered just now, so there is nothing else to ask it
    client = _client(address, installation, say)
    session = QueenSession(client, address, installation)
    if daemon.started_here:
        if ephemeral:
            session = EphemeralSession(client, address, installation, daemon.run, say)
        await _tell_notices(session, say)
    return session


async def _tell_notices(session: QueenSession, say: Listener) -> None:
    """What the queen met with when it started, such as a database that had to be restored."""
    try:
        snapshot = await session.get(FLEET, FleetSnapshot, tries=1)
    except RbeeError:
        return  # what the person asked for will tell
    for notice in snapshot.notices:
        say(narration(notice.text, hint=notice.hint))


def _check_installed() -> None:
    missing = missing_modules(QUEEN)
    if missing:
        raise RbeeError(
            Code.QUEEN_UNREACHABLE,
            f"no queen runs on this machine, and none can be started: {', '.join(missing)} not installed",
            details={"missing": missing},
            hint=install_command("queen", "hive", "worker"),
        )


def _client(address: QueenAddress, installation: Installation, say: Listener) -> DaemonClient:
    def on_retry(attempt: int, tries: int, wait_s: float, error: RbeeError) -> None:
        say(narration(f"{error.message}; again in {wait_s:.1f} s", attempt=attempt, tries=tries, wait_s=wait_s))

    peer = Peer(address.url, address.key, QUEEN_NAME, Code.QUEEN_UNREACHABLE)
    return DaemonClient(peer, installation.policy, on_retry=on_retry)


async def _checked(session: QueenSession) -> QueenSession:
    """The session, once the queen has answered in a version that fits; it is closed when not."""
    try:
        health = await session.get(QUEEN_HEALTH, Health)
        check_version(health.version, session.address.url)
    except BaseException:
        await session.close()
        raise
    return session


def check_version(theirs: str, url: str, *, ours: str = __version__) -> None:
    """Refuse to talk to a queen of another major.minor. Raises RbeeError(VERSION_MISMATCH) with both versions."""
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise RbeeError(
            Code.VERSION_MISMATCH,
            f"the queen at {url} is version {theirs}, this keeper is {ours}; they differ in major.minor",
            details={"queen": theirs, "keeper": ours, "url": url},
            hint="rbee queen stop",
        )


def read_event(event: Event, form: type[EventT]) -> EventT:
    """The data of an event as its wire type. Raises RbeeError(HIVE_BAD_RESPONSE)."""
    try:
        return form.model_validate_json(event.raw)
    except ValidationError as error:
        raise RbeeError(
            Code.HIVE_BAD_RESPONSE,
            f"{QUEEN_NAME} sent an event {event.type!r} that is no {form.__name__}: {error.error_count()} faults",
        ) from error
