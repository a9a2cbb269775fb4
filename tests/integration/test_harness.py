"""The harness of the scenarios finds what it is there to find: processes, files and silence that should not be."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.bdd.conftest import pytest_bdd_after_scenario
from tests.conftest import StartTopology
from tests.support.harness import Evidence, Recorder, eventually
from tests.support.topology import Topology

IGNORES_SIGTERM = (
    "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)


@pytest.fixture
def topology(monkeypatch: pytest.MonkeyPatch) -> Topology:
    """An empty topology that loses patience early. The tests close it themselves."""
    monkeypatch.setattr("tests.support.topology.ENDED_WITHIN_S", 0.3)
    return Topology(Recorder())


@contextlib.contextmanager
def stray(topology: Topology, *, by_environment: bool) -> Iterator[int]:
    """A process that belongs to the topology, by its environment or by its working folder, and that nobody stops."""
    process = subprocess.Popen(
        [sys.executable, "-c", IGNORES_SIGTERM],
        stdout=subprocess.PIPE,
        env=topology.environ() if by_environment else {"PATH": os.defpath},
        cwd="/" if by_environment else topology.root,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process:
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("by_environment", [True, False])
def test_a_process_that_is_left_fails_the_end_of_its_topology(topology: Topology, by_environment: bool) -> None:
    with stray(topology, by_environment=by_environment) as pid:
        with pytest.raises(AssertionError, match=f"pid {pid}"):
            topology.close()
        assert not topology.root.exists()


def test_a_temporary_file_that_is_left_fails_the_end_of_its_topology(topology: Topology) -> None:
    (topology.root / "t" / "forgotten").write_text("")
    with pytest.raises(AssertionError, match="forgotten"):
        topology.close()


def test_a_lost_task_in_a_daemons_log_fails_the_end_of_its_topology(topology: Topology) -> None:
    logs = topology.home / "logs"
    logs.mkdir(parents=True)
    (logs / "hive.log").write_text('{"level": "info", "text": "started"}\n')
    (logs / "queen.log").write_text('{"level": "error", "text": "Task was destroyed but it is pending!"}\n')
    with pytest.raises(AssertionError, match=r"queen\.log: .*was destroyed"):
        topology.close()


def test_a_topology_that_did_nothing_leaves_nothing(topology: Topology) -> None:
    topology.close()
    assert not topology.root.exists()


def test_a_keeper_command_is_recorded_as_the_process_that_it_was(
    fresh_topology: StartTopology, recorder: Recorder
) -> None:
    evidence = recorder.begin()
    assert evidence.is_empty
    finished = fresh_topology({}).keeper("--version")
    assert finished.code == 0
    assert finished.out.startswith("rbee ")
    assert list(evidence.processes.values()) == ["rbee --version"]


def test_waiting_for_what_never_comes_fails_and_says_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"bees.*last seen: 0"):
        eventually(lambda: 0, "bees", within_s=0.05)


def test_a_signal_reaches_the_keeper_alone(fresh_topology: StartTopology) -> None:
    keeper = fresh_topology({}).begin("infer", "--model", "demo", "--prompt", "-", stdin=None)
    keeper.signal(signal.SIGKILL)
    assert keeper.wait().code == -signal.SIGKILL


class FakeRequest:
    """What the hook at the end of a scenario asks of pytest."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self.node = self
        self.user_properties: list[tuple[str, str]] = []

    def getfixturevalue(self, _name: str) -> Evidence:
        return self._evidence

    def add_report_section(self, *_section: str) -> None:
        """Reports are pytest's business."""


def test_a_scenario_without_any_process_or_request_fails(recorder: Recorder) -> None:
    names: Any = SimpleNamespace(name="bees")
    empty: Any = FakeRequest(Evidence())
    with pytest.raises(AssertionError, match="no process was seen and no HTTP request was made"):
        pytest_bdd_after_scenario(empty, names, names)
    recorder.begin()
    recorder.saw_process(os.getpid(), "this test")
    seen: Any = FakeRequest(recorder.current)
    pytest_bdd_after_scenario(seen, names, names)
    assert f"pid {os.getpid()}: this test" in str(seen.user_properties)
