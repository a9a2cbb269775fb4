"""The one function that changes the state: an event in, effects out.

After every event the waiting tasks are tried in their order, so that no task passes one that stands before it and could
be placed, and none waits while there is something free for it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import NodeStatus
from daemons.contracts.tasks import TaskState
from daemons.contracts.workers import READY_STATES, HiveWorker, WorkerState
from daemons.queen.core import events
from daemons.queen.core.effects import (
    Effect,
    EndTask,
    Narrate,
    StartRelay,
    StopRelay,
    TaskChanged,
    WakeAfter,
    WorkerGone,
)
from daemons.queen.core.events import Event, RelayEnd
from daemons.queen.core.loads import (
    fail_load,
    join_load,
    leave_load,
    load_failed,
    open_load,
    resume_loads,
    spawn_answered,
    worker_evicted,
    worker_loaded,
)
from daemons.queen.core.placement import Evict, Join, Open, Refuse, Use, Wait, matching, place_task
from daemons.queen.core.state import Limits, LoadStage, Spec, State, Task, Worker

_FIRST_BACKOFF_S = 0.05
_LONGEST_BACKOFF_S = 2.0
_SUSPECT_S = 2.0
"""A worker whose stream broke counts as dead; one that its hive still tells of after so long has only been cut off."""

_UNSEEN_GRACE_S = 5.0
"""A worker that the hive has just started may be missing from a sample that was taken before."""


def decide(state: State, event: Event) -> list[Effect]:
    """Apply an event; what is to be done about it, in order."""
    out: list[Effect] = []
    _HANDLERS[type(event)](state, event, out)
    reasons = _place_waiting(state, event.at, out)
    _bound_queue(state, reasons, out)
    return out


def _submitted(state: State, event: events.TaskSubmitted, out: list[Effect]) -> None:
    refusal = _refused_at_the_door(state, event.spec)
    if refusal is not None:
        out.append(EndTask(event.task_id, refusal))
        return
    task = Task(
        event.task_id,
        event.spec,
        order=state.next_order,
        queued_at=event.at,
        max_tokens=event.max_tokens,
        priority=event.priority,
        prefix=event.prefix,
        start_only=event.start_only,
        detached=event.detached,
    )
    state.next_order += 1
    state.tasks[task.id] = task
    state.queue.add(task.id, task.priority, task.order)


def _refused_at_the_door(state: State, spec: Spec) -> RbeeError | None:
    if state.draining:
        return queen_ends(state.limits)
    if spec.node is not None and spec.node not in state.nodes:
        known = ", ".join(state.nodes) or "none"
        return RbeeError(
            Code.NODE_NOT_FOUND,
            f"no node is called {spec.node}; known: {known}",
            details={"node": spec.node, "known": list(state.nodes)},
            hint=f"rbee setup add-node --name {spec.node} --ssh-host <host> --ssh-user <user>",
        )
    return None


def queen_ends(limits: Limits) -> RbeeError:
    """The refusal of a task that comes too late."""
    return RbeeError(
        Code.DRAINING,
        "this queen is ending and takes no new tasks",
        details={"retry_after_s": limits.retry_after_s},
    )


def _stopped(state: State, event: events.TaskStopped, out: list[Effect]) -> None:
    task = state.tasks.get(event.task_id)
    if task is None or task.stopping is not None:
        return
    if task.state is TaskState.RUNNING:
        task.stopping = event.why
        out.append(StopRelay(task.id))
        return
    if task.state is TaskState.PLACING:
        leave_load(state, task, out)
    _end(state, task, event.why, out)


def _end(state: State, task: Task, error: RbeeError | None, out: list[Effect]) -> None:
    state.queue.remove(task.id, task.priority, task.order)
    del state.tasks[task.id]
    out.append(EndTask(task.id, error))


def _sampled(state: State, event: events.NodeSampled, out: list[Effect]) -> None:
    node = state.nodes[event.node]
    node.sample, node.problem = event.sample, ""
    present = {row.id: row for row in event.sample.workers}
    for row in present.values():
        _meet_worker(state, event, row)
    for worker in state.workers_on(event.node):
        gone = worker.seen or event.at - worker.added_at > _UNSEEN_GRACE_S
        if worker.row.id not in present and gone:
            _forget_worker(state, worker, out)
            node.epoch += 1
    if node.status is not NodeStatus.REACHABLE:
        node.status = NodeStatus.REACHABLE
        resume_loads(state, node.name, event.at, out)


def _meet_worker(state: State, event: events.NodeSampled, row: HiveWorker) -> None:
    worker = state.workers.get(row.id)
    if worker is None:
        state.workers[row.id] = Worker(row, event.node, seen=True)
        return
    worker.seen = True
    if worker.lost_at is not None and event.at - worker.lost_at >= _SUSPECT_S:
        worker.lost_at = None
    if _outdated(row.state, worker.row.state):
        return
    worker.row = row


def _outdated(sampled: WorkerState, known: WorkerState) -> bool:
    """Whether a sample was taken before what is known: before the process was started, or its model was loaded."""
    if sampled is WorkerState.RESTARTING:
        return known is not WorkerState.RESTARTING
    return sampled is WorkerState.LOADING and known in READY_STATES


def _forget_worker(state: State, worker: Worker, out: list[Effect]) -> None:
    del state.workers[worker.row.id]
    out.append(WorkerGone(worker.row.id))


def _node_changed(state: State, event: events.NodeChanged, out: list[Effect]) -> None:
    node = state.nodes[event.node]
    node.status, node.problem = event.status, event.problem
    if event.status is not NodeStatus.STOPPED:
        return
    loading = {load.worker_id for load in state.loads.values()}
    for worker in state.workers_on(node.name):
        # Workers outlive their hive: a stream goes on to its end, and the next hive tells of them again.
        if not worker.leases and worker.row.id not in loading:
            _forget_worker(state, worker, out)


def _node_failed(state: State, event: events.NodeFailed, out: list[Effect]) -> None:
    node = state.nodes[event.node]
    node.status = event.status
    node.problem = event.error.message
    for load in state.loads_on(node.name):
        if load.stage is LoadStage.ENSURING:
            fail_load(state, load, event.error, event.at, out)


def _relay_ended(state: State, event: events.RelayEnded, out: list[Effect]) -> None:
    task = state.tasks.get(event.task_id)
    if task is None:
        return
    worker = state.workers.get(task.worker_id or "")
    if worker is not None:
        _give_back(state, worker, event, out)
    if event.how is RelayEnd.DONE:
        _end(state, task, None, out)
    elif task.stopping is not None:
        _end(state, task, task.stopping, out)
    elif event.how is RelayEnd.REFUSED:
        _wait_again(state, task, task.queued_at, out)  # it has never been served: its wait goes on
    elif event.how is RelayEnd.LOST and event.tokens == 0 and task.crashes < state.limits.crash_retries:
        task.crashes += 1
        tries = f"{task.crashes} of {state.limits.crash_retries}"
        text = f"Worker {task.worker_id} was lost before its first token: trying again ({tries})"
        out.append(Narrate((task.id,), "queen", text, {"worker": task.worker_id, "retry": task.crashes}))
        _wait_again(state, task, event.at, out)
    else:
        _end(state, task, event.error, out)


def _give_back(state: State, worker: Worker, event: events.RelayEnded, out: list[Effect]) -> None:
    """Return the lease, and remember when the worker was of no use."""
    worker.leases.discard(event.task_id)
    worker.used_at = event.at
    if event.how is RelayEnd.LOST:
        worker.lost_at = event.at
    elif event.how is RelayEnd.REFUSED:
        wait = min(_FIRST_BACKOFF_S * 2**worker.backoffs, _LONGEST_BACKOFF_S)
        worker.backoffs += 1
        worker.backoff_until = event.at + wait
        out.append(WakeAfter(wait))
    else:
        worker.backoffs = 0
    if not worker.leases and state.nodes[worker.node].status is NodeStatus.STOPPED:
        _forget_worker(state, worker, out)


def _wait_again(state: State, task: Task, since: float, out: list[Effect]) -> None:
    if state.draining and task.detached:
        _park(state, task, out)
        return
    task.state, task.worker_id, task.queued_at = TaskState.QUEUED, None, since
    state.queue.add(task.id, task.priority, task.order)
    out.append(TaskChanged(task.id))


def _ticked(state: State, event: events.Tick, out: list[Effect]) -> None:
    limit = state.limits.queue_wait_s
    for task_id in state.queue:
        task = state.tasks[task_id]
        if event.at - task.queued_at < limit:
            continue
        why = RbeeError(
            Code.NO_NODE_AVAILABLE,
            f"no slot for {task.spec.model} became free within {limit:g} s",
            details={"waited_s": round(event.at - task.queued_at, 1), "limit_s": limit},
        )
        _end(state, task, why, out)


def _drain_begun(state: State, _event: events.DrainBegun, out: list[Effect]) -> None:
    """What runs goes on to its end. What waits is left to the next queen, or told when its client reads along."""
    state.draining = True
    for task in [task for task in state.tasks.values() if task.state is not TaskState.RUNNING]:
        if task.state is TaskState.PLACING:
            leave_load(state, task, out)
        if task.detached:
            _park(state, task, out)
        else:
            _end(state, task, _not_begun(state, task), out)


def _park(state: State, task: Task, out: list[Effect]) -> None:
    state.queue.remove(task.id, task.priority, task.order)
    task.state, task.worker_id, task.parked = TaskState.QUEUED, None, True
    out.append(Narrate((task.id,), "queen", "This queen is ending; the next one goes on with this task"))
    out.append(TaskChanged(task.id))


def _not_begun(state: State, task: Task) -> RbeeError:
    what = "its model was not loaded yet" if task.state is TaskState.PLACING else "the task still waited"
    return RbeeError(
        Code.DRAINING,
        f"the queen is ending, and {what}: nothing was generated",
        details={"retry_after_s": state.limits.retry_after_s, "state": task.state.value},
        hint="rbee queen status",
    )


def _place_waiting(state: State, at: float, out: list[Effect]) -> dict[Spec, str]:
    """Place every waiting task that can be placed, first in the queue first; why the others wait."""
    reasons: dict[Spec, str] = {}
    for task_id in state.queue:
        task = state.tasks[task_id]
        plain = not task.refusals and not task.start_only
        if plain and task.spec in reasons:
            continue  # the like of it has just found nothing, and nothing has become free since
        decision = place_task(state, task, at)
        if isinstance(decision, Wait):
            if plain:
                reasons[task.spec] = decision.reason
        else:
            _act_on(state, task, decision, at, out)
    return reasons


def _act_on(
    state: State, task: Task, decision: Use | Join | Open | Evict | Refuse, at: float, out: list[Effect]
) -> None:
    if isinstance(decision, Refuse):
        _end(state, task, decision.error, out)
        return
    state.queue.remove(task.id, task.priority, task.order)
    task.admitted, task.placed_at = True, at
    if isinstance(decision, Use):
        _start_relay(state, task, decision, at, out)
    elif isinstance(decision, Join):
        join_load(state.loads[decision.load_id], task, out)
        _say_joined(state, task, decision.load_id, out)
    else:
        open_load(state, task, decision, out)


def _start_relay(state: State, task: Task, decision: Use, at: float, out: list[Effect]) -> None:
    worker = state.workers[decision.worker_id]
    worker.leases.add(task.id)
    worker.used_at = at
    task.worker_id, task.state = worker.row.id, TaskState.RUNNING
    state.prefixes.record(task.prefix, worker.row.id)
    where = f"{worker.row.backend.value} {worker.row.device} of node {worker.node}"
    slots = f"slot {len(worker.leases)} of {worker.row.slots_total}"
    warm = ", warmest for this prompt" if decision.warm else ""
    out.append(StartRelay(task.id, worker.row.id))
    out.append(
        Narrate(
            (task.id,),
            "queen",
            f"Using worker {worker.row.id} on {where}: {slots}{warm}",
            {
                "worker": worker.row.id,
                "node": worker.node,
                "slots_busy": len(worker.leases),
                "slots_total": worker.row.slots_total,
                "warm_prefix": decision.warm,
            },
        )
    )
    out.append(TaskChanged(task.id))


def _say_joined(state: State, task: Task, load_id: int, out: list[Effect]) -> None:
    load = state.loads[load_id]
    text = f"{load.spec.model} is being loaded on node {load.place.node} already: waiting for that"
    out.append(Narrate((task.id,), "queen", text, {"node": load.place.node, "model": load.spec.model}))


def _bound_queue(state: State, reasons: Mapping[Spec, str], out: list[Effect]) -> None:
    """Refuse a new task that found no place in the queue; with the queue off, any task that would have to wait."""
    limit = state.limits.queue_limit
    for task_id in state.queue:
        task = state.tasks[task_id]
        if task.admitted and limit > 0:
            continue
        position = state.queue.position(task.id, task.priority, task.order) or 1
        if len(state.queue) > limit:
            _end(state, task, queue_full(state, task.spec, position), out)
            continue
        task.admitted = True
        text = f"Waiting at position {position} of at most {limit}: {reasons.get(task.spec, 'no free slot')}"
        out.append(Narrate((task.id,), "queen", text, {"position": position, "limit": limit}))
        out.append(TaskChanged(task_id))


def queue_full(state: State, spec: Spec, position: int) -> RbeeError:
    """The refusal of a task that would have to wait, with the figures of queue and slots."""
    workers = matching(state, spec)
    total = sum(worker.row.slots_total for worker in workers)
    busy = sum(len(worker.leases) for worker in workers)
    limit = state.limits.queue_limit
    queue = f"the queue is full ({limit} of {limit} tasks wait)" if limit else "the queue is off"
    slots = f"{busy} of {total} slots for {spec.model} are busy" if total else f"no slot for {spec.model} is free"
    return RbeeError(
        Code.QUEUE_FULL,
        f"{queue} and {slots}",
        details={
            "position": position,
            "limit": limit,
            "slots_total": total,
            "slots_busy": busy,
            "retry_after_s": state.limits.retry_after_s,
        },
    )


def task_place(state: State, task: Task) -> dict[str, Any]:
    """Where a live task is, for its row: state, node, worker, position in the queue from 1."""
    worker = state.workers.get(task.worker_id or "")
    load = state.loads.get(task.load_id or 0)
    node = worker.node if worker else load.place.node if load else None
    return {
        "state": task.state,
        "worker_id": task.worker_id,
        "node": node or task.spec.node,
        "queue_position": state.queue.position(task.id, task.priority, task.order),
    }


_Handler = Callable[[State, Any, list[Effect]], None]
_HANDLERS: dict[type[Event], _Handler] = {
    events.TaskSubmitted: _submitted,
    events.TaskStopped: _stopped,
    events.NodeSampled: _sampled,
    events.NodeChanged: _node_changed,
    events.NodeFailed: _node_failed,
    events.SpawnAnswered: spawn_answered,
    events.LoadFailed: load_failed,
    events.WorkerLoaded: worker_loaded,
    events.WorkerEvicted: worker_evicted,
    events.RelayEnded: _relay_ended,
    events.Tick: _ticked,
    events.DrainBegun: _drain_begun,
}
