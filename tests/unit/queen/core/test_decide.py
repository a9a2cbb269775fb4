"""What the queen decides, event by event."""

from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import NodeStatus
from daemons.contracts.tasks import Priority, TaskState
from daemons.contracts.workers import Backend, HiveWorker, WorkerState
from daemons.queen.core.decide import decide, task_place
from daemons.queen.core.effects import EnsureNode, EvictWorker, Narrate, StopRelay, TaskChanged, WakeAfter, WorkerGone
from daemons.queen.core.events import (
    LoadFailed,
    NodeChanged,
    NodeFailed,
    RelayEnd,
    RelayEnded,
    SpawnAnswered,
    TaskStopped,
    Tick,
    WorkerEvicted,
    WorkerLoaded,
)
from tests.support.queen_core import (
    cuda_device,
    empty_state,
    ends,
    no_memory,
    relays,
    sampled,
    spawns,
    submitted,
    worker_row,
)

CANCELLED = RbeeError(Code.CANCELLED, "cancelled by a client")


def test_an_unknown_node_is_refused_with_the_command_that_adds_it() -> None:
    state = empty_state()
    effects = decide(state, submitted("t1", node="mars"))
    assert ends(effects) == {"t1": Code.NODE_NOT_FOUND}
    assert state.tasks == {}
    end = effects[0]
    assert "setup add-node --name mars" in end.error.hint  # type: ignore[union-attr]


def test_a_queen_without_nodes_says_so() -> None:
    state = empty_state()
    state.nodes.clear()
    assert ends(decide(state, submitted("t1"))) == {"t1": Code.NO_NODE_AVAILABLE}


def test_a_loaded_worker_is_used_without_asking_the_hive() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row()))
    effects = decide(state, submitted("t1"))
    assert relays(effects) == [("t1", "w-00000001")]
    assert spawns(effects) == []
    assert state.workers["w-00000001"].leases == {"t1"}


def test_a_cold_task_starts_the_hive_then_a_worker_then_its_relay() -> None:
    """The whole way of a first request, each effect answered by its event."""
    state = empty_state()
    assert EnsureNode("local") in decide(state, submitted("t1"))
    assert state.tasks["t1"].state is TaskState.PLACING
    effects = decide(state, sampled("local"))
    (spawn,) = spawns(effects)
    assert spawn.request.model_ref == "demo"
    row = worker_row(state=WorkerState.LOADING)
    decide(state, SpawnAnswered(1.0, spawn.load_id, row))
    assert task_place(state, state.tasks["t1"])["worker_id"] == row.id
    assert relays(decide(state, WorkerLoaded(2.0, spawn.load_id))) == [("t1", row.id)]
    assert state.loads == {}
    assert ends(decide(state, RelayEnded(3.0, "t1", RelayEnd.DONE, 5))) == {"t1": None}
    assert state.workers[row.id].leases == set()


def test_a_worker_that_a_restarted_hive_brings_along_is_used() -> None:
    """After the hive came back no second worker is loaded for what is there already."""
    state = empty_state()
    decide(state, submitted("t1"))
    effects = decide(state, sampled("local", worker_row()))
    assert spawns(effects) == []
    assert relays(effects) == [("t1", "w-00000001")]


def test_one_load_serves_all_waiters_up_to_its_slots() -> None:
    """The fifth task of a load with four slots waits in the queue and is placed when a slot is free."""
    state = empty_state(default_slots=4)
    decide(state, sampled("local"))
    all_spawns = [spawn for n in range(5) for spawn in spawns(decide(state, submitted(f"t{n}")))]
    assert len(all_spawns) == 1
    assert list(state.queue) == ["t4"]
    row = worker_row(state=WorkerState.LOADING, slots_total=4)
    decide(state, SpawnAnswered(1.0, all_spawns[0].load_id, row))
    assert [task for task, _ in relays(decide(state, WorkerLoaded(2.0, all_spawns[0].load_id)))] == [
        "t0",
        "t1",
        "t2",
        "t3",
    ]
    assert relays(decide(state, RelayEnded(3.0, "t1", RelayEnd.DONE, 1))) == [("t4", row.id)]


