"""Whatever happens in whatever order: nobody waits for ever, nothing is promised twice, no process is forgotten."""

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.workers import ReadyCallback, SpawnRequest, WorkerState
from daemons.hive.core import events as ev
from daemons.hive.core.exits import ProcessEnd
from daemons.hive.core.placement import Defaults
from daemons.hive.core.registry import Registry, Rules
from daemons.kit.policy import Policy
from tests.support.hive_rows import GIB, MIB, cpu, host, model, stats

POLICY = Policy(
    load_base_s=60, worker_http_s=10, health_interval_s=5, idle_worker_s=40, drain_s=8, term_s=2,
    restart_first_s=2, restart_longest_s=20, restart_crashes=3, restart_window_s=200,
)  # fmt: skip
DEVICE = cpu(free=GIB, total=4 * GIB, cores=3)
SIZES = st.sampled_from([10 * MIB, 600 * MIB, 3 * GIB])
REPORTED = [state for state in WorkerState if state is not WorkerState.RESTARTING]
PICK = st.integers(min_value=0, max_value=1_000_000)


class HiveLife(RuleBasedStateMachine):
    """The registry with a world around it that does what effects ask for, sooner or later, or fails to."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(Rules("local", POLICY, Defaults(slots=2), False))
        self.at = 1000.0
        self.count = 0
        self.open_tickets: set[int] = set()
        self.preflights: list[str] = []
        self.starting: list[str] = []
        self.running: list[str] = []
        self.watched: Counter[str] = Counter()
        self.stopped: set[str] = set()
        self.unwanted: set[str] = set()
        self.draining = False
        self.begun: Counter[str] = Counter()
        self.successors: set[str] = set()
        self.not_before: dict[str, float] = {}
        self.happens(ev.Measured(self.at, [DEVICE], host()))

    def happens(self, event: ev.Event) -> None:
        for effect in self.registry.handle(event):
            match effect:
                case ev.Preflight(worker_id, _):
                    self.preflights.append(worker_id)
                    self.begun[worker_id] += 1
                case ev.StartProcess(row=row):
                    assert self.at >= self.not_before.get(row.id, 0.0), "started before its time"
                    assert not (self.draining and row.id in self.successors), "restarted by a hive that ends"
                    self.starting.append(row.id)
                case ev.Watch(worker_id):
                    self.watched[worker_id] += 1
                case ev.StopProcess(worker_id=worker_id):
                    assert worker_id in self.running, "only a process can be stopped"
                    self.stopped.add(worker_id)
                case ev.Reply(ticket, _) | ev.Refuse(ticket, _):
                    self.open_tickets.remove(ticket)  # KeyError: answered twice
                case _:
                    pass
        self.not_before |= {row.id: row.starts_at for row in self.registry.workers if row.starts_at}

    def ticket(self) -> int:
        self.count += 1
        self.open_tickets.add(self.count)
        return self.count

    def waiting(self) -> list[str]:
        """Ids of the rows without a process: they wait for a restart, or failed."""
        return [row.id for row in self.registry.workers if not row.has_process]

    def pick(self, ids: list[str], number: int) -> str:
        return ids[number % len(ids)]

    @rule(seconds=st.floats(0.1, 30.0))
    def time_passes(self, seconds: float) -> None:
        self.at += seconds
        self.happens(ev.Tick(self.at))

    @rule(ctx=st.sampled_from([None, 512, 2048]))
    def somebody_asks_for_a_worker(self, ctx: int | None) -> None:
        ticket = self.ticket()
        worker_id = f"w-{ticket:08x}"
        request = SpawnRequest(model_ref="demo", ctx=ctx)
        self.happens(ev.SpawnAsked(self.at, ticket, worker_id, f"key-{worker_id}", request))

    @precondition(lambda self: self.preflights)
    @rule(number=PICK, weights=SIZES)
    def a_model_is_found(self, number: int, weights: int) -> None:
        worker_id = self.pick(self.preflights, number)
        self.preflights.remove(worker_id)
        self.happens(ev.PreflightDone(self.at, worker_id, model(weights), [DEVICE]))

    @precondition(lambda self: self.preflights or self.starting)
    @rule(number=PICK)
    def a_spawn_fails(self, number: int) -> None:
        worker_id = self.pick([*self.preflights, *self.starting], number)
        (self.preflights if worker_id in self.preflights else self.starting).remove(worker_id)
        self.happens(ev.SpawnFailed(self.at, worker_id, RbeeError(Code.MODEL_NOT_FOUND, "gone")))

    @precondition(lambda self: self.starting)
    @rule(number=PICK)
    def a_process_starts(self, number: int) -> None:
        worker_id = self.pick(self.starting, number)
        self.starting.remove(worker_id)
        self.running.append(worker_id)
        self.happens(ev.ProcessStarted(self.at, worker_id, 4000 + self.count, "http://127.0.0.1:1", ["worker"]))

    @precondition(lambda self: self.running)
    @rule(number=PICK)
    def a_worker_calls_back(self, number: int) -> None:
        fields: dict[str, Any] = {"url": "http://127.0.0.1:1", "model_ref": "demo", "backend": "cpu", "device": 0}
        fields |= {"pid": 1, "slots_total": 2, "ctx": 512, "load_ms": 1.0, "id": self.pick(self.running, number)}
        self.happens(ev.ReadyReported(self.at, self.ticket(), ReadyCallback.model_validate(fields)))

    @precondition(lambda self: self.running)
    @rule(number=PICK, state=st.sampled_from(REPORTED))
    def a_worker_answers(self, number: int, state: WorkerState) -> None:
        worker_id = self.pick(self.running, number)
        self.happens(ev.StatsSeen(self.at, worker_id, stats(worker_id, state, last_active_at=self.at)))

    @precondition(lambda self: self.running)
    @rule(number=PICK)
    def a_worker_does_not_answer(self, number: int) -> None:
        self.happens(ev.StatsMissed(self.at, self.pick(self.running, number), "no answer"))

    @precondition(lambda self: self.running)
    @rule(number=PICK, returncode=st.sampled_from([0, 1, -9, -11, None]))
    def a_process_ends(self, number: int, returncode: int | None) -> None:
        worker_id = self.pick(self.running, number)
        self.running.remove(worker_id)
        self.count += 1
        successor = f"w-{self.count:08x}"
        self.successors.add(successor)
        self.happens(ev.ProcessEnded(self.at, worker_id, ProcessEnd(returncode, "ended"), (successor, "key")))

    @rule(number=PICK, drain_s=st.sampled_from([None, 0.0, 3.0]))
    def somebody_stops_a_worker(self, number: int, drain_s: float | None) -> None:
        worker_id = self.pick([*self.running, *self.starting, *self.waiting(), "w-ffffffff"], number)
        self.unwanted.add(worker_id)
        self.happens(ev.StopAsked(self.at, self.ticket(), worker_id, drain_s))

    @rule(number=PICK)
    def somebody_asks_for_an_exit(self, number: int) -> None:
        worker_id = self.pick([*self.running, "w-ffffffff"], number)
        self.happens(ev.ExitAsked(self.at, self.ticket(), worker_id))

    @precondition(lambda self: self.count > 6)
    @rule()
    def the_hive_ends(self) -> None:
        self.unwanted |= {*self.running, *self.starting}
        self.draining = True
        self.happens(ev.StopAllAsked(self.at, self.ticket(), None))

    @invariant()
    def rows_are_the_running_processes(self) -> None:
        assert sorted(row.id for row in self.registry.workers if row.has_process) == sorted(self.running)
        assert all(self.watched[worker_id] == 1 for worker_id in self.running)

    @invariant()
    def each_crash_has_one_successor_at_most(self) -> None:
        assert all(self.begun[worker_id] <= 1 for worker_id in self.successors)
        assert not set(self.waiting()) & set(self.running)
        assert len(self.waiting()) == len(set(self.waiting()))

    @invariant()
    def what_has_no_process_holds_nothing(self) -> None:
        rows = [row for row in self.registry.workers if not row.has_process]
        assert all((row.url, row.memory_bytes, row.threads, row.slots_available) == ("", 0, 0, 0) for row in rows)
        assert {row.state for row in rows} <= {WorkerState.RESTARTING, WorkerState.FAILED}

    @invariant()
    def a_hive_that_ends_has_nobody_wait_for_a_restart(self) -> None:
        rows = [row for row in self.registry.workers if row.state is WorkerState.RESTARTING]
        assert not self.draining or {row.id for row in rows} <= {*self.preflights, *self.starting}

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        state = self.registry.telemetry(self.at)
        assert state is not None
        rows = self.registry.workers
        assert sum(row.memory_bytes for row in rows) <= DEVICE.memory_total
        assert sum(row.memory_bytes for row in rows if row.state is WorkerState.LOADING) <= DEVICE.memory_free
        assert sum(row.threads for row in rows) <= DEVICE.cores
        assert state.devices[0].threads_free <= DEVICE.cores - sum(row.threads for row in rows)

    @invariant()
    def whoever_is_being_ended_was_told_to(self) -> None:
        ending = {WorkerState.UNHEALTHY, WorkerState.FAILED}
        rows = [row for row in self.registry.workers if row.has_process]
        assert {row.id for row in rows if row.state in ending} <= self.stopped
        assert self.unwanted & set(self.running) <= self.stopped

    def teardown(self) -> None:
        self.time_passes(100.0)
        while self.preflights or self.starting:
            self.a_spawn_fails(0)
        while self.running:
            self.a_process_ends(0, 0)
        self.time_passes(100.0)
        while self.preflights:
            self.a_spawn_fails(0)
        assert {row.state for row in self.registry.workers} <= {WorkerState.FAILED}
        assert self.registry.worker_keys == []
        assert self.open_tickets == set(), "somebody would wait for ever"


TestHiveLife = HiveLife.TestCase
TestHiveLife.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
