"""OpenAI's routes: the same tasks, in the shapes that OpenAI's clients expect."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from daemons.contracts import routes
from daemons.contracts.errors import RbeeError
from daemons.contracts.events import Done, EventType
from daemons.contracts.openai import ChatCompletionRequest, CompletionRequest
from daemons.contracts.routes import Route
from daemons.contracts.tasks import TaskRequest
from daemons.contracts.wire import invalid_fields
from daemons.kit.app import Handler, Result
from daemons.kit.deadline import deadline_of
from daemons.queen import openai
from daemons.queen.http.callers import client_of
from daemons.queen.http.streams import TaskReading
from daemons.queen.http.tasks import taken
from daemons.queen.service import QueenService
from daemons.queen.submissions import Submission

_Rows = AsyncIterator[tuple[str, dict[str, Any]]]
_MEANT_FOR_CLIENTS = frozenset({EventType.TOKEN, EventType.DONE, EventType.ERROR})


class OpenAiHandlers:
    """Handlers over one service."""

    def __init__(self, service: QueenService) -> None:
        self._service = service

    def table(self) -> Mapping[Route, Handler]:
        return {
            routes.OPENAI_MODELS: self.models,
            routes.OPENAI_MODEL: self.model,
            routes.OPENAI_CHAT: self.chat,
            routes.OPENAI_COMPLETIONS: self.completions,
        }

    async def models(self, _request: Request, _body: None) -> Result:
        return openai.model_list(await self._service.models_now(), self._created)

    async def model(self, request: Request, _body: None) -> Result:
        return openai.one_model(await self._service.models_now(), request.path_params["id"], self._created)

    @property
    def _created(self) -> int:
        """When models are said to have been made: nobody knows, so since when this queen serves them."""
        return int(self._service.view.identity.started_at)

    async def chat(self, request: Request, body: ChatCompletionRequest) -> Result:
        return await self._answer(request, body, openai.CHAT)

    async def completions(self, request: Request, body: CompletionRequest) -> Result:
        return await self._answer(request, body, openai.COMPLETION)

    async def _answer(
        self, request: Request, body: ChatCompletionRequest | CompletionRequest, form: openai.Form
    ) -> Result:
        record = self._service.submit(
            Submission(
                as_task(body),
                client_of(request),
                request.scope["request_id"],
                deadline=deadline_of(request.headers, "queen"),
            )
        )
        reading = TaskReading(self._service, record)
        try:
            await taken(record)
            rows = _for_clients(reading.reader.typed())
            shape = openai.Shape(form, record.id, body.model, int(record.row.created_at))
            if not body.stream:
                answer = await reading.unless_gone(request, _whole(rows, shape))
                reading.end()
                return answer
            first = await reading.unless_gone(request, _first(rows))
        except BaseException:
            reading.end()
            raise
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return reading.response(_chunks(first, rows, shape, usage=usage))


def as_task(body: ChatCompletionRequest | CompletionRequest) -> TaskRequest:
    """OpenAI's request as a task. Raises RbeeError(INVALID_REQUEST) for what only rbee's own form checks."""
    try:
        return body.as_task()
    except ValidationError as error:
        raise invalid_fields(error) from None


async def _for_clients(rows: _Rows) -> _Rows:
    """Narration and progress have no place in OpenAI's stream."""
    async for kind, data in rows:
        if kind in _MEANT_FOR_CLIENTS:
            yield kind, data


async def _whole(rows: _Rows, shape: openai.Shape) -> dict[str, Any]:
    """The answer in one piece. Raises the error that the task ended with."""
    text: list[str] = []
    async for kind, data in rows:
        if kind == EventType.TOKEN:
            text.append(data["token"])
        elif kind == EventType.ERROR:
            raise RbeeError.from_dict(data)
        else:
            return shape.whole("".join(text), Done.model_validate(data))
    raise AssertionError("a task's events end with done or error")


async def _first(rows: _Rows) -> tuple[str, dict[str, Any]]:
    """The first event, so that a failure before any text is still an HTTP status."""
    kind, data = await anext(rows)
    if kind == EventType.ERROR:
        raise RbeeError.from_dict(data)
    return kind, data


async def _chunks(
    first: tuple[str, dict[str, Any]], rows: _Rows, shape: openai.Shape, *, usage: bool
) -> AsyncIterator[bytes]:
    yield shape.opening()
    kind, data = first
    while kind == EventType.TOKEN:
        yield shape.delta(data["token"])
        kind, data = await anext(rows)
    if kind == EventType.ERROR:
        yield shape.error(RbeeError.from_dict(data))
    else:
        yield shape.closing(Done.model_validate(data), usage=usage)
