"""The worker as the server runner sees it: load, tell the hive, watch for its absence, drain, end."""

import asyncio
import os
import time
from collections.abc import Callable

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import Accepted
from daemons.contracts.routes import HIVE_READY
from daemons.contracts.workers import ReadyCallback, WorkerSettings
from daemons.kit.client import DaemonClient, Peer
from daemons.kit.logs import get_logger
from daemons.kit.policy import Policy
from daemons.kit.procs import ProcessIdentity, identify, own_identity, wait_exit
from daemons.worker.bridge import Bridge

ENGINE_STOPS_WITHIN_S = 10.0
"""The engine's thread looks up between two steps, and a load at each tensor."""


class WorkerService:
    """Life of one worker process. `url` is the address under which it answers."""

    def __init__(self, settings: WorkerSettings, bridge: Bridge, url: str, policy: Policy) -> None:
        self.settings = settings
        self.draining = False
        self._bridge = bridge
        self._url = url
        self._policy = policy
        self._stop: Callable[[], None] = lambda: None
        self._drain_s: float | None = None
        self._hive_seen = time.monotonic()
        self._contact = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        bridge.on_end = self._broken

    async def start(self, stop: Callable[[], None]) -> None:
        """Begin to load; HTTP answers meanwhile."""
        self._stop = stop
        self._bridge.start()
        self._tasks = [
            asyncio.create_task(self._tell_hive(), name="ready callback"),
            asyncio.create_task(self._watch_hive(), name="orphan watch"),
        ]

    def begin_drain(self) -> None:
        self.draining = True
        self._bridge.begin_drain()

    async def drained(self) -> None:
        try:
            await asyncio.wait_for(self._bridge.until_idle(), self._drain_s)
        except TimeoutError:
            get_logger().warning("the drain limit that was asked for is reached", limit_s=self._drain_s)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not await self._bridge.stop(ENGINE_STOPS_WITHIN_S):
            get_logger().warning("the engine still computes; the process ends without it")

    def end(self, drain_s: float | None) -> None:
        """End as SIGTERM would, with a drain limit of its own when one is given (never a longer one)."""
        self._drain_s = drain_s
        get_logger().info("shutdown asked for", drain_s=drain_s)
        self._stop()

    def hive_was_here(self) -> None:
        """Called for each request that only hives send."""
        self._hive_seen = time.monotonic()
        self._contact.set()

    def _broken(self) -> None:
        """Loading failed or the engine died: nothing is left to do here, and the exit code tells the hive."""
        failure = self._bridge.failure
        if failure is not None:
            get_logger().error(failure.message, code=failure.code.value, **failure.details)
        self._stop()

    # -- the hive ------------------------------------------------------------------------------------------------

    async def _tell_hive(self) -> None:
        """Post the ready callback once the model is loaded. A hive that is gone finds the worker by its run file."""
        async for _ in self._bridge.states():
            if self._bridge.loaded:
                break
        get_logger().info("ready", load_ms=round(self._bridge.load_ms, 1), model=self._bridge.backend.info.description)
        if self.settings.ready_url is None:
            return
        base = self.settings.ready_url.removesuffix(HIVE_READY.path)
        peer = Peer(base, self.settings.key, "the hive", Code.HIVE_UNREACHABLE)
        try:
            async with DaemonClient(peer, self._policy) as hive:
                answer = await hive.get(HIVE_READY, Accepted, body=self._ready_callback())
            get_logger().info("told the hive", hive=base, acknowledged=answer.accepted)
        except RbeeError as error:
            get_logger().warning("the hive was not told that the model is ready", reason=error.message)

    def _ready_callback(self) -> ReadyCallback:
        return ReadyCallback(
            id=self.settings.worker_id,
            url=self._url,
            model_ref=self.settings.model_ref,
            backend=self.settings.backend,
            device=self.settings.device,
            pid=os.getpid(),
            slots_total=self.settings.slots,
            ctx=self._bridge.backend.info.ctx,
            load_ms=self._bridge.load_ms,
        )

    def _hive(self) -> ProcessIdentity | None:
        """The hive that started this worker; None when it is gone already.

        The parent does not tell: once the hive is gone that is a subreaper, which may live on, or process 1.
        """
        pid = self.settings.hive_pid
        if pid is None:
            return identify(os.getppid()) if os.getppid() != 1 else None
        hive = identify(pid)
        is_later = hive is not None and hive.started > own_identity().started
        return None if is_later else hive

    async def _watch_hive(self) -> None:
        """Drain and end when the hive that started this worker is gone and no other one asks for it."""
        hive = self._hive()
        if hive is not None:
            await wait_exit(hive)
            get_logger().warning("the hive is gone", grace_s=self.settings.orphan_grace_s)
        gone_at = time.monotonic()
        while True:
            self._contact.clear()
            left = max(gone_at, self._hive_seen) + self.settings.orphan_grace_s - time.monotonic()
            if left <= 0:
                break
            try:
                await asyncio.wait_for(self._contact.wait(), left)
            except TimeoutError:
                pass  # the grace is over, unless contact came in this very moment
        get_logger().warning("no hive asked for this worker, ending", grace_s=self.settings.orphan_grace_s)
        self._stop()
