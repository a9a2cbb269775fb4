"""Retry waits double, are capped and jittered."""

from hypothesis import given
from hypothesis import strategies as st

from daemons.kit.policy import Policy, Retry


@given(st.integers(1, 12), st.floats(0.01, 10), st.floats(0, 0.9))
def test_waits_are_one_fewer_than_tries_and_within_the_jitter(tries: int, first: float, jitter: float) -> None:
    waits = list(Retry(tries, first, longest_s=60).waits(jitter))
    assert len(waits) == tries - 1
    for number, wait in enumerate(waits):
        middle = min(first * 2**number, 60)
        assert middle * (1 - jitter) - 1e-9 <= wait <= middle * (1 + jitter) + 1e-9


def test_load_limit_grows_with_the_file() -> None:
    assert Policy().load_limit_s(0) == 300
    assert Policy().load_limit_s(10 * 2**30) == 500
