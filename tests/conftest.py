"""Fixtures of all tests that run real programs."""

import signal
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.support.harness import Recorder
from tests.support.harness_models import ModelShelf
from tests.support.topology import Topology

StartTopology = Callable[[Mapping[str, str]], Topology]

# A shell starts background jobs with SIGINT ignored, and programs inherit that: those of the tests shall know Ctrl+C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def recorder() -> Recorder:
    """Where everything that a test touches is written down."""
    return Recorder()


@pytest.fixture(scope="session")
def models() -> ModelShelf:
    """GGUF files of the sizes that tests need."""
    return ModelShelf()


@pytest.fixture
def fresh_topology(recorder: Recorder, models: ModelShelf) -> Iterator[StartTopology]:
    """Makes topologies with the settings given to it; all are closed, and checked for leftovers, at the end."""
    made: list[Topology] = []

    def make(settings: Mapping[str, str]) -> Topology:
        topology = Topology(recorder, {"RBEE_MODELS_ALLOWED_FOLDERS": str(models.folder), **settings})
        made.append(topology)
        return topology

    yield make
    close_all(made)


def close_all(topologies: list[Topology]) -> None:
    """Close every topology, also when an earlier one has something left; then say so."""
    faults: list[str] = []
    for topology in topologies:
        try:
            topology.close()
        except AssertionError as fault:
            faults.append(str(fault))
    assert not faults, "\n".join(faults)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what a scenario measured: what llama.cpp's kernels make of a batch, what the queen adds under load."""
    for report in terminalreporter.getreports("passed"):
        for name, said in report.user_properties:
            if name in {"kernels", "load"}:
                terminalreporter.write_line(f"{name}: {said}")
