"""Ephemeral runs, again and again: none leaves a process, a port, or a folder that grows.

`RBEE_TEST_REPEATS` sets how many (default 3; 20 for the full check).
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from daemons.kit.procs.identity import ProcessIdentity
from tests.conftest import StartTopology
from tests.support.harness import eventually
from tests.support.topology import Topology

REPEATS = int(os.environ.get("RBEE_TEST_REPEATS", "3"))
COMMAND = ("infer", "--ephemeral", "--model", "demo", "--prompt", "Once upon a time", "--max-tokens", "16")
# The first run makes the databases, the keys and the first log lines; from the second on nothing new may appear.
SETTLED_AFTER = 2
GROWTH_PER_RUN = 64 * 1024
"""Bytes that logs and history of one run may take; both are bounded, by rotation and by age."""


@pytest.mark.timeout(60 + 30 * REPEATS)
def test_ephemeral_runs_leave_nothing_behind(fresh_topology: StartTopology) -> None:
    topology = fresh_topology({})
    seen: Counter[ProcessIdentity] = Counter()
    files: list[set[Path]] = []
    sizes: list[int] = []
    for _ in range(REPEATS):
        seen.update(run_once(topology))
        files.append({path.relative_to(topology.home) for path in topology.home.rglob("*") if path.is_file()})
        sizes.append(sum((topology.home / path).stat().st_size for path in files[-1]))
    assert max(seen.values()) == 1, "a daemon of one run was there in another one"
    assert len(seen) == 3 * REPEATS
    for number, names in enumerate(files[SETTLED_AFTER:], start=SETTLED_AFTER + 1):
        grown = names - files[SETTLED_AFTER - 1]
        assert not grown, f"run {number} left new files: {sorted(map(str, grown))}"
    growth = sizes[-1] - sizes[min(SETTLED_AFTER, REPEATS) - 1]
    assert growth <= GROWTH_PER_RUN * max(0, REPEATS - SETTLED_AFTER), f"the state folder grew: {sizes}"


def run_once(topology: Topology) -> set[ProcessIdentity]:
    """One ephemeral run; returns the daemons that were seen in it."""
    keeper = topology.begin(*COMMAND)
    daemons = eventually(lambda: all_three(topology), "queen, hive and worker run", within_s=30.0)
    finished = keeper.wait()
    assert finished.code == 0, str(finished)
    assert finished.out.strip()
    # At once, not after a while: whoever runs this in a loop has to find the ports and the folder free.
    assert topology.processes() == {}
    assert not list((topology.home / "run").rglob("*.json"))
    return daemons


def all_three(topology: Topology) -> set[ProcessIdentity] | None:
    """Queen, hive and worker, once all of them run."""
    daemons = {identity for identity, line in topology.processes().items() if ".main serve" in line}
    return daemons if len(daemons) == 3 else None