def test_a_task_that_asks_for_what_the_hive_may_choose_waits_for_its_choice() -> None:
    """A load whose device is open may or may not become what the second task wants; no second load is begun."""
    state = empty_state()
    decide(state, sampled("local"))
    (spawn,) = spawns(decide(state, submitted("t1")))
    assert spawns(decide(state, submitted("t2", backend=Backend.CPU))) == []
    decide(state, SpawnAnswered(1.0, spawn.load_id, worker_row(state=WorkerState.LOADING)))
    assert state.tasks["t2"].load_id == spawn.load_id


def test_a_sample_older_than_the_ready_event_does_not_make_a_worker_load_again() -> None:
    state = empty_state()
    decide(state, sampled("local"))
    (spawn,) = spawns(decide(state, submitted("t1")))
    loading = worker_row(state=WorkerState.LOADING)
    decide(state, SpawnAnswered(1.0, spawn.load_id, loading))
    decide(state, sampled("local", at=1.1))
    assert loading.id in state.workers, "a sample taken before the spawn does not remove the worker"
    decide(state, WorkerLoaded(2.0, spawn.load_id))
    decide(state, sampled("local", loading, at=2.1))
    assert state.workers[loading.id].row.state is WorkerState.IDLE


def test_the_warmest_prefix_wins_over_the_emptier_worker() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row("w-0000000a"), worker_row("w-0000000b")))
    chain = (b"1", b"2")
    assert relays(decide(state, submitted("t1", prefix=chain))) == [("t1", "w-0000000a")]
    assert relays(decide(state, submitted("t2", prefix=(b"9",)))) == [("t2", "w-0000000b")]
    decide(state, RelayEnded(1.0, "t2", RelayEnd.DONE, 1))
    assert relays(decide(state, submitted("t3", prefix=(*chain, b"3")))) == [("t3", "w-0000000a")]


def test_a_full_worker_makes_tasks_wait_rather_than_load_the_model_twice() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row(slots_total=1)))
    decide(state, submitted("t1"))
    effects = decide(state, submitted("t2"))
    assert spawns(effects) == []
    assert list(state.queue) == ["t2"]
    narration = next(effect for effect in effects if isinstance(effect, Narrate))
    assert narration.fields["position"] == 1
    assert "1 of 1 slots for demo are taken" in narration.text


def test_a_full_worker_on_one_gpu_makes_the_next_gpu_load_the_model() -> None:
    """Another device of the kind is a place of its own, and is asked for by its number."""
    state = empty_state()
    gpus = [cuda_device(0), cuda_device(1)]
    row = worker_row(slots_total=1, backend=Backend.CUDA, device=0)
    decide(state, sampled("local", row, devices=gpus))
    decide(state, submitted("t1"))
    (spawn,) = spawns(decide(state, submitted("t2")))
    assert (spawn.request.backend, spawn.request.device) == (Backend.CUDA, 1)
    effects = decide(state, LoadFailed(1.0, spawn.load_id, RbeeError(Code.WORKER_START_FAILED, "no")))
    assert ends(effects) == {}, "the first GPU still serves it"
    assert list(state.queue) == ["t2"]


def test_a_second_node_takes_what_the_first_cannot() -> None:
    state = empty_state("a", "b")
    decide(state, sampled("a"))
    decide(state, sampled("b"))
    (first,) = spawns(decide(state, submitted("t1")))
    (second,) = spawns(decide(state, LoadFailed(1.0, first.load_id, RbeeError(Code.MODEL_NOT_FOUND, "not here"))))
    assert {first.node, second.node} == {"a", "b"}
    effects = decide(state, LoadFailed(2.0, second.load_id, RbeeError(Code.MODEL_NOT_FOUND, "not here either")))
    assert ends(effects) == {"t1": Code.MODEL_NOT_FOUND}


