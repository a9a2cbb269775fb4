"""One watcher per node: finds or starts its hive, keeps one telemetry stream open, and tells what it sees as events."""

import asyncio
from collections.abc import Callable

from pydantic import ValidationError

import daemons
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import Health, ModelList, ModelRow, NodeStatus
from daemons.contracts.routes import HIVE_HEALTH, HIVE_MODEL_LIST, HIVE_TELEMETRY
from daemons.contracts.telemetry import HiveTelemetry
from daemons.kit.client import DaemonClient, Peer
from daemons.kit.logs import get_logger
from daemons.kit.notices import Notices
from daemons.kit.policy import Policy
from daemons.queen.core.events import Event, NodeChanged, NodeFailed, NodeSampled
from daemons.queen.hives import Hive, HiveAddress, Say
from daemons.queen.supervision import Supervision

_RECONNECT_S = 0.2
_LOGS = "rbee logs --tail 40"


class NodeWatcher:
    """Watches one node for as long as `run` runs. Everything it learns goes to `post`.

    A hive that ended unexpectedly is started again, see `Supervision`.
    """

    def __init__(
        self,
        name: str,
        hive: Hive,
        policy: Policy,
        *,
        post: Callable[[Event], None],
        say: Say,
        notices: Notices | None = None,
    ) -> None:
        self.name = name
        self.hive = hive
        self.url = ""
        self.version = ""
        self.models: list[ModelRow] = []
        self._policy = policy
        self._post = post
        self._say = say
        self._notices = notices or Notices()
        self._supervision = Supervision(policy.restart_rule, hive.command("start"))
        self._pid = 0
        self._client: DaemonClient | None = None
        self._kept: DaemonClient | None = None
        self._wanted = False
        self._problem = ""
        self._asked = asyncio.Event()
        self._status = NodeStatus.STOPPED
        self._silence: asyncio.TimerHandle | None = None

    def ensure(self) -> None:
        """The node is needed: start its hive if there is none."""
        self._wanted = True
        self._asked.set()

    @property
    def client(self) -> DaemonClient:
        """Client of the hive. Raises RbeeError(HIVE_UNREACHABLE) while there is none."""
        if self._client is None:
            raise RbeeError(Code.HIVE_UNREACHABLE, f"the hive of node {self.name} is not running")
        return self._client

    @property
    def connected(self) -> bool:
        return self._client is not None

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                await self._watch_once()
        finally:
            self._cancel_timer()
            await self._close_kept()

    async def _watch_once(self) -> None:
        """Connect and follow, or find out why not. A stream that broke after a while is opened again without delay."""
        try:
            await self._reach()
        except RbeeError as error:
            self._failed(error)
        except Exception as error:
            get_logger().error("watching a node failed", node=self.name, exc_info=error)
            self._failed(RbeeError(Code.INTERNAL, f"watching node {self.name} failed: {type(error).__name__}"))
        if self._client is None:
            await self._wait(self._pause_s())
            return
        began = asyncio.get_running_loop().time()
        try:
            await self._follow(self._client)
        except (RbeeError, ValidationError) as error:
            get_logger().info("telemetry stream lost", node=self.name, reason=str(error))
        except Exception as error:
            get_logger().error("following a node failed", node=self.name, exc_info=error)
        finally:
            self._client = None
        if asyncio.get_running_loop().time() - began < _RECONNECT_S:  # a hive that drains accepts, and ends, streams
            await self._wait(_RECONNECT_S)

    def _pause_s(self) -> float:
        """How long to wait before the next look at a node that is not connected."""
        if self._status is not NodeStatus.STOPPED:
            return _RECONNECT_S
        restart_s = self._supervision.wait_s(asyncio.get_running_loop().time())
        interval_s = self._policy.telemetry_interval_s
        return interval_s if restart_s is None else min(interval_s, restart_s)

    async def _reach(self) -> None:
        """Connect, as often as the policy says. The hive is looked up for each try: it may have ended, or moved."""
        tries, waits = self._policy.http_tries, self._policy.http_retry.waits(self._policy.jitter)
        for attempt in range(1, tries + 1):
            address = await self._address()
            if address is None:
                return
            try:
                await self._connect(address)
                return
            except RbeeError as error:
                wait = next(waits, None)
                if error.code is not Code.HIVE_UNREACHABLE:
                    raise
                details = {**error.details, "tries": attempt}
                told = RbeeError(error.code, f"{error.message}, try {attempt} of {tries}", details=details)
                if wait is None:
                    raise self._with_remedy(told, address) from error
                self._on_retry(attempt, tries, wait, told)
                await self._wait(wait)

    async def _address(self) -> HiveAddress | None:
        """Where the hive is; starts it when the node is wanted."""
        address = await self.hive.find()
        if address is None and not self._wanted and not await self._starts_again():
            self._tell(NodeStatus.STOPPED, self._supervision.problem)
            return None
        if address is None:
            self._supervision.started()
            self._tell(NodeStatus.STARTING)
            address = await self.hive.ensure(self._say)
        self._pid = address.pid
        return address

    async def _starts_again(self) -> bool:
        """Whether the hive ended unexpectedly and it is time to start it again."""
        supervision, now = self._supervision, asyncio.get_running_loop().time
        is_news = supervision.noted(await self.hive.crashed(), now())
        wait_s = supervision.wait_s(now())
        if wait_s == 0.0:
            self._notices.tell(f"node {self.name}: {supervision.ended} and is started again", hint=_LOGS)
        elif is_news and wait_s is None:
            self._notices.tell(f"node {self.name}: {supervision.problem}", hint=_LOGS)
        return wait_s == 0.0

    def _with_remedy(self, error: RbeeError, address: HiveAddress) -> RbeeError:
        """Of a hive that does not answer although its process runs: how to get rid of that."""
        if not address.pid:
            return error
        return RbeeError(
            error.code,
            f"{error.message}{self._remedy(address.pid)}",
            details={**error.details, "pid": address.pid},
            hint=self.hive.command("restart"),
        )

    async def _connect(self, address: HiveAddress) -> None:
        peer = Peer(address.url, address.key, f"the hive of node {self.name}", Code.HIVE_UNREACHABLE)
        # Others may be in the middle of a call when our stream breaks: the client stays as long as the address does.
        if self._kept is None or self._kept.peer != peer:
            await self._close_kept()
            self._kept = DaemonClient(peer, self._policy, on_retry=self._on_retry)
        self.version = await self._checked_version(self._kept)
        self.url, self._client = address.url, self._kept

    async def _follow(self, client: DaemonClient) -> None:
        """Read telemetry until the stream breaks."""
        async with client.stream(HIVE_TELEMETRY, silence_s=self._policy.node_unreachable_s, tries=1) as events:
            await self.refresh_models()
            async for event in events:
                self._sampled(HiveTelemetry.model_validate_json(event.raw))

    async def _checked_version(self, client: DaemonClient) -> str:
        health = await client.get(HIVE_HEALTH, Health, tries=1)
        if _major_minor(health.version) != _major_minor(daemons.__version__):
            raise RbeeError(
                Code.VERSION_MISMATCH,
                f"the hive of node {self.name} is version {health.version}, this queen is {daemons.__version__}: "
                "both must have the same major.minor",
                details={"node": self.name, "hive": health.version, "queen": daemons.__version__},
                hint=self.hive.command("stop"),
            )
        return health.version

    async def read_key_again(self) -> None:
        """The hive may have been given another key. Streams that are open go on."""
        try:
            address = await self.hive.find()
        except RbeeError as error:
            get_logger().warning("a hive's key stays as it was", node=self.name, why=error.message, run=error.hint)
            return
        if address is not None and self._kept is not None:
            self._kept.use_key(address.key)

    async def refresh_models(self) -> list[ModelRow]:
        """Ask the hive for its models now; the last known ones when it does not answer."""
        try:
            listed = await self.client.get(HIVE_MODEL_LIST, ModelList, tries=1)
        except RbeeError:
            return self.models
        self.models = [row.model_copy(update={"node": self.name}) for row in listed.models]
        return self.models

    def _on_retry(self, attempt: int, tries: int, wait_s: float, error: RbeeError) -> None:
        if self._wanted:
            self._say(f"{error.message}; next try in {wait_s:.1f} s", attempt=attempt, tries=tries)

    def _sampled(self, sample: HiveTelemetry) -> None:
        self._wanted, self._problem = False, ""
        self._status = NodeStatus.REACHABLE
        self._supervision.answers()
        self._post(NodeSampled(asyncio.get_running_loop().time(), self.name, sample))
        self._arm(self._policy.node_stale_s, NodeStatus.STALE)

    def _arm(self, after_s: float, status: NodeStatus) -> None:
        self._cancel_timer()
        self._silence = asyncio.get_running_loop().call_later(after_s, self._silent, status)

    def _silent(self, status: NodeStatus) -> None:
        policy = self._policy
        if status is NodeStatus.STALE:
            self._tell(status, f"no sample for {policy.node_stale_s:g} s")
            self._arm(max(0.0, policy.node_unreachable_s - policy.node_stale_s), NodeStatus.UNREACHABLE)
        else:
            self._tell(status, f"no sample for {policy.node_unreachable_s:g} s{self._remedy(self._pid)}")

    def _remedy(self, pid: int) -> str:
        """What to do about a hive on this machine that hangs; nothing of one elsewhere (pid 0)."""
        command = self.hive.command("restart")
        return f": its process (pid {pid}) runs but hangs (replace it, its workers go on: {command})" if pid else ""

    def _failed(self, error: RbeeError) -> None:
        """The hive could not be started or reached."""
        if not self._wanted and error.message == self._problem:
            return
        self._wanted, self._problem = False, error.message
        self._status = NodeStatus.UNREACHABLE if error.code is Code.HIVE_UNREACHABLE else NodeStatus.STOPPED
        self._cancel_timer()
        self._post(NodeFailed(asyncio.get_running_loop().time(), self.name, error, self._status))

    def _tell(self, status: NodeStatus, problem: str = "") -> None:
        if status in (NodeStatus.STOPPED, NodeStatus.STARTING):
            self._cancel_timer()
        if self._status is not status or (problem and problem != self._problem):
            self._status, self._problem = status, problem
            self._post(NodeChanged(asyncio.get_running_loop().time(), self.name, status, problem))

    def _cancel_timer(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    async def _close_kept(self) -> None:
        client, self._kept = self._kept, None
        if client is not None:
            await client.close()

    async def _wait(self, seconds: float) -> None:
        """Until the node is asked for, at most so long: a person may start a hive without telling us."""
        try:
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        except TimeoutError:
            pass
        self._asked.clear()


def _major_minor(version: str) -> list[str]:
    return version.split(".")[:2]
