"""Notices: what a person should know although no request failed of it. Logged, and kept to be shown."""

import threading
import time

from daemons.contracts.notices import Notice
from daemons.kit.logs import get_logger

KEPT = 20


class Notices:
    """The last notices of this process; any thread may tell one. They live as long as the process does."""

    def __init__(self) -> None:
        self._rows: tuple[Notice, ...] = ()
        self._lock = threading.Lock()

    def tell(self, text: str, *, hint: str = "") -> None:
        """Log a sentence as a warning and keep it; `hint` is a command to run next."""
        get_logger().warning(text, hint=hint)
        with self._lock:
            self._rows = (*self._rows, Notice(at=time.time(), text=text, hint=hint))[-KEPT:]

    def rows(self) -> list[Notice]:
        """What is kept, oldest first."""
        return list(self._rows)
