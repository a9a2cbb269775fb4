"""Real child processes that never outlive their test."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemons.kit.procs import ChildProcess, send_signal, spawn

StartPython = Callable[[str], ChildProcess]
SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def start_python(tmp_path: Path) -> Iterator[StartPython]:
    """Starts a small Python program whose output goes to ``child.log``."""
    started: list[ChildProcess] = []

    def start(program: str) -> ChildProcess:
        child = spawn([sys.executable, "-S", "-E", "-c", program], log_path=tmp_path / "child.log")
        started.append(child)
        return child

    yield start
    for child in started:
        send_signal(child.identity, signal.SIGKILL)
        child.reap()
