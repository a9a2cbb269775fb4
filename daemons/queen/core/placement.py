"""Where a task goes now. Only looks at the state; `decide` acts on the answer.

Order: a loaded worker with a free slot, the warmest prompt prefix first -> a load in flight that has room -> a node or
device where the model may fit (its hive has the final word) -> an idle worker makes room -> wait, or refuse.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import NodeStatus
from daemons.contracts.telemetry import Device
from daemons.contracts.workers import Backend
from daemons.queen.core.state import MOST_LOADS_PER_NODE, Load, Node, Place, Refusal, Spec, State, Task, Worker

RESOURCE_CODES = frozenset({Code.RAM_INSUFFICIENT, Code.VRAM_INSUFFICIENT, Code.CORES_INSUFFICIENT})
"""Refusals that ending another worker may cure."""

_MAY_BE_OPENED = frozenset({NodeStatus.REACHABLE, NodeStatus.STARTING, NodeStatus.UNREACHABLE})
_MAY_COME_BACK = frozenset({NodeStatus.REACHABLE, NodeStatus.STARTING, NodeStatus.STALE})


@dataclass(frozen=True, slots=True)
class Use:
    """Send it to this worker; `warm` links of its prompt were served there last."""

    worker_id: str
    warm: int


@dataclass(frozen=True, slots=True)
class Join:
    """Share a load that is under way."""

    load_id: int


@dataclass(frozen=True, slots=True)
class Open:
    """Load the model here."""

    place: Place


@dataclass(frozen=True, slots=True)
class Evict:
    """End an idle worker, then load the model here."""

    place: Place
    victim_id: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """No change that can be foreseen will help."""

    error: RbeeError


Decision = Use | Join | Open | Evict | Wait | Refuse


def place_task(state: State, task: Task, at: float) -> Decision:
    """The decision for one task that is not placed."""
    if not task.start_only:
        worker = _warmest_free(state, task, at)
        if worker is not None:
            return Use(worker.row.id, state.prefixes.warmth(task.prefix, worker.row.id))
        for load in state.loads.values():
            if load.joinable and load_fits(state, load, task.spec) is True and room_in(state, load) > 0:
                return Join(load.id)
    for place in open_places(state, task, at):
        return Open(place)
    if not task.start_only:
        reason = _will_be_served(state, task.spec)
        if reason:
            return Wait(reason)
    return _make_room(state, task, at)


def matching(state: State, spec: Spec) -> list[Worker]:
    """Workers, loaded or loading, that can answer the task, on nodes that are there."""
    return [
        worker
        for worker in state.workers.values()
        if worker.coming and satisfies(worker, spec) and state.nodes[worker.node].status in _MAY_COME_BACK
    ]


def satisfies(worker: Worker, spec: Spec) -> bool:
    """Whether the worker's model, node, backend, device and context are what the task asks for."""
    if worker.row.model_ref != spec.model or spec.node not in (None, worker.node):
        return False
    if worker.made_for is not None and _shape(worker.made_for) == _shape(spec):
        return True
    return (
        spec.backend in (None, worker.row.backend)
        and spec.device in (None, worker.row.device)
        and (spec.ctx is None or worker.row.ctx >= spec.ctx)
    )


def _shape(spec: Spec) -> tuple[object, ...]:
    return (spec.backend, spec.device, spec.ctx, spec.slots, spec.mmap)


def load_fits(state: State, load: Load, spec: Spec) -> bool | None:
    """Whether a load will make a worker for the task; None while that depends on what the hive will choose."""
    if load.spec.model != spec.model or spec.node not in (None, load.place.node):
        return False
    worker = state.workers.get(load.worker_id or "")
    if worker is not None:
        return satisfies(worker, spec)
    asked = ((spec.backend, load.place.backend), (spec.device, load.place.device), (spec.ctx, load.spec.ctx))
    if all(wanted in (None, given) for wanted, given in asked):
        return True
    return None if all(given in (None, wanted) or wanted is None for wanted, given in asked) else False


def room_in(state: State, load: Load) -> int:
    """Tasks that may still join."""
    return load.slots - sum(not state.tasks[task_id].start_only for task_id in load.waiters)


def _warmest_free(state: State, task: Task, at: float) -> Worker | None:
    free = [
        worker
        for worker in matching(state, task.spec)
        if worker.usable(at) and state.nodes[worker.node].status is NodeStatus.REACHABLE
    ]
    return min(
        free,
        key=lambda w: (-state.prefixes.warmth(task.prefix, w.row.id), len(w.leases), -w.free_slots, w.row.id),
        default=None,
    )


def open_places(state: State, task: Task, at: float) -> list[Place]:
    """Where the model may be loaded, best first; places that have refused this task are left out."""
    nodes = [node for node in state.nodes.values() if task.spec.node in (None, node.name) and _may_open(node)]
    nodes.sort(key=lambda node: _rank(node, task.spec))
    return [
        place
        for node in nodes
        if len(state.loads_on(node.name)) < MOST_LOADS_PER_NODE
        for place in _places_of(state, node, task)
        if standing_refusal(state, task, place, at) is None
    ]


def _may_open(node: Node) -> bool:
    return node.status in _MAY_BE_OPENED or (node.status is NodeStatus.STOPPED and node.startable)


