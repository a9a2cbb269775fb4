"""When a hive that ended unexpectedly is started again without a request, and when not any more."""

from daemons.kit.procs import ProcessIdentity
from daemons.kit.restarts import RestartRule
from daemons.queen.supervision import Supervision

RULE = RestartRule(first_s=1.0, longest_s=60.0, crashes=3, window_s=600.0)


def hive(pid: int) -> ProcessIdentity:
    return ProcessIdentity(pid, "boot", pid)


def supervision() -> Supervision:
    return Supervision(RULE, "rbee hive start")


def test_a_hive_that_was_stopped_stays_stopped() -> None:
    watched = supervision()
    assert not watched.noted(None, at=0.0)
    assert watched.wait_s(0.0) is None
    assert watched.problem == ""


def test_a_crash_is_news_once_and_is_followed_by_one_start() -> None:
    watched = supervision()
    assert watched.noted(hive(7), at=10.0)
    assert not watched.noted(hive(7), at=10.5)
    assert watched.problem == "its hive (pid 7) ended unexpectedly; it is started again in 1 s"
    assert watched.wait_s(10.5) == 0.5
    assert watched.wait_s(11.0) == 0.0
    watched.started()
    assert watched.wait_s(12.0) is None
    assert not watched.noted(hive(7), at=12.0), "a start that failed is not repeated by itself"
    assert watched.wait_s(12.0) is None


def test_the_waits_double() -> None:
    watched = supervision()
    watched.noted(hive(1), at=0.0)
    watched.started()
    watched.noted(hive(2), at=5.0)
    assert watched.wait_s(5.0) == 2.0


def test_a_person_who_stops_it_while_it_waits_is_obeyed() -> None:
    watched = supervision()
    watched.noted(hive(1), at=0.0)
    watched.noted(None, at=0.5)
    assert watched.wait_s(1.0) is None


def test_after_too_many_crashes_it_is_left_alone_until_it_answers_again() -> None:
    watched = supervision()
    for pid in (1, 2, 3):
        assert watched.noted(hive(pid), at=float(pid))
    assert watched.wait_s(100.0) is None
    assert "pid 3" in watched.problem
    assert "3 times within 600 s" in watched.problem
    assert "rbee hive start" in watched.problem
    watched.answers()
    assert watched.noted(hive(4), at=101.0)
    assert watched.wait_s(101.0) == 1.0
