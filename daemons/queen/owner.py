"""An ephemeral queen ends with its owner's process, unless somebody else uses it."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from daemons.kit.logs import get_logger
from daemons.kit.procs import ProcessIdentity, wait_exit


class InFlight:
    """Counts the requests that are being answered, streams among them."""

    def __init__(self, app: ASGIApp, on_none: Callable[[], None]) -> None:
        self.count = 0
        self._app = app
        self.on_none = on_none

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.count -= 1
            if not self.count:
                self.on_none()


class OwnerWatch:
    """Calls `end` once the owner is gone and nothing is in use any more. `look` is called when that may be so."""

    def __init__(self, owner: ProcessIdentity, unused: Callable[[], bool], end: Callable[[], None]) -> None:
        self._owner = owner
        self._unused = unused
        self._end = end
        self._gone = False

    async def run(self) -> None:
        """Wait for the owner's end."""
        await wait_exit(self._owner)
        get_logger().info("the owner is gone", pid=self._owner.pid)
        self._gone = True
        self.look()

    def look(self) -> None:
        """Something came to its end: was it the last?"""
        if self._gone and self._unused():
            self._end()
