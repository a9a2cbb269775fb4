"""What a seed makes of a run: always the same, everything asked for, within the time."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.plan import AWAY_S, CUT_SHORT, HOLD_S, MOST_TOKENS, NODES, Fault, Kind, behaviours, strikes


@given(st.integers(0, 2**31))
def test_the_same_seed_is_the_same_plan(seed: int) -> None:
    assert strikes(seed, 60, list(Fault), 3) == strikes(seed, 60, list(Fault), 3)
    assert list(islice(behaviours(seed, 3, 6), 20)) == list(islice(behaviours(seed, 3, 6), 20))


def test_other_seeds_and_other_clients_are_other_plans() -> None:
    assert strikes(1, 60, list(Fault), 3) != strikes(2, 60, list(Fault), 3)
    first, second = (list(islice(behaviours(1, client, 6), 20)) for client in (1, 2))
    assert first != second


@given(st.integers(0, 2**31), st.floats(20, 600), st.floats(1, 10))
def test_faults_lie_in_order_within_the_time_and_last_as_long_as_their_kind(
    seed: int, seconds: float, every_s: float
) -> None:
    plan = strikes(seed, seconds, list(Fault), every_s)
    assert [strike.at_s for strike in plan] == sorted(strike.at_s for strike in plan)
    for strike in plan:
        least, most = HOLD_S.get(strike.fault, AWAY_S)
        assert least - 0.01 <= strike.hold_s <= most + 0.01
        assert 0 < strike.at_s < seconds
        assert strike.node == NODES[0] or "queen" not in strike.fault


def test_each_fault_comes_before_any_comes_twice() -> None:
    count = len(Fault)
    assert {strike.fault for strike in strikes(7, 10 + 2.0 * count, list(Fault), 2)} == set(Fault)
    few = strikes(7, 20, list(Fault), 3)
    assert len({strike.fault for strike in few}) == len(few) == 5


def test_only_what_is_asked_for_comes_and_nothing_without_faults() -> None:
    chosen = [Fault.KILL_QUEEN, Fault.FILL_DISK]
    assert {strike.fault for strike in strikes(3, 100, chosen, 2)} == set(chosen)
    assert strikes(3, 100, [], 2) == []


def test_a_time_that_is_too_short_for_any_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="10 s are too short"):
        strikes(3, 10, list(Fault), 20)


def test_clients_ask_in_every_way_and_the_first_is_a_person() -> None:
    asked = list(islice(behaviours(5, 1, 6), 400))
    assert {one.kind for one in asked} == set(Kind) - {Kind.KEEPER}
    assert {one.node for one in asked} == {None, *NODES}
    assert all(one.max_tokens == MOST_TOKENS for one in asked if one.kind in CUT_SHORT)
    assert {one.kind for one in islice(behaviours(5, 0, 6), 20)} == {Kind.KEEPER}
