"""What becomes of tasks and loads that nobody waits for any more: cancelled, late, or their queen is ending."""

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.tasks import TaskState
from daemons.contracts.workers import WorkerState
from daemons.queen.core.decide import decide, task_place
from daemons.queen.core.effects import Effect, EvictWorker, Narrate, SpawnWorker
from daemons.queen.core.events import (
    DrainBegun,
    LoadFailed,
    RelayEnd,
    RelayEnded,
    SpawnAnswered,
    TaskStopped,
    WorkerEvicted,
    WorkerLoaded,
)
from daemons.queen.core.state import State
from tests.support.queen_core import empty_state, ends, no_memory, relays, sampled, spawns, submitted, worker_row

CANCELLED = RbeeError(Code.CANCELLED, "cancelled by a client")
LOADING = worker_row(state=WorkerState.LOADING)


def loading_state(*tasks: str, finish_loads: bool) -> tuple[State, SpawnWorker]:
    """Tasks that wait for one load, which the hive has not answered yet."""
    state = empty_state(finish_loads=finish_loads, default_slots=4)
    decide(state, sampled("local"))
    (spawn,) = [spawn for task in tasks for spawn in spawns(decide(state, submitted(task)))]
    return state, spawn


def told(effects: list[Effect], task_id: str) -> str:
    return " ".join(effect.text for effect in effects if isinstance(effect, Narrate) and task_id in effect.task_ids)


def test_a_load_that_nobody_waits_for_goes_on_and_its_last_waiter_hears_so() -> None:
    state, spawn = loading_state("t1", finish_loads=True)
    decide(state, SpawnAnswered(1.0, spawn.load_id, LOADING))
    effects = decide(state, TaskStopped(2.0, "t1", CANCELLED))
    assert ends(effects) == {"t1": Code.CANCELLED}
    assert "loading it goes on" in told(effects, "t1")
    assert spawn.load_id in state.loads


def test_a_load_is_stopped_with_its_last_waiter_when_loads_are_not_to_be_finished() -> None:
    state, spawn = loading_state("t1", "t2", finish_loads=False)
    decide(state, SpawnAnswered(1.0, spawn.load_id, LOADING))
    assert EvictWorker("local", LOADING.id) not in decide(state, TaskStopped(2.0, "t1", CANCELLED))
    effects = decide(state, TaskStopped(2.1, "t2", CANCELLED))
    assert EvictWorker("local", LOADING.id) in effects
    assert "loading it is stopped" in told(effects, "t2")
    assert state.loads == {}
    # Its end, in whatever order it is told, is no news to anybody.
    assert decide(state, LoadFailed(2.2, spawn.load_id, RbeeError(Code.WORKER_START_FAILED, "ended"))) == []
    assert decide(state, WorkerEvicted(2.3, LOADING.id)) == []


def test_a_load_that_its_hive_has_not_answered_yet_is_stopped_with_the_answer() -> None:
    state, spawn = loading_state("t1", finish_loads=False)
    decide(state, TaskStopped(1.0, "t1", CANCELLED))
    assert EvictWorker("local", LOADING.id) in decide(state, SpawnAnswered(2.0, spawn.load_id, LOADING))


def test_somebody_who_comes_before_the_hives_answer_saves_the_load() -> None:
    state, spawn = loading_state("t1", finish_loads=False)
    decide(state, TaskStopped(1.0, "t1", CANCELLED))
    assert spawns(decide(state, submitted("t2"))) == []
    decide(state, SpawnAnswered(2.0, spawn.load_id, LOADING))
    assert relays(decide(state, WorkerLoaded(3.0, spawn.load_id))) == [("t2", LOADING.id)]


def test_a_worker_whose_load_is_being_stopped_is_waited_out_rather_than_joined() -> None:
    state, spawn = loading_state("t1", finish_loads=False)
    decide(state, SpawnAnswered(1.0, spawn.load_id, LOADING))
    decide(state, TaskStopped(2.0, "t1", CANCELLED))
    (again,) = spawns(decide(state, submitted("t2")))
    decide(state, LoadFailed(2.1, again.load_id, no_memory()))
    assert list(state.queue) == ["t2"], "its memory will be free in a moment"
    assert len(spawns(decide(state, WorkerEvicted(3.0, LOADING.id)))) == 1


def test_a_load_that_still_waits_for_its_hive_or_for_room_is_dropped_without_a_trace() -> None:
    state = empty_state(finish_loads=False)
    decide(state, submitted("t1"))
    decide(state, TaskStopped(1.0, "t1", CANCELLED))
    assert state.loads == {}
    assert spawns(decide(state, sampled("local"))) == []


def test_the_deadline_of_one_who_shares_a_load_is_not_held_against_the_others() -> None:
    state, spawn = loading_state("t1", "t2", finish_loads=True)
    late = RbeeError(Code.DEADLINE_EXCEEDED, "the deadline passed 0.0 s before the hive got the request")
    assert len(spawns(decide(state, LoadFailed(1.0, spawn.load_id, late)))) == 1
    assert state.tasks["t2"].state is TaskState.PLACING


def test_an_ending_queen_lets_run_what_runs_and_tells_those_who_wait() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row(slots_total=1)))
    decide(state, submitted("t1"))
    decide(state, submitted("t2"))
    effects = decide(state, DrainBegun(1.0))
    assert ends(effects) == {"t2": Code.DRAINING}
    assert ends(decide(state, submitted("t3"))) == {"t3": Code.DRAINING}
    assert not state.idle
    decide(state, RelayEnded(2.0, "t1", RelayEnd.DONE, 1))
    assert state.idle


@pytest.mark.parametrize("placing", [False, True])
def test_an_ending_queen_leaves_detached_tasks_that_wait_to_the_next_one(placing: bool) -> None:
    state = empty_state()
    decide(state, sampled("local", *([] if placing else [worker_row(slots_total=1)])))
    decide(state, submitted("t1"))
    decide(state, submitted("t2", detached=True))
    decide(state, DrainBegun(1.0))
    assert task_place(state, state.tasks["t2"])["state"] is TaskState.QUEUED
    effects = decide(state, RelayEnded(2.0, "t1", RelayEnd.DONE, 1))
    assert relays(effects) == []
    assert state.idle, "what waits for the next queen does not keep this one"
    assert ends(decide(state, TaskStopped(3.0, "t2", CANCELLED))) == {"t2": Code.CANCELLED}


def test_a_detached_task_whose_worker_dies_while_the_queen_ends_is_left_to_the_next_one() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row()))
    decide(state, submitted("t1", detached=True))
    decide(state, DrainBegun(1.0))
    assert not state.idle
    lost = RbeeError(Code.WORKER_CRASHED, "was lost")
    effects = decide(state, RelayEnded(2.0, "t1", RelayEnd.LOST, 0, lost))
    assert ends(effects) == {}
    assert state.tasks["t1"].parked
    assert state.idle


def test_an_attached_task_whose_worker_dies_while_the_queen_ends_is_served_by_another() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row("w-0000000a"), worker_row("w-0000000b")))
    decide(state, submitted("t1"))
    decide(state, DrainBegun(1.0))
    lost = RbeeError(Code.WORKER_CRASHED, "was lost")
    assert relays(decide(state, RelayEnded(2.0, "t1", RelayEnd.LOST, 0, lost))) == [("t1", "w-0000000b")]