def _places_of(state: State, node: Node, task: Task) -> Iterator[Place]:
    """The node as a whole, its hive choosing; where some devices have the model already, the others of that kind."""
    spec = task.spec
    taken = [worker.row for worker in matching(state, spec) if worker.node == node.name]
    in_flight = [load for load in state.loads_on(node.name) if load_fits(state, load, spec) is not False]
    if task.start_only or not (taken or in_flight):
        yield Place(node.name, spec.backend, spec.device)
        return
    if in_flight or node.sample is None:
        return
    used = {(row.backend, row.device) for row in taken}
    kinds = {row.backend for row in taken} - {Backend.CPU}
    for device in node.sample.devices:
        if device.backend in kinds and (device.backend, device.index) not in used and _wanted(device, spec):
            yield Place(node.name, device.backend, device.index)


def _wanted(device: Device, spec: Spec) -> bool:
    return spec.backend in (None, device.backend) and spec.device in (None, device.index)


def _rank(node: Node, spec: Spec) -> tuple[int, bool, int, str]:
    """Running nodes first, those with a device of the wanted kind, accelerators before CPUs, most free memory."""
    not_running = {NodeStatus.REACHABLE: 0, NodeStatus.STARTING: 1, NodeStatus.STOPPED: 2}.get(node.status, 3)
    devices = [device for device in (node.sample.devices if node.sample else []) if _wanted(device, spec)]
    free = max((device.memory_free for device in devices if device.backend is not Backend.CPU), default=0)
    return (not_running, not devices, -free, node.name)


def standing_refusal(state: State, task: Task, place: Place, at: float) -> Refusal | None:
    """Why this place need not be tried again for the task now."""
    refusal = task.refusals.get(place)
    if refusal is None:
        return None
    if refusal.error.code in RESOURCE_CODES:
        outdated = refusal.epoch != state.nodes[place.node].epoch or at - refusal.at >= state.limits.refusal_keep_s
        return None if outdated else refusal
    return refusal


def _will_be_served(state: State, spec: Spec) -> str:
    """Why waiting in the queue makes sense; empty when nothing serves this model, now or soon."""
    workers = matching(state, spec)
    if workers and not any(worker.ready for worker in workers):
        return f"{spec.model} is being loaded"
    if workers:
        total = sum(worker.row.slots_total for worker in workers)
        taken = sum(len(worker.leases) for worker in workers)
        return f"{taken} of {total} slots for {spec.model} are taken"
    if any(load_fits(state, load, spec) is not False for load in state.loads.values()):
        return f"{spec.model} is being loaded, and every slot of it is spoken for"
    return ""


def _make_room(state: State, task: Task, at: float) -> Decision:
    """No place takes the model as things are: end an idle worker, else wait for a busy one, else give up."""
    refused = [
        (place, refusal)
        for place, refusal in task.refusals.items()
        if standing_refusal(state, task, place, at) is not None
    ]
    curable = [(place, refusal) for place, refusal in refused if refusal.error.code in RESOURCE_CODES]
    for place, refusal in curable:
        victim = _least_recently_used(state, task.spec, place, refusal.error)
        if victim is not None:
            return Evict(place, victim.row.id)
    if not task.start_only:
        for place, _ in curable:
            if _something_will_end(state, place.node):
                return Wait(f"node {place.node} has no room for {task.spec.model} until another model is done")
        waiting_for = [node.name for node in _wanted_nodes(state, task.spec) if _may_take_it_later(state, node)]
        if waiting_for and not refused:
            return Wait(f"node {', '.join(waiting_for)} takes no further load just now")
    if curable or refused:
        return Refuse((curable or refused)[-1][1].error)
    return Refuse(_no_node(state, task.spec))


def _least_recently_used(state: State, spec: Spec, place: Place, error: RbeeError) -> Worker | None:
    """An idle worker to end for `spec`; never one that serves just that."""
    serving = {worker.row.id for worker in matching(state, spec)}
    idle = [
        worker
        for worker in state.workers_on(place.node)
        if worker.ready
        and not worker.leases
        and not worker.pinned
        and worker.row.id not in serving
        and _makes_room(worker, place, error)
    ]
    return min(idle, key=lambda w: (w.used_at, w.row.last_active_at, w.row.id), default=None)


def _makes_room(worker: Worker, place: Place, error: RbeeError) -> bool:
    """Whether the worker holds what was short: memory of that device, or cores."""
    backend = error.details.get("backend", place.backend)
    device = error.details.get("device", place.device)
    same_device = worker.row.device == device if type(device) is int else True
    return backend in (None, worker.row.backend) and same_device


def _something_will_end(state: State, node: str) -> bool:
    holding = [worker for worker in state.workers_on(node) if worker.row.has_process]
    busy = any(not worker.pinned and (worker.leases or not worker.ready) for worker in holding)
    return busy or bool(state.loads_on(node))


def _wanted_nodes(state: State, spec: Spec) -> list[Node]:
    return [node for node in state.nodes.values() if spec.node in (None, node.name)]


def _may_take_it_later(state: State, node: Node) -> bool:
    crowded = len(state.loads_on(node.name)) >= MOST_LOADS_PER_NODE
    return node.status is NodeStatus.STALE or (crowded and _may_open(node))


def _no_node(state: State, spec: Spec) -> RbeeError:
    nodes = _wanted_nodes(state, spec)
    known = "; ".join(
        f"{node.name} is {node.status.value}{f' ({node.problem})' if node.problem else ''}" for node in nodes
    )
    return RbeeError(
        Code.NO_NODE_AVAILABLE,
        f"no node can load {spec.model} now: {known or 'this queen has no nodes'}",
        details={
            "nodes": {node.name: node.status.value for node in nodes},
            "retry_after_s": state.limits.retry_after_s,
        },
    )
