"""How the hive of a node is found, started and stopped, and how it ended when nobody asked it to."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from daemons.kit.auth import HIVE_KEY, ensure_key
from daemons.kit.paths import Paths
from daemons.kit.procs import ProcessIdentity
from daemons.kit.settings import Settings
from daemons.lifecycle.local import ensure_hive, find_crashed, find_daemon, stop_daemon

Say = Callable[..., object]
"""As `Narrator.say`: a sentence and its figures."""


@dataclass(frozen=True, slots=True)
class HiveAddress:
    """Where a hive answers, and our key for it. `pid` is that of a hive on this machine, else 0."""

    url: str
    key: str
    pid: int = 0


class Hive(Protocol):
    """How the hive of one node is found, started and stopped."""

    host: str
    startable: bool

    def command(self, verb: str) -> str:
        """What a person runs to `start`, `restart` or `stop` it."""

    async def find(self) -> HiveAddress | None:
        """The running hive; None when none runs."""

    async def crashed(self) -> ProcessIdentity | None:
        """The hive that ran last, when it ended without having been asked to."""

    async def ensure(self, say: Say) -> HiveAddress:
        """The running hive, started when there is none. Raises RbeeError."""

    async def stop_if_ours(self) -> None:
        """End the hive if it was started for this queen alone."""


class LocalHive:
    """The hive of a state folder on the queen's own machine."""

    host = "localhost"
    startable = True

    def __init__(self, paths: Paths, settings: Settings, *, ephemeral: bool, environ: str = "") -> None:
        """`environ` stands in front of a command that is meant for this state folder, not for the usual one."""
        self._environ = environ
        self._paths = paths
        self._settings = settings
        self._ephemeral = ephemeral
        self._started_here = False

    def command(self, verb: str) -> str:
        return f"{self._environ} rbee hive {verb}".lstrip()

    async def find(self) -> HiveAddress | None:
        return await asyncio.to_thread(self._find)

    def _find(self) -> HiveAddress | None:
        run = find_daemon("hive", self._paths)
        return HiveAddress(run.url, ensure_key(self._paths, HIVE_KEY), run.identity.pid) if run else None

    async def crashed(self) -> ProcessIdentity | None:
        run = await asyncio.to_thread(find_crashed, "hive", self._paths)
        return run.identity if run else None

    async def ensure(self, say: Say) -> HiveAddress:
        running = await ensure_hive(self._paths, self._settings, ephemeral=self._ephemeral, narrate=say)
        self._started_here = self._started_here or running.started_here
        return HiveAddress(running.url, running.key, running.run.identity.pid)

    async def stop_if_ours(self) -> None:
        if self._ephemeral and self._started_here:
            await stop_daemon("hive", self._paths, self._settings.policy)