def test_the_queue_is_bounded_and_says_how_full_everything_is() -> None:
    state = empty_state(queue_limit=1)
    decide(state, sampled("local", worker_row(slots_total=1)))
    decide(state, submitted("t1"))
    decide(state, submitted("t2"))
    effects = decide(state, submitted("t3"))
    assert ends(effects) == {"t3": Code.QUEUE_FULL}
    details = effects[-1].error.details  # type: ignore[union-attr]
    assert details == {"position": 2, "limit": 1, "slots_total": 1, "slots_busy": 1, "retry_after_s": 1.0}


def test_with_the_queue_off_a_busy_worker_refuses_at_once_but_a_load_is_waited_for() -> None:
    state = empty_state(queue_limit=0, default_slots=1)
    decide(state, sampled("local"))
    (spawn,) = spawns(decide(state, submitted("t1")))
    assert state.tasks["t1"].state is TaskState.PLACING
    assert ends(decide(state, submitted("t2"))) == {"t2": Code.QUEUE_FULL}
    decide(state, SpawnAnswered(1.0, spawn.load_id, worker_row(state=WorkerState.LOADING, slots_total=1)))
    assert relays(decide(state, WorkerLoaded(2.0, spawn.load_id))) == [("t1", "w-00000001")]
    assert ends(decide(state, submitted("t3"))) == {"t3": Code.QUEUE_FULL}


def test_interactive_tasks_are_placed_before_batch_tasks_that_came_first() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row(slots_total=1)))
    decide(state, submitted("t1"))
    decide(state, submitted("batch", priority=Priority.BATCH))
    decide(state, submitted("person"))
    assert [t for t, _ in relays(decide(state, RelayEnded(1.0, "t1", RelayEnd.DONE, 1)))] == ["person"]
    assert [t for t, _ in relays(decide(state, RelayEnded(2.0, "person", RelayEnd.DONE, 1)))] == ["batch"]


def test_a_workers_503_is_not_the_clients_business() -> None:
    """The task waits, and goes to the worker again after a short while."""
    state = empty_state()
    decide(state, sampled("local", worker_row(slots_total=1)))
    decide(state, submitted("t1"))
    busy = RbeeError(Code.ALL_SLOTS_BUSY, "1 of 1 slots")
    effects = decide(state, RelayEnded(1.0, "t1", RelayEnd.REFUSED, 0, busy))
    assert ends(effects) == {}
    (wake,) = [effect for effect in effects if isinstance(effect, WakeAfter)]
    assert relays(decide(state, Tick(1.0 + wake.seconds))) == [("t1", "w-00000001")]


def test_with_the_queue_off_a_workers_503_becomes_queue_full() -> None:
    state = empty_state(queue_limit=0)
    decide(state, sampled("local", worker_row(slots_total=1)))
    decide(state, submitted("t1"))
    busy = RbeeError(Code.ALL_SLOTS_BUSY, "1 of 1 slots")
    assert ends(decide(state, RelayEnded(1.0, "t1", RelayEnd.REFUSED, 0, busy))) == {"t1": Code.QUEUE_FULL}


def test_a_worker_lost_before_its_first_token_is_replaced_at_most_three_times() -> None:
    state = empty_state()
    rows = [worker_row(f"w-0000000{n}") for n in range(5)]
    decide(state, sampled("local", *rows))
    crash = RbeeError(Code.WORKER_CRASHED, "gone")
    (used,) = relays(decide(state, submitted("t1")))
    workers = [used[1]]
    for n in range(3):
        effects = decide(state, RelayEnded(n / 10, "t1", RelayEnd.LOST, 0, crash))
        workers.append(relays(effects)[0][1])
    assert len(set(workers)) == 4, "never the one that was just lost"
    assert ends(decide(state, RelayEnded(0.4, "t1", RelayEnd.LOST, 0, crash))) == {"t1": Code.WORKER_CRASHED}


