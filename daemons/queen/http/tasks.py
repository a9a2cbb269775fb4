"""Routes of tasks: run, list, show, follow, cancel."""

from collections.abc import AsyncIterator, Mapping

from starlette.requests import Request
from starlette.responses import Response

from daemons.contracts import routes
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Done, EventType, TextSnapshot
from daemons.contracts.inference import FinishReason
from daemons.contracts.routes import Route
from daemons.contracts.tasks import TaskAccepted, TaskList, TaskQuery, TaskRequest, TaskRow
from daemons.kit.app import Handler, Result
from daemons.kit.deadline import deadline_of
from daemons.kit.sse import SseResponse, encode_event
from daemons.queen.http.callers import client_of, is_admin, last_event_id, may_see, wants_detached
from daemons.queen.http.streams import TaskReading
from daemons.queen.service import QueenService
from daemons.queen.submissions import Submission
from daemons.queen.tasks import TaskRecord, task_not_found

TASK_ID_HEADER = "X-Task-Id"
STORED_WITHIN_S = 1.0
"""A disk takes milliseconds; one that takes longer than this is as good as none."""


class TaskHandlers:
    """Handlers over one service."""

    def __init__(self, service: QueenService) -> None:
        self._service = service

    def table(self) -> Mapping[Route, Handler]:
        return {
            routes.TASK_CREATE: self.create,
            routes.TASK_LIST: self.list_all,
            routes.TASK_SHOW: self.show,
            routes.TASK_EVENTS: self.events,
            routes.TASK_CANCEL: self.cancel,
        }

    async def create(self, request: Request, body: TaskRequest) -> Result:
        detached = wants_detached(request)
        submission = Submission(
            body,
            client_of(request),
            request.scope["request_id"],
            detached=detached,
            deadline=deadline_of(request.headers, "queen"),
        )
        record = self._service.submit(submission)
        if not detached:
            return await attached(self._service, record)
        await taken(record)
        # The client may leave now, so the task has to outlive this queen. A disk that hangs costs that, not the answer.
        await self._service.store.stored(STORED_WITHIN_S)
        url = routes.TASK_EVENTS.path.format(id=record.id)
        return Response(
            TaskAccepted(id=record.id, events_url=url).model_dump_json(),
            status_code=202,
            media_type="application/json",
            headers={"Location": routes.TASK_SHOW.path.format(id=record.id), TASK_ID_HEADER: record.id},
        )

    async def list_all(self, request: Request, query: TaskQuery) -> TaskList:
        self._service.ledger.save_rows()
        rows = await self._service.store.rows(
            limit=query.limit,
            client=None if is_admin(request) else client_of(request),
            states=[query.state] if query.state else (),
        )
        # What the queen holds itself is newer than what is stored, or is not stored at all while the disk is full.
        held = [record.shown() for record in self._service.book.all() if may_see(request, record.row)]
        known = {row.id for row in held}
        wanted = [row for row in held if query.state in (None, row.state)]
        newest = [*wanted, *(row for row in rows if row.id not in known)]
        return TaskList(tasks=sorted(newest, key=lambda row: row.created_at, reverse=True)[: query.limit])

    async def show(self, request: Request, _body: None) -> TaskRow:
        task_id = request.path_params["id"]
        record = self._record(request, task_id)
        return record.shown() if record is not None else await self._past(request, task_id)

    async def events(self, request: Request, _body: None) -> Result:
        task_id, after = request.path_params["id"], last_event_id(request)
        record = self._record(request, task_id)
        if record is None:
            return SseResponse(self._retold(await self._past(request, task_id)))
        reading = TaskReading(self._service, record, after)
        return reading.response(reading.reader.chunks(), {TASK_ID_HEADER: task_id})

    async def cancel(self, request: Request, _body: None) -> None:
        task_id = request.path_params["id"]
        record = self._record(request, task_id)
        if record is None:
            await self._past(request, task_id)
            return
        self._service.stop_task(record, RbeeError(Code.CANCELLED, "the task was cancelled", details={"id": task_id}))

    def _record(self, request: Request, task_id: str) -> TaskRecord | None:
        record = self._service.book.find(task_id)
        if record is not None and not may_see(request, record.row):
            raise task_not_found(task_id)
        return record

    async def _past(self, request: Request, task_id: str) -> TaskRow:
        """A task that is only in the history. Raises RbeeError(TASK_NOT_FOUND)."""
        self._service.ledger.save_rows()
        row = await self._service.store.row(task_id)
        if row is None or not may_see(request, row):
            raise task_not_found(task_id)
        return row

    async def _retold(self, row: TaskRow) -> AsyncIterator[bytes]:
        """What is left of a past task: the text that was kept, and how it ended."""
        text, tokens = await self._service.store.text(row.id)
        if text:
            yield encode_event(EventType.SNAPSHOT.value, TextSnapshot(text=text, index=tokens), 1)
        if row.error is not None:
            yield encode_event(EventType.ERROR.value, row.error, 2)
        elif row.usage is not None and row.timings is not None:
            duration = 1000.0 * ((row.ended_at or 0.0) - (row.started_at or 0.0))
            done = Done(
                total_tokens=row.tokens,
                duration_ms=round(duration, 3),
                finish_reason=FinishReason(row.finish_reason or FinishReason.STOP),
                usage=row.usage,
                timings=row.timings,
            )
            yield encode_event(EventType.DONE.value, done, 2)
        else:
            unknown = RbeeError(Code.QUEEN_RESTARTED, "how the task ended was not kept", details={"id": row.id})
            yield encode_event(EventType.ERROR.value, unknown.as_dict(), 2)


async def taken(record: TaskRecord) -> None:
    """Wait until the queen has taken the task. Raises the RbeeError with which it was refused."""
    await record.decided.wait()
    if record.refusal is not None:
        raise record.refusal


async def attached(service: QueenService, record: TaskRecord) -> Result:
    """The task's stream, once it is taken; closing the connection cancels it."""
    reading = TaskReading(service, record)
    try:
        await taken(record)
    except BaseException:
        reading.end()
        raise
    return reading.response(reading.reader.chunks(), {TASK_ID_HEADER: record.id})
