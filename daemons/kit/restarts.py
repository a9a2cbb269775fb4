"""When something that crashed may be started again: waits that double, and no further start after too many crashes.

Pure: the caller brings the time, seconds of any clock that does not jump.
"""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartRule:
    """After the first crash within `window_s` a start waits `first_s`, then twice as long each, at most `longest_s`.

    With the crash number `crashes` within the window it is over, until a person says otherwise.
    """

    first_s: float
    longest_s: float
    crashes: int
    window_s: float


class Restarts:
    """The crashes of one thing. `failed` once there were too many; only `clear` takes that back."""

    def __init__(self, rule: RestartRule) -> None:
        self._rule = rule
        self._crashes: deque[float] = deque()
        self.failed = False
        self.next_start_at = 0.0

    def crashed(self, at: float) -> None:
        """Note a crash: `next_start_at` and `failed` say what follows from it."""
        self._crashes.append(at)
        while self._crashes[0] <= at - self._rule.window_s:
            self._crashes.popleft()
        self.failed = self.failed or self.count >= self._rule.crashes
        self.next_start_at = at + min(self._rule.first_s * 2.0 ** (self.count - 1), self._rule.longest_s)

    @property
    def count(self) -> int:
        """Crashes within the window, as of the last one."""
        return len(self._crashes)

    def wait_s(self, at: float) -> float:
        """Seconds until it may be started again; 0 when it may now. Says nothing of one that has `failed`."""
        return max(0.0, self.next_start_at - at)

    def clear(self) -> None:
        """A person has looked at it: as if it had never crashed."""
        self._crashes.clear()
        self.failed = False
        self.next_start_at = 0.0