def test_a_lost_worker_is_replaced_without_waiting_for_its_hive_to_notice() -> None:
    """Also with the queue off, where waiting would be a refusal."""
    state = empty_state(queue_limit=0)
    row = worker_row()
    decide(state, sampled("local", row))
    decide(state, submitted("t1"))
    lost = RelayEnded(1.0, "t1", RelayEnd.LOST, 0, RbeeError(Code.WORKER_CRASHED, "gone"))
    (spawn,) = spawns(decide(state, lost))
    assert spawn.request.model_ref == "demo"
    assert state.tasks["t1"].state is TaskState.PLACING


def test_a_worker_that_was_only_cut_off_is_used_again() -> None:
    state = empty_state()
    row = worker_row()
    decide(state, sampled("local", row))
    decide(state, submitted("t1"))
    decide(state, RelayEnded(1.0, "t1", RelayEnd.LOST, 3, RbeeError(Code.WORKER_CRASHED, "cut")))
    decide(state, sampled("local", row, at=1.5))
    assert not state.workers[row.id].ready, "its hive may not have noticed yet"
    decide(state, sampled("local", row, at=4.0))
    assert relays(decide(state, submitted("t2", at=4.1))) == [("t2", row.id)]


def test_a_worker_lost_after_a_token_ends_the_task() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row("w-0000000a"), worker_row("w-0000000b")))
    decide(state, submitted("t1"))
    crash = RbeeError(Code.WORKER_CRASHED, "gone after 3 of 100 tokens")
    assert ends(decide(state, RelayEnded(1.0, "t1", RelayEnd.LOST, 3, crash))) == {"t1": Code.WORKER_CRASHED}


def test_too_little_memory_evicts_the_idle_worker_that_was_used_longest_ago() -> None:
    state = empty_state()
    old = worker_row("w-0000000a", "file:///old.gguf", last_active_at=1.0)
    new = worker_row("w-0000000b", "file:///new.gguf", last_active_at=2.0)
    decide(state, sampled("local", new, old))
    (spawn,) = spawns(decide(state, submitted("t1")))
    effects = decide(state, LoadFailed(1.0, spawn.load_id, no_memory()))
    assert EvictWorker("local", old.id) in effects
    assert relays(decide(state, submitted("t2", model="file:///old.gguf"))) == [], "it takes no new work"
    effects = decide(state, WorkerEvicted(2.0, old.id))
    assert [s.request.model_ref for s in spawns(effects)] == ["demo"]


def test_another_worker_of_a_model_does_not_take_the_place_of_one() -> None:
    """Asked for beside an idle worker of the same model, it is refused when there is no room for both."""
    state = empty_state()
    decide(state, sampled("local", worker_row("w-0000000a", "demo")))
    (spawn,) = spawns(decide(state, submitted("t1", start_only=True)))
    assert ends(decide(state, LoadFailed(1.0, spawn.load_id, no_memory()))) == {"t1": Code.RAM_INSUFFICIENT}


def test_busy_and_pinned_workers_are_never_evicted() -> None:
    """With only those the task waits for the busy one, and evicts it once it is idle."""
    state = empty_state()
    busy = worker_row("w-0000000a", "file:///busy.gguf")
    pinned = worker_row("w-0000000b", "file:///pinned.gguf", idle_limit_s=-1.0)
    decide(state, sampled("local", busy, pinned))
    decide(state, submitted("t1", model="file:///busy.gguf"))
    (spawn,) = spawns(decide(state, submitted("t2")))
    effects = decide(state, LoadFailed(1.0, spawn.load_id, no_memory()))
    assert not any(isinstance(effect, EvictWorker) for effect in effects)
    assert list(state.queue) == ["t2"]
    assert EvictWorker("local", busy.id) in decide(state, RelayEnded(2.0, "t1", RelayEnd.DONE, 1))


