"""What holds whatever happens: a simulated fleet answers the queen's effects in any order, well or badly."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import NodeStatus
from daemons.contracts.tasks import Priority, TaskState
from daemons.contracts.workers import HiveWorker, WorkerState
from daemons.queen.core.decide import decide
from daemons.queen.core.effects import EndTask, EnsureNode, EvictWorker, SpawnWorker, StartRelay, StopRelay
from daemons.queen.core.events import (
    DrainBegun,
    Event,
    LoadFailed,
    NodeChanged,
    NodeFailed,
    NodeSampled,
    RelayEnd,
    RelayEnded,
    SpawnAnswered,
    TaskStopped,
    Tick,
    WorkerEvicted,
    WorkerLoaded,
)
from daemons.queen.core.placement import satisfies
from daemons.queen.core.state import LoadStage
from tests.support.queen_core import empty_state, no_memory, sample, submitted, worker_row

MODELS = ["demo", "file:///big.gguf"]
SPAWN_ANSWERS = [
    None,
    None,
    no_memory(),
    no_memory(),
    RbeeError(Code.MODEL_NOT_FOUND, "not here"),
    RbeeError(Code.HIVE_UNREACHABLE, "no answer"),
    RbeeError(Code.WORKER_START_FAILED, "ended at once"),
]
RELAY_FAULTS = [RelayEnd.REFUSED, RelayEnd.LOST, RelayEnd.FAILED]


@dataclass
class FakeNode:
    """A node of the simulated fleet: its workers, and what it has been asked and not yet answered."""

    rows: dict[str, HiveWorker] = field(default_factory=dict)
    ensuring: bool = False
    spawning: list[SpawnWorker] = field(default_factory=list)
    loading: dict[int, str] = field(default_factory=dict)
    evicting: list[str] = field(default_factory=list)


class QueenMachine(RuleBasedStateMachine):
    """Random events against `decide`; the rules answer effects as hives and workers might."""

    @initialize(limit=st.integers(0, 4), nodes=st.integers(1, 2), slots=st.integers(1, 3), finish=st.booleans())
    def begin(self, limit: int, nodes: int, slots: int, finish: bool) -> None:
        names = ["a", "b"][:nodes]
        self.state = empty_state(*names, queue_limit=limit, default_slots=slots, finish_loads=finish)
        self.nodes = {name: FakeNode() for name in names}
        self.relaying: dict[str, str] = {}
        self.stopping: set[str] = set()
        self.submitted_ids: list[str] = []
        self.ended: dict[str, Code | None] = {}
        self.placed_once: set[str] = set()
        self.now = 0.0
        self.worker_count = 0

    def happen(self, event: Event) -> None:
        """Let an event happen and take note of every effect."""
        for effect in decide(self.state, event):
            if isinstance(effect, EndTask):
                assert effect.task_id not in self.ended, "a task ends once"
                assert effect.task_id not in self.relaying, "not before its stream is over"
                self.ended[effect.task_id] = effect.error.code if effect.error else None
            elif isinstance(effect, StartRelay):
                assert effect.task_id not in self.ended
                assert effect.task_id not in self.relaying
                self.relaying[effect.task_id] = effect.worker_id
                self.check_priority(effect)
            elif isinstance(effect, StopRelay):
                self.stopping.add(effect.task_id)
            elif isinstance(effect, EnsureNode):
                self.nodes[effect.node].ensuring = True
            elif isinstance(effect, SpawnWorker):
                self.nodes[effect.node].spawning.append(effect)
            elif isinstance(effect, EvictWorker):
                assert effect.worker_id not in self.relaying.values(), "a busy worker is never evicted"
                self.nodes[effect.node].evicting.append(effect.worker_id)

    def check_priority(self, effect: StartRelay) -> None:
        task = self.state.tasks.get(effect.task_id)
        if task is None or task.priority is Priority.INTERACTIVE:
            return
        waiting = [self.state.tasks[task_id] for task_id in self.state.queue]
        assert not any(t.priority is Priority.INTERACTIVE and t.spec == task.spec for t in waiting)

    @rule(
        model=st.sampled_from(MODELS),
        priority=st.sampled_from(Priority),
        start=st.booleans(),
        pick=st.booleans(),
        detached=st.booleans(),
    )
    def submit(self, model: str, priority: Priority, start: bool, pick: bool, detached: bool) -> None:
        task_id = f"t{len(self.submitted_ids)}"
        self.submitted_ids.append(task_id)
        node = next(iter(self.nodes)) if pick else None
        kind = {"start_only": start and pick, "detached": detached and not (start and pick)}
        self.happen(submitted(task_id, self.now, model, priority=priority, node=node, **kind))
        assert task_id in self.ended or task_id in self.state.tasks
        assert not self.state.draining or task_id in self.ended

    @precondition(lambda self: len(self.submitted_ids) > 8 and not self.state.draining)
    @rule()
    def drain(self) -> None:
        self.happen(DrainBegun(self.now))
        assert all(task.parked or task.state is TaskState.RUNNING for task in self.state.tasks.values())

    @precondition(lambda self: self.state.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.state.tasks)))
        self.happen(TaskStopped(self.now, task_id, RbeeError(Code.CANCELLED, "cancelled")))

    @rule(data=st.data())
    def telemetry(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        node = self.nodes[name]
        node.ensuring = False
        self.happen(NodeSampled(self.now, name, sample(*node.rows.values())))

    @rule(data=st.data(), status=st.sampled_from([NodeStatus.STOPPED, NodeStatus.STALE, NodeStatus.UNREACHABLE]))
    def lose_node(self, data: st.DataObject, status: NodeStatus) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        if not self.nodes[name].ensuring:
            self.happen(NodeChanged(self.now, name, status))

    @precondition(lambda self: any(node.ensuring for node in self.nodes.values()))
    @rule(data=st.data())
    def fail_to_ensure(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, node in self.nodes.items() if node.ensuring]))
        self.nodes[name].ensuring = False
        self.happen(NodeFailed(self.now, name, RbeeError(Code.DAEMON_START_FAILED, "no")))

    @precondition(lambda self: any(node.spawning for node in self.nodes.values()))
    @rule(data=st.data(), slots=st.integers(1, 3))
    def answer_spawn(self, data: st.DataObject, slots: int) -> None:
        name = data.draw(st.sampled_from([name for name, node in self.nodes.items() if node.spawning]))
        node = self.nodes[name]
        spawn = node.spawning.pop(data.draw(st.integers(0, len(node.spawning) - 1)))
        fault = data.draw(st.sampled_from(SPAWN_ANSWERS))
        if fault is not None:
            self.happen(LoadFailed(self.now, spawn.load_id, fault))
            return
        self.worker_count += 1
        worker_id = f"w-{self.worker_count:08x}"
        row = worker_row(worker_id, spawn.request.model_ref, state=WorkerState.LOADING, slots_total=slots)
        node.rows[worker_id] = row
        node.loading[spawn.load_id] = worker_id
        self.happen(SpawnAnswered(self.now, spawn.load_id, row))

    @precondition(lambda self: any(node.loading for node in self.nodes.values()))
    @rule(data=st.data(), works=st.sampled_from([True, True, True, False]))
    def finish_load(self, data: st.DataObject, works: bool) -> None:
        name = data.draw(st.sampled_from([name for name, node in self.nodes.items() if node.loading]))
        node = self.nodes[name]
        load_id = data.draw(st.sampled_from(sorted(node.loading)))
        worker_id = node.loading.pop(load_id)
        if works:
            if worker_id in node.rows:
                node.rows[worker_id] = node.rows[worker_id].model_copy(update={"state": WorkerState.IDLE})
            self.happen(WorkerLoaded(self.now, load_id))
        else:
            node.rows.pop(worker_id, None)
            self.happen(LoadFailed(self.now, load_id, RbeeError(Code.WORKER_START_FAILED, "died")))

    @precondition(lambda self: any(node.evicting for node in self.nodes.values()))
    @rule(data=st.data(), works=st.booleans())
    def finish_eviction(self, data: st.DataObject, works: bool) -> None:
        name = data.draw(st.sampled_from([name for name, node in self.nodes.items() if node.evicting]))
        worker_id = self.nodes[name].evicting.pop()
        if works:
            self.nodes[name].rows.pop(worker_id, None)
        error = None if works else RbeeError(Code.HIVE_UNREACHABLE, "no answer")
        self.happen(WorkerEvicted(self.now, worker_id, error))

    @precondition(lambda self: any(node.rows for node in self.nodes.values()))
    @rule(data=st.data())
    def kill_worker(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, node in self.nodes.items() if node.rows]))
        self.nodes[name].rows.pop(data.draw(st.sampled_from(sorted(self.nodes[name].rows))))

    @precondition(lambda self: self.relaying)
    @rule(data=st.data(), tokens=st.integers(0, 2))
    def end_relay(self, data: st.DataObject, tokens: int) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.relaying)))
        del self.relaying[task_id]
        how = data.draw(st.sampled_from([RelayEnd.DONE, *RELAY_FAULTS]))
        if task_id in self.stopping and how is not RelayEnd.DONE:
            how = RelayEnd.STOPPED
        error = None if how is RelayEnd.DONE else RbeeError(Code.WORKER_CRASHED, how.value)
        self.happen(RelayEnded(self.now, task_id, how, 0 if how is RelayEnd.REFUSED else tokens, error))

    @rule(seconds=st.floats(0.01, 20.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.happen(Tick(self.now))

    @invariant()
    def leases_are_what_is_relayed(self) -> None:
        for worker in self.state.workers.values():
            assert len(worker.leases) <= max(worker.row.slots_total, 0)
            assert worker.leases == {t for t, w in self.relaying.items() if w == worker.row.id}

    @invariant()
    def every_task_is_in_exactly_one_place(self) -> None:
        waiting = set(self.state.queue)
        placing = {task_id for load in self.state.loads.values() for task_id in load.waiters}
        running = {t.id for t in self.state.tasks.values() if t.state is TaskState.RUNNING}
        assert running == set(self.relaying)
        parked = {t.id for t in self.state.tasks.values() if t.parked}
        assert not parked or self.state.draining
        assert len(waiting) + len(placing) + len(running) + len(parked) == len(waiting | placing | running | parked)
        assert waiting | placing | running | parked == set(self.state.tasks)
        assert set(self.state.tasks) | set(self.ended) == set(self.submitted_ids)
        assert not set(self.state.tasks) & set(self.ended)

    @invariant()
    def the_queue_is_bounded(self) -> None:
        if self.state.limits.queue_limit == 0:
            assert len(self.state.queue) == 0
        self.placed_once |= {t.id for t in self.state.tasks.values() if t.state is not TaskState.QUEUED}
        assert len(set(self.state.queue) - self.placed_once) <= self.state.limits.queue_limit

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        for task_id in self.state.queue:
            task = self.state.tasks[task_id]
            assert not any(
                worker.usable(self.now)
                and satisfies(worker, task.spec)
                and self.state.nodes[worker.node].status is NodeStatus.REACHABLE
                for worker in self.state.workers.values()
            )

    @invariant()
    def loads_have_waiters_where_they_are_not_to_be_finished(self) -> None:
        if not self.state.limits.finish_loads:
            assert all(load.waiters or load.stage is LoadStage.SPAWNING for load in self.state.loads.values())

    def teardown(self) -> None:
        """With every node willing, everything that is left ends, and nothing is held any more."""
        if not hasattr(self, "state"):
            return
        for _ in range(200):
            if self.state.idle:
                break
            self.now += 1.0
            self.run_world_once()
        assert self.state.idle
        assert len(self.state.queue) == 0
        assert set(self.ended) | set(self.state.tasks) == set(self.submitted_ids)
        assert not any(worker.leases for worker in self.state.workers.values())

    def run_world_once(self) -> None:
        """Answer everything well, once."""
        for name, node in self.nodes.items():
            node.ensuring = False
            self.happen(NodeSampled(self.now, name, sample(*node.rows.values())))
            for spawn in [node.spawning.pop() for _ in list(node.spawning)]:
                self.worker_count += 1
                row = worker_row(f"w-{self.worker_count:08x}", spawn.request.model_ref)
                node.rows[row.id] = row
                self.happen(SpawnAnswered(self.now, spawn.load_id, row))
                self.happen(WorkerLoaded(self.now, spawn.load_id))
            for load_id in list(node.loading):
                node.rows.pop(node.loading.pop(load_id), None)
                self.happen(LoadFailed(self.now, load_id, RbeeError(Code.WORKER_START_FAILED, "died")))
            for worker_id in [node.evicting.pop() for _ in list(node.evicting)]:
                node.rows.pop(worker_id, None)
                self.happen(WorkerEvicted(self.now, worker_id))
        for task_id in list(self.relaying):
            del self.relaying[task_id]
            self.happen(RelayEnded(self.now, task_id, RelayEnd.DONE, 1))


TestQueenMachine = QueenMachine.TestCase
TestQueenMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
