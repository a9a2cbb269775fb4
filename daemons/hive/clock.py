"""Time for decisions: unix seconds that never jump, whatever happens to the system's clock or while it sleeps."""

import time


class SteadyClock:
    """Starts at the system's time and then counts with the monotonic clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Unix seconds."""
        return time.monotonic() + self._offset
