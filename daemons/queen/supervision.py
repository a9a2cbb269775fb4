"""Whether a hive that ended unexpectedly is started again without a request. Pure: the caller brings the time."""

from daemons.kit.procs import ProcessIdentity
from daemons.kit.restarts import RestartRule, Restarts


class Supervision:
    """The crashes of one node's hive. Each crash allows one start; one that fails is not repeated by itself.

    After too many crashes no start follows, until the hive answers again because a person or a request had it started.
    `start_command` is what a person runs for that.
    """

    def __init__(self, rule: RestartRule, start_command: str) -> None:
        self._rule = rule
        self._restarts = Restarts(rule)
        self._start_command = start_command
        self._noted: ProcessIdentity | None = None
        self._due = False
        self.ended = ""
        """What became of the hive that ran last."""
        self.problem = ""
        """The same with what follows; empty when it was not asked for, or is done."""

    def noted(self, crashed: ProcessIdentity | None, at: float) -> bool:
        """Take in how the hive ended, asked for again and again while none runs; whether that is news."""
        if crashed is None:
            self._due, self.problem = False, ""  # stopped by a person, who has looked at what crashed before
            return False
        if crashed == self._noted:
            return False
        self._noted = crashed
        self._restarts.crashed(at)
        self._due = not self._restarts.failed
        self.ended = f"its hive (pid {crashed.pid}) ended unexpectedly"
        if self._due:
            self.problem = f"{self.ended}; it is started again in {self._restarts.wait_s(at):.3g} s"
        else:
            times = f"the last of {self._restarts.count} times within {self._rule.window_s:g} s"
            self.problem = f"{self.ended}, {times}: it is started again by a request, or with: {self._start_command}"
        return True

    def wait_s(self, at: float) -> float | None:
        """Seconds until the hive is to be started; None when it is not."""
        return self._restarts.wait_s(at) if self._due else None

    def started(self) -> None:
        """A start was begun, by us or for a request."""
        self._due, self.problem = False, ""

    def answers(self) -> None:
        """The hive works."""
        self._due, self.problem = False, ""
        if self._restarts.failed:
            self._restarts.clear()
