"""Deadlines as they travel from hop to hop."""

import time

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.deadline import DEADLINE_HEADER, deadline_header, deadline_of


def test_no_header_is_no_deadline_and_carries_none() -> None:
    assert deadline_of({}, "queen") is None
    assert deadline_header(None) == {}


def test_a_deadline_passes_through_any_number_of_hops_unchanged() -> None:
    first = time.time() + 12.3456789
    deadline = first
    for hop in ("queen", "hive", "worker"):
        read = deadline_of(deadline_header(deadline), hop)
        assert read is not None
        deadline = read
    assert deadline == first


@pytest.mark.parametrize("text", ["soon", "nan", "inf", "-inf", "", "1e300"])
def test_what_is_no_time_is_refused_and_shown(text: str) -> None:
    with pytest.raises(RbeeError, match="takes unix seconds") as caught:
        deadline_of({DEADLINE_HEADER: text}, "queen")
    assert caught.value.code is Code.INVALID_REQUEST


def test_a_deadline_that_has_passed_is_refused_by_the_hop_that_gets_it() -> None:
    with pytest.raises(RbeeError, match=r"passed 3\.\d s before the hive got the request") as caught:
        deadline_of({DEADLINE_HEADER: str(time.time() - 3)}, "hive")
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert caught.value.status == 408
