"""A worker in the making: node ready -> idle worker evicted -> spawned -> loaded. One load serves all its waiters."""

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import NodeStatus
from daemons.contracts.tasks import TaskState
from daemons.contracts.workers import SpawnRequest, WorkerState
from daemons.queen.core.effects import (
    Effect,
    EndTask,
    EnsureNode,
    EvictWorker,
    Narrate,
    SpawnWorker,
    TaskChanged,
)
from daemons.queen.core.events import LoadFailed, SpawnAnswered, WorkerEvicted, WorkerLoaded
from daemons.queen.core.placement import Evict, Open
from daemons.queen.core.state import Load, LoadStage, Place, Refusal, Spec, State, Task, Worker


def open_load(state: State, task: Task, decision: Open | Evict, out: list[Effect]) -> None:
    """Begin a load for a task, after ending an idle worker when the decision says so."""
    place = decision.place
    load = Load(
        id=state.next_load,
        place=place,
        spec=task.spec,
        stage=LoadStage.ENSURING,
        slots=task.spec.slots or state.limits.default_slots,
    )
    state.next_load += 1
    state.loads[load.id] = load
    join_load(load, task, out)
    if isinstance(decision, Evict):
        _evict(state, load, decision.victim_id, out)
    else:
        _ensure_or_spawn(state, load, out)


def join_load(load: Load, task: Task, out: list[Effect]) -> None:
    """Make a task wait for a load."""
    load.waiters.append(task.id)
    task.load_id = load.id
    task.state = TaskState.PLACING
    out.append(TaskChanged(task.id))


def leave_load(state: State, task: Task, out: list[Effect]) -> None:
    """Take a task off the load it waits for. What nobody waits for any more goes on, or is stopped, as configured."""
    load = state.loads.get(task.load_id or 0)
    task.load_id = None
    if load is None or task.id not in load.waiters:
        return
    load.waiters.remove(task.id)
    if load.waiters:
        return
    goes_on = state.limits.finish_loads
    what = "goes on: the model will be there for the next request" if goes_on else "is stopped"
    text = f"Nobody waits for {load.spec.model} on node {load.place.node} any more; loading it {what}"
    out.append(Narrate((task.id,), "queen", text, {"model": load.spec.model, "finish_loads": goes_on}))
    _stop_if_unwanted(state, load, out)


def _stop_if_unwanted(state: State, load: Load, out: list[Effect]) -> None:
    """End a load that nobody waits for, unless loads are to be finished.

    One that the hive has not answered yet is ended with that answer, which names the worker.
    """
    if load.waiters or state.limits.finish_loads or load.stage is LoadStage.SPAWNING:
        return
    del state.loads[load.id]
    worker = state.workers.get(load.worker_id or "")
    if load.stage is LoadStage.LOADING and worker is not None:
        worker.evicting = True
        out.append(EvictWorker(load.place.node, worker.row.id))


def _evict(state: State, load: Load, victim_id: str, out: list[Effect]) -> None:
    victim = state.workers[victim_id]
    victim.evicting = True
    load.stage, load.victim_id = LoadStage.EVICTING, victim_id
    text = f"Ending idle worker {victim_id} ({victim.row.model_ref}) to make room for {load.spec.model}"
    out.append(Narrate(tuple(load.waiters), "queen", text, {"worker": victim_id, "model": victim.row.model_ref}))
    out.append(EvictWorker(load.place.node, victim_id))


def _ensure_or_spawn(state: State, load: Load, out: list[Effect]) -> None:
    node = state.nodes[load.place.node]
    if node.status is NodeStatus.REACHABLE:
        _spawn(state, load, out)
        return
    load.stage = LoadStage.ENSURING
    out.append(
        Narrate(
            tuple(load.waiters),
            "queen",
            f"Node {node.name} is {node.status.value}: making sure that its hive runs",
            {"node": node.name, "status": node.status.value},
        )
    )
    if node.status is not NodeStatus.STARTING:
        node.status = NodeStatus.STARTING
        out.append(EnsureNode(node.name))


def _spawn(state: State, load: Load, out: list[Effect]) -> None:
    load.stage = LoadStage.SPAWNING
    where = f"node {load.place.node}"
    if load.place.backend is not None:
        where += f", {load.place.backend.value} {'' if load.place.device is None else load.place.device}".rstrip()
    text = f"No free worker has {load.spec.model}: asking {where} to load it"
    waiting = [worker.row for worker in state.workers_on(load.place.node) if worker.restarting(load.spec.model)]
    if waiting:
        text += f", where it {waiting[0].problem}; it is started again after a wait"
    out.append(Narrate(tuple(load.waiters), "queen", text, {"node": load.place.node, "model": load.spec.model}))
    out.append(SpawnWorker(load.id, load.place.node, spawn_request(load.spec, load.place)))