def test_what_can_never_fit_is_refused_with_the_hives_own_words() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row("w-0000000b", "file:///p.gguf", idle_limit_s=-1.0)))
    (spawn,) = spawns(decide(state, submitted("t1")))
    assert ends(decide(state, LoadFailed(1.0, spawn.load_id, no_memory()))) == {"t1": Code.RAM_INSUFFICIENT}


def test_a_short_device_is_not_helped_by_ending_a_worker_of_another() -> None:
    state = empty_state()
    cpu_worker = worker_row("w-0000000a", "file:///cpu.gguf")
    decide(state, sampled("local", cpu_worker, devices=[cuda_device(0)]))
    (spawn,) = spawns(decide(state, submitted("t1", backend=Backend.CUDA)))
    error = RbeeError(Code.VRAM_INSUFFICIENT, "short", details={"backend": "cuda", "device": 0})
    assert ends(decide(state, LoadFailed(1.0, spawn.load_id, error))) == {"t1": Code.VRAM_INSUFFICIENT}


def test_a_hive_that_died_unnoticed_is_started_again_once() -> None:
    state = empty_state()
    decide(state, sampled("local"))
    (spawn,) = spawns(decide(state, submitted("t1")))
    gone = RbeeError(Code.HIVE_UNREACHABLE, "no answer")
    effects = decide(state, LoadFailed(1.0, spawn.load_id, gone))
    assert EnsureNode("local") in effects
    (again,) = spawns(decide(state, sampled("local", at=2.0)))
    assert ends(decide(state, LoadFailed(3.0, again.load_id, gone))) == {"t1": Code.HIVE_UNREACHABLE}


def test_a_node_that_cannot_be_started_ends_its_tasks_with_the_reason() -> None:
    state = empty_state()
    decide(state, submitted("t1"))
    decide(state, submitted("t2", model="file:///other.gguf"))
    effects = decide(state, NodeFailed(1.0, "local", RbeeError(Code.DAEMON_START_FAILED, "port taken")))
    assert ends(effects) == {"t1": Code.DAEMON_START_FAILED, "t2": Code.DAEMON_START_FAILED}
    assert state.nodes["local"].problem == "port taken"


def test_a_stale_node_gets_no_new_work_and_keeps_its_streams() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row()))
    decide(state, submitted("t1"))
    decide(state, NodeChanged(4.0, "local", NodeStatus.STALE))
    assert relays(decide(state, submitted("t2", at=4.1))) == []
    assert state.tasks["t1"].state is TaskState.RUNNING
    assert relays(decide(state, sampled("local", worker_row(), at=5.0))) == [("t2", "w-00000001")]


def test_workers_of_a_stopped_hive_are_forgotten_unless_they_stream() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row("w-0000000a"), worker_row("w-0000000b")))
    decide(state, submitted("t1"))
    effects = decide(state, NodeChanged(1.0, "local", NodeStatus.STOPPED))
    assert WorkerGone("w-0000000b") in effects
    assert set(state.workers) == {"w-0000000a"}
    effects = decide(state, RelayEnded(2.0, "t1", RelayEnd.DONE, 9))
    assert ends(effects) == {"t1": None}
    assert WorkerGone("w-0000000a") in effects


def test_cancel_of_a_waiting_task_never_starts_it() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row(slots_total=1)))
    decide(state, submitted("t1"))
    decide(state, submitted("t2"))
    assert ends(decide(state, TaskStopped(1.0, "t2", CANCELLED))) == {"t2": Code.CANCELLED}
    assert relays(decide(state, RelayEnded(2.0, "t1", RelayEnd.DONE, 1))) == []


