"""Ephemeral runs, again and again: none leaves a process, a port, or a folder that grows.

`RBEE_TEST_REPEATS` sets how many (default 3; 20 for the full check).
"""

import os
import re
from collections import Counter

import pytest

from daemons.kit.procs.identity import ProcessIdentity
from daemons.kit.store.backups import KEPT_PER_REASON
from tests.conftest import StartTopology
from tests.support.harness import eventually
from tests.support.topology import Topology

REPEATS = int(os.environ.get("RBEE_TEST_REPEATS", "3"))
COMMAND = ("infer", "--ephemeral", "--model", "demo", "--prompt", "Once upon a time", "--max-tokens", "16")
# The first run makes databases, keys and logs, the second one the first backups; then nothing new may appear.
SETTLED_AFTER = 2
LOG_PER_RUN = 16 * 1024
"""Bytes that one run may log; the files are rotated."""

DATABASE_AT_MOST = 4 * 2**20
"""Bytes of a database with a few rows. DuckDB takes and gives back whole blocks, so its size goes up and down."""

STAMP = re.compile(r"\d{8}T\d{6}\.\d{3}")


@pytest.mark.timeout(60 + 30 * REPEATS)
def test_ephemeral_runs_leave_nothing_behind(fresh_topology: StartTopology) -> None:
    topology = fresh_topology({})
    seen: Counter[ProcessIdentity] = Counter()
    kinds: list[set[str]] = []
    for _ in range(REPEATS):
        seen.update(run_once(topology))
        files = [path for path in topology.home.rglob("*") if path.is_file()]
        kinds.append({STAMP.sub("TIME", str(path.relative_to(topology.home))) for path in files})
        check_sizes(topology, len(kinds))
    assert max(seen.values()) == 1, "a daemon of one run was there in another one"
    assert len(seen) == 3 * REPEATS
    for number, names in enumerate(kinds[SETTLED_AFTER:], start=SETTLED_AFTER + 1):
        assert names <= kinds[SETTLED_AFTER - 1], f"run {number} left new files: {names - kinds[SETTLED_AFTER - 1]}"


def check_sizes(topology: Topology, runs: int) -> None:
    """Logs are as long as so many runs make them, databases do not grow, and only the newest few backups are kept."""
    assert sum(path.stat().st_size for path in (topology.home / "logs").iterdir()) <= runs * LOG_PER_RUN
    databases = {path.name: path.stat().st_size for path in topology.home.glob("*.duckdb")}
    assert len(databases) == 2
    assert max(databases.values()) <= DATABASE_AT_MOST, databases
    kept = Counter(path.name.partition("-")[0] for path in (topology.home / "backups").iterdir())
    assert all(count <= KEPT_PER_REASON for count in kept.values()), kept


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
