"""Restarts: how long a start waits after each crash, and when there is no further one."""

from daemons.kit.restarts import RestartRule, Restarts

RULE = RestartRule(first_s=1.0, longest_s=60.0, crashes=5, window_s=600.0)


def test_waits_double_up_to_the_longest() -> None:
    restarts = Restarts(RestartRule(first_s=1.0, longest_s=5.0, crashes=99, window_s=600.0))
    waits = []
    for at in (10.0, 20.0, 30.0, 40.0, 50.0):
        restarts.crashed(at)
        waits.append(restarts.wait_s(at))
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_what_never_crashed_may_start_at_once() -> None:
    restarts = Restarts(RULE)
    assert (restarts.wait_s(1e9), restarts.failed, restarts.count) == (0.0, False, 0)


def test_a_wait_passes() -> None:
    restarts = Restarts(RULE)
    restarts.crashed(100.0)
    assert restarts.wait_s(100.5) == 0.5
    assert restarts.wait_s(101.0) == 0.0


def test_the_fifth_crash_within_the_window_is_the_last() -> None:
    restarts = Restarts(RULE)
    for at in (0.0, 100.0, 200.0, 300.0):
        restarts.crashed(at)
        assert not restarts.failed
    restarts.crashed(599.0)
    assert restarts.failed


def test_crashes_that_are_long_ago_do_not_count() -> None:
    restarts = Restarts(RULE)
    for at in (0.0, 100.0, 200.0, 300.0):
        restarts.crashed(at)
    restarts.crashed(600.0)  # the first one has left the window
    assert (restarts.failed, restarts.count) == (False, 4)
    restarts.crashed(5000.0)
    assert (restarts.count, restarts.wait_s(5000.0)) == (1, 1.0)


def test_only_a_person_clears_it() -> None:
    restarts = Restarts(RULE)
    for _ in range(5):
        restarts.crashed(0.0)
    restarts.crashed(10_000.0)
    assert restarts.failed
    restarts.clear()
    assert (restarts.failed, restarts.count, restarts.wait_s(10_000.0)) == (False, 0, 0.0)
