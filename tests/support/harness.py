"""What a scenario saw (processes, HTTP requests), and waiting for a condition instead of sleeping."""

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import pytest

from daemons.kit.procs.identity import ProcessIdentity, identify

T = TypeVar("T")


def cannot_run(reason: str) -> NoReturn:
    """Skip a test for what this machine lacks, saying what; in continuous integration, where it is a fault, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """One HTTP request that went over a real socket; `status` 0: no answer came."""

    method: str
    url: str
    status: int

    def __str__(self) -> str:
        return f"{self.method} {self.url} -> {self.status or 'no answer'}"


@dataclass(slots=True)
class Evidence:
    """Everything that one scenario touched for real."""

    processes: dict[ProcessIdentity, str] = field(default_factory=dict)
    requests: list[SeenRequest] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.processes and not self.requests

    def __str__(self) -> str:
        processes = [f"pid {identity.pid}: {label}" for identity, label in self.processes.items()]
        requests = [f"{request} ({times} times)" for request, times in Counter(self.requests).items()]
        return "\n".join([*processes, *requests])


class Recorder:
    """Where topologies and clients write down what they see; each scenario begins with a fresh page."""

    def __init__(self) -> None:
        self.current = Evidence()

    def begin(self) -> Evidence:
        """A fresh page, for the scenario that starts now."""
        self.current = Evidence()
        return self.current

    def saw_process(self, pid: int, label: str) -> ProcessIdentity | None:
        """Write down a running process; None when no such process runs."""
        identity = identify(pid)
        if identity is not None:
            self.current.processes[identity] = label
        return identity

    def saw_request(self, method: str, url: str, status: int) -> None:
        self.current.requests.append(SeenRequest(method, url, status))


def eventually(look: Callable[[], T | None], what: str, *, within_s: float = 10.0, every_s: float = 0.02) -> T:
    """The first true value that `look` gives; asks again until the deadline.

    Raises AssertionError naming `what` and the last value seen.
    """
    deadline = time.monotonic() + within_s
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not so within {within_s:g} s; last seen: {value!r}")
        time.sleep(every_s)