def test_cancel_while_the_model_loads_releases_the_waiter_and_lets_the_load_go_on() -> None:
    state = empty_state()
    decide(state, sampled("local"))
    (spawn,) = spawns(decide(state, submitted("t1")))
    assert ends(decide(state, TaskStopped(1.0, "t1", CANCELLED))) == {"t1": Code.CANCELLED}
    decide(state, SpawnAnswered(2.0, spawn.load_id, worker_row(state=WorkerState.LOADING)))
    assert relays(decide(state, WorkerLoaded(3.0, spawn.load_id))) == []
    assert relays(decide(state, submitted("t2"))) == [("t2", "w-00000001")]


def test_cancel_of_a_running_task_keeps_the_lease_until_the_stream_is_over() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row(slots_total=1)))
    decide(state, submitted("t1"))
    effects = decide(state, TaskStopped(1.0, "t1", CANCELLED))
    assert StopRelay("t1") in effects
    assert ends(effects) == {}
    assert StopRelay("t1") not in decide(state, TaskStopped(1.1, "t1", CANCELLED))
    decide(state, submitted("t2"))
    effects = decide(state, RelayEnded(1.2, "t1", RelayEnd.STOPPED, 3, CANCELLED))
    assert ends(effects) == {"t1": Code.CANCELLED}
    assert relays(effects) == [("t2", "w-00000001")]


def test_a_task_that_is_done_before_its_cancel_arrives_is_done() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row()))
    decide(state, submitted("t1"))
    decide(state, TaskStopped(1.0, "t1", CANCELLED))
    assert ends(decide(state, RelayEnded(1.1, "t1", RelayEnd.DONE, 4))) == {"t1": None}


def test_waiting_has_a_limit() -> None:
    state = empty_state(queue_wait_s=10.0)
    decide(state, sampled("local", worker_row(slots_total=1)))
    decide(state, submitted("t1"))
    decide(state, submitted("t2", at=5.0))
    assert ends(decide(state, Tick(14.9))) == {}
    assert ends(decide(state, Tick(15.0))) == {"t2": Code.NO_NODE_AVAILABLE}


def test_starting_a_worker_loads_another_one_and_ends_when_it_is_ready() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row("w-0000000a")))
    (spawn,) = spawns(decide(state, submitted("s1", start_only=True)))
    decide(state, SpawnAnswered(1.0, spawn.load_id, worker_row("w-0000000b", state=WorkerState.LOADING)))
    effects = decide(state, WorkerLoaded(2.0, spawn.load_id))
    assert ends(effects) == {"s1": None}
    assert relays(effects) == []
    assert state.tasks == {}


def test_starting_a_worker_never_waits_for_busy_ones() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row("w-0000000a", "file:///busy.gguf")))
    decide(state, submitted("t1", model="file:///busy.gguf"))
    (spawn,) = spawns(decide(state, submitted("s1", start_only=True)))
    assert ends(decide(state, LoadFailed(1.0, spawn.load_id, no_memory()))) == {"s1": Code.RAM_INSUFFICIENT}


def test_a_larger_context_than_the_loaded_one_needs_a_new_worker() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row(ctx=2048)))
    assert relays(decide(state, submitted("t1", ctx=1024))) == [("t1", "w-00000001")]
    (spawn,) = spawns(decide(state, submitted("t2", ctx=4096)))
    assert spawn.request.ctx == 4096


def test_task_changes_are_told() -> None:
    state = empty_state()
    decide(state, sampled("local", worker_row()))
    assert TaskChanged("t1") in decide(state, submitted("t1"))
    assert task_place(state, state.tasks["t1"]) == {
        "state": TaskState.RUNNING, "worker_id": "w-00000001", "node": "local", "queue_position": None,
    }  # fmt: skip


