"""The rate of tokens over a sliding window."""

import pytest

from daemons.worker.metrics import RateMeter


def test_rate_counts_the_last_seconds_only() -> None:
    now = 100.0
    meter = RateMeter(clock=lambda: now)
    assert meter.per_second == 0.0
    for _ in range(5):
        meter.add(8)
        now += 1.0
    assert meter.per_second == pytest.approx(8.0)
    now += 20.0
    assert meter.per_second == 0.0
    assert meter.total == 40


def test_rate_of_a_moment_is_not_exaggerated() -> None:
    meter = RateMeter(clock=lambda: 5.0)
    meter.add(3)
    assert meter.per_second == 3.0
