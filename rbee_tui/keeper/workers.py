"""Workers of all nodes: list, health, start, shutdown."""

from collections.abc import Callable, Mapping
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType, Narration, Progress
from daemons.contracts.routes import WORKER_HEALTH, WORKER_LIST, WORKER_SHUTDOWN, WORKER_START
from daemons.contracts.wire import parse_request
from daemons.contracts.workers import (
    ShutdownRequest,
    StartWorkerRequest,
    WorkerHealth,
    WorkerHealthList,
    WorkerHealthQuery,
    WorkerList,
    WorkerRow,
)
from daemons.kit.client import error_in, until_end
from daemons.models.references import parse_model_ref
from rbee_tui.keeper.session import QueenSession, read_event

StartEvent = Narration | Progress
OnStartEvent = Callable[[StartEvent], None]
SHUTDOWN_MARGIN_S = 15.0
"""A shutdown answers when the worker is gone: this comes on top of its drain and SIGTERM limits."""


async def list_workers(session: QueenSession) -> list[WorkerRow]:
    """Every worker of every node."""
    return (await session.get(WORKER_LIST, WorkerList)).workers


async def worker_health(session: QueenSession, node: str | None = None) -> list[WorkerHealth]:
    """Each worker of `node` (None: of all nodes), asked now. Raises RbeeError(NODE_NOT_FOUND)."""
    # A worker that does not answer costs its hive one time limit, and the queen waits for its hives for two.
    query = parse_request(WorkerHealthQuery, {"node": node})
    limit_s = 3 * session.policy.http_timeout_s
    answer = await session.get(WORKER_HEALTH, WorkerHealthList, query=query, timeout_s=limit_s)
    return answer.workers


def start_request(model: str, fields: Mapping[str, Any]) -> StartWorkerRequest:
    """A checked request to load `model`; fields that are None are left to the hive, which says what it chose.

    Raises RbeeError: INVALID_MODEL_REF, INVALID_BACKEND, or INVALID_REQUEST naming every faulty field.
    """
    reference = str(parse_model_ref(model))
    given = {name: value for name, value in fields.items() if value is not None}
    return parse_request(StartWorkerRequest, {"model_ref": reference, **given})


async def start_worker(session: QueenSession, request: StartWorkerRequest, on_event: OnStartEvent) -> WorkerRow:
    """Load a model; returns the worker's row once it is ready. Raises the error that the load ended with."""
    row: WorkerRow | None = None
    async with session.stream(WORKER_START, body=request, silence_s=3 * session.policy.ping_s) as events:
        async for event in until_end(events, session.name):
            if failure := error_in(event):
                raise failure
            if event.type == EventType.WORKER:
                row = read_event(event, WorkerRow)
            elif event.type == EventType.NARRATION:
                on_event(read_event(event, Narration))
            elif event.type == EventType.PROGRESS:
                on_event(read_event(event, Progress))
    if row is None:
        raise RbeeError(Code.HIVE_BAD_RESPONSE, f"{session.name} ended the start of a worker without naming it")
    return row


async def shutdown_worker(session: QueenSession, worker_id: str, *, drain_s: float | None = None) -> WorkerRow:
    """Drain and end one worker; returns its last row once it is gone. Raises RbeeError(WORKER_NOT_FOUND)."""
    request = parse_request(ShutdownRequest, {"id": worker_id, "drain_s": drain_s})
    policy = session.policy
    limit_s = (policy.drain_s if drain_s is None else drain_s) + policy.term_s + SHUTDOWN_MARGIN_S
    return await session.get(WORKER_SHUTDOWN, WorkerRow, body=request, timeout_s=limit_s)