def test_a_task_that_is_refused_again_and_again_has_waited_all_the_time() -> None:
    state = empty_state(queue_wait_s=10.0)
    decide(state, sampled("local", worker_row()))
    decide(state, submitted("t1", at=0.0))
    at = 0.0
    while "t1" in state.tasks and at < 60.0:
        at += 0.5
        running = state.tasks["t1"].state is TaskState.RUNNING
        decide(state, RelayEnded(at, "t1", RelayEnd.REFUSED, 0) if running else Tick(at))
    assert 10.0 <= at <= 13.0


def test_the_time_of_a_load_is_no_part_of_the_wait_but_the_time_before_it_is() -> None:
    state = empty_state(queue_wait_s=10.0)
    decide(state, submitted("t1", at=0.0))
    task = state.tasks["t1"]
    task.queued_at = -4.0  # it has waited for four seconds before
    (spawn,) = spawns(decide(state, sampled("local", at=0.0)))
    decide(state, LoadFailed(60.0, spawn.load_id, RbeeError(Code.HIVE_UNREACHABLE, "it died")))
    assert task.queued_at == 56.0


# -- workers that come back after a crash


def waiting_row(worker_id: str = "w-00000001", state: WorkerState = WorkerState.RESTARTING) -> HiveWorker:
    fields: dict[str, Any] = {
        "state": state,
        "pid": 0,
        "url": "",
        "slots_available": 0,
        "problem": "crashed: killed by SIGSEGV",
    }
    return worker_row(worker_id, restarts=1, **fields)


def test_a_row_that_waits_after_a_crash_is_no_worker_and_its_hive_is_asked() -> None:
    state = empty_state()
    decide(state, sampled("local", waiting_row()))
    effects = decide(state, submitted("t1"))
    (spawn,) = spawns(effects)
    assert relays(effects) == []
    told = [effect.text for effect in effects if isinstance(effect, Narrate)]
    assert any("crashed: killed by SIGSEGV; it is started again after a wait" in text for text in told)
    loading = worker_row(state=WorkerState.LOADING, slots_available=0, url="http://127.0.0.1:7")
    decide(state, SpawnAnswered(1.0, spawn.load_id, loading))
    decide(state, sampled("local", waiting_row(), at=1.0))  # taken before the answer
    assert state.workers["w-00000001"].row.url == "http://127.0.0.1:7"
    assert relays(decide(state, WorkerLoaded(2.0, spawn.load_id))) == [("t1", "w-00000001")]


def test_one_that_its_hive_has_started_by_itself_is_waited_for_and_used() -> None:
    state = empty_state()
    decide(state, sampled("local", waiting_row()))
    decide(state, sampled("local", worker_row(state=WorkerState.LOADING, slots_available=0)))
    assert spawns(decide(state, submitted("t1"))) == []
    assert list(state.queue) == ["t1"]
    assert relays(decide(state, sampled("local", worker_row()))) == [("t1", "w-00000001")]


def test_a_crash_loop_is_final_there_and_another_node_serves() -> None:
    state = empty_state("a", "b")
    decide(state, sampled("a"))
    decide(state, sampled("b"))
    (first,) = spawns(decide(state, submitted("t1")))
    loop = RbeeError(Code.WORKER_CRASH_LOOP, "crashed 5 times", hint="rbee workers shutdown --id w-1")
    (second,) = spawns(decide(state, LoadFailed(1.0, first.load_id, loop)))
    assert {first.node, second.node} == {"a", "b"}
    assert ends(decide(state, LoadFailed(100.0, second.load_id, loop))) == {"t1": Code.WORKER_CRASH_LOOP}


def test_nobody_waits_for_room_that_a_row_without_a_process_would_make() -> None:
    state = empty_state()
    decide(state, sampled("local", waiting_row("w-00000009", WorkerState.FAILED)))
    (spawn,) = spawns(decide(state, submitted("t1", model="other")))
    effects = decide(state, LoadFailed(1.0, spawn.load_id, RbeeError(Code.RAM_INSUFFICIENT, "too big")))
    assert ends(effects) == {"t1": Code.RAM_INSUFFICIENT}
