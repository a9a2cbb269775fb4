"""Chaos for a minute: the same code, load and audit as `make chaos`, which takes ten."""

import os

import pytest

from tests.chaos.run import Options, run_chaos

SEED = int(os.environ.get("RBEE_CHAOS_SEED", "5"))
SECONDS = 45.0
"""Faults happen so long; starting, settling and looking take about another half minute."""


@pytest.mark.timeout(300)
def test_a_fleet_under_faults_loses_nothing_and_is_healthy_again() -> None:
    report, _ledger = run_chaos(Options(seconds=SECONDS, seed=SEED, every_s=3.0, clients=5))
    told = "\n".join(report.lines())
    assert report.passed, told
    assert sum(report.faults.values()) >= 8, told
    assert report.texts_compared >= 10, told
