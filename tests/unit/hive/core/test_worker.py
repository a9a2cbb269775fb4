"""The table of states is the only way from one state to another."""

import pytest

from daemons.contracts.workers import SpawnRequest, WorkerState
from daemons.hive.core.worker import HISTORY_KEPT, TRANSITIONS, IllegalTransition, Step, WorkerRecord
from tests.support.hive_rows import worker


def record(state: WorkerState) -> WorkerRecord:
    row = worker(state=state)
    return WorkerRecord(row, SpawnRequest(model_ref="demo"), 400.0, 130.0, 130.0, (Step(100.0, state, "spawned"),))


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(WorkerState)
    assert set().union(*TRANSITIONS.values()) <= set(WorkerState)


@pytest.mark.parametrize("start", list(WorkerState))
@pytest.mark.parametrize("end", list(WorkerState))
def test_only_the_table_moves(start: WorkerState, end: WorkerState) -> None:
    before = record(start)
    if end is start:
        assert before.to(end, 200.0, "again") is before
    elif end in TRANSITIONS[start]:
        after = before.to(end, 200.0, "why")
        assert after.state is end
        assert after.history == (*before.history, Step(200.0, end, "why"))
    else:
        with pytest.raises(IllegalTransition) as refused:
            before.to(end, 200.0, "why")
        assert refused.value.history == before.history
        assert f"{start.value} (spawned)" in str(refused.value)
        assert end.value in str(refused.value)


def test_loading_is_never_reached_again() -> None:
    assert all(WorkerState.LOADING not in reachable for reachable in TRANSITIONS.values())


def test_history_is_bounded() -> None:
    busy = record(WorkerState.IDLE)
    for turn in range(HISTORY_KEPT):
        busy = busy.to(WorkerState.BUSY, float(turn), "work").to(WorkerState.IDLE, float(turn), "done")
    assert len(busy.history) == HISTORY_KEPT
    assert busy.history[-1].at == HISTORY_KEPT - 1