def spawn_request(spec: Spec, place: Place) -> SpawnRequest:
    """What the hive is asked for; what is None there, it chooses."""
    return SpawnRequest(
        model_ref=spec.model,
        backend=place.backend,
        device=place.device,
        ctx=spec.ctx,
        slots=spec.slots,
        mmap=spec.mmap,
        keep_alive_s=spec.keep_alive_s,
    )


def resume_loads(state: State, node: str, at: float, out: list[Effect]) -> None:
    """A node has become reachable: what waited for it is decided anew, for its hive may have brought workers along."""
    for load in state.loads_on(node):
        if load.stage is LoadStage.ENSURING:
            _release(state, load, at, out)


def spawn_answered(state: State, event: SpawnAnswered, out: list[Effect]) -> None:
    """The worker process runs; from now on its slots are known."""
    load = state.loads.get(event.load_id)
    if load is None:
        return
    known = state.workers.get(event.worker.id)
    if known is None:
        known = Worker(event.worker, load.place.node, added_at=event.at)
        state.workers[event.worker.id] = known
    elif not known.row.has_process:
        known.row = event.worker  # the hive had listed it before it could be started
    known.made_for = load.spec
    load.stage, load.worker_id, load.slots = LoadStage.LOADING, event.worker.id, event.worker.slots_total
    for task_id in load.waiters:
        state.tasks[task_id].worker_id = event.worker.id
        out.append(TaskChanged(task_id))
    _stop_if_unwanted(state, load, out)


def worker_loaded(state: State, event: WorkerLoaded, out: list[Effect]) -> None:
    """The model is loaded: waiters go back to the queue, from which they are placed in their order."""
    load = state.loads.get(event.load_id)
    if load is None:
        return
    worker = state.workers.get(load.worker_id or "")
    if worker is not None and worker.row.state is WorkerState.LOADING:
        worker.row = worker.row.model_copy(
            update={"state": WorkerState.IDLE, "progress": 1.0, "slots_available": worker.row.slots_total}
        )
    for task_id in list(load.waiters):
        if state.tasks[task_id].start_only:
            load.waiters.remove(task_id)
            del state.tasks[task_id]
            out.append(EndTask(task_id))
    _release(state, load, event.at, out)


def _release(state: State, load: Load, at: float, out: list[Effect]) -> None:
    """End a load; its waiters wait for a place again, at their old rank."""
    state.loads.pop(load.id, None)
    for task_id in load.waiters:
        task = state.tasks[task_id]
        task.load_id = task.worker_id = None
        task.state = TaskState.QUEUED
        task.queued_at += at - task.placed_at  # the load is no part of the wait
        state.queue.add(task.id, task.priority, task.order)
        out.append(TaskChanged(task_id))


def load_failed(state: State, event: LoadFailed, out: list[Effect]) -> None:
    """A hive refused, or the worker did not come up: the waiters look for another place."""
    load = state.loads.get(event.load_id)
    if load is None:
        return
    worker = state.workers.get(load.worker_id or "")
    if worker is not None:
        worker.row = worker.row.model_copy(update={"state": WorkerState.FAILED})
    if event.error.code is Code.HIVE_UNREACHABLE:
        # The hive died after its last sample; each task has it started again once before that counts as a refusal.
        state.nodes[load.place.node].status = NodeStatus.UNREACHABLE
    fail_load(state, load, event.error, event.at, out)


def fail_load(state: State, load: Load, error: RbeeError, at: float, out: list[Effect]) -> None:
    """Note the refusal with every waiter and let each look for another place."""
    node = state.nodes[load.place.node]
    for task_id in load.waiters:
        task = state.tasks[task_id]
        if error.code is Code.HIVE_UNREACHABLE and load.stage is not LoadStage.ENSURING and not task.hive_lost:
            task.hive_lost = True
            continue
        if error.code is Code.DEADLINE_EXCEEDED:
            continue  # that of a task which ends by it; this one only shared the load
        # Under the place as the task itself would ask for it, too: joiners may have asked less precisely.
        asked = Place(node.name, task.spec.backend, task.spec.device)
        task.refusals[load.place] = task.refusals[asked] = Refusal(error, node.epoch, at)
    text = f"Node {node.name} cannot load {load.spec.model}: {error.message}"
    out.append(Narrate(tuple(load.waiters), "queen", text, {"node": node.name, "code": error.code.value}))
    _release(state, load, at, out)


def worker_evicted(state: State, event: WorkerEvicted, out: list[Effect]) -> None:
    """Room was made, or not."""
    worker = state.workers.get(event.worker_id)
    if worker is not None:
        if event.error is None:
            state.nodes[worker.node].epoch += 1
        worker.evicting = event.error is None
    for load in list(state.loads.values()):
        if load.stage is LoadStage.EVICTING and load.victim_id == event.worker_id:
            if event.error is None:
                _ensure_or_spawn(state, load, out)
            else:
                fail_load(state, load, event.error, event.at, out)
