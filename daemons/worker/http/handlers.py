"""One handler for each route of the worker."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import Request

import daemons
from daemons.contracts import routes
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import Accepted, DrainRequest, Health
from daemons.contracts.ids import new_id
from daemons.contracts.inference import DetokenizeRequest, EmbeddingsRequest, InferenceRequest, TokenizeRequest
from daemons.contracts.workers import Ready, WorkerStats
from daemons.kit.app import Handler, Result, metrics_response
from daemons.kit.deadline import deadline_of
from daemons.kit.logs import get_logger
from daemons.kit.openapi import openapi_document
from daemons.kit.sse import SseResponse
from daemons.worker.bridge import Bridge, Ticket
from daemons.worker.engine.request import Embedded, EmbedRequest, Failed, GenerateRequest
from daemons.worker.requests import on_engine_clock
from daemons.worker.service import WorkerService
from daemons.worker.stream import error_of, generation_chunks, loading_chunks

OutcomeT = TypeVar("OutcomeT")

LARGE = 16_384
"""Bytes of a request, or tokens, from which reading them leaves the event loop: about a millisecond of work."""


def worker_handlers(service: WorkerService, bridge: Bridge) -> Mapping[routes.Route, Handler]:
    """The table of handlers that `build_app` wants."""
    handlers = WorkerHandlers(service, bridge)
    return {
        routes.WORKER_ALIVE: handlers.alive,
        routes.WORKER_READY: handlers.ready,
        routes.WORKER_PROGRESS: handlers.loading_progress,
        routes.WORKER_INFER: handlers.infer,
        routes.WORKER_CANCEL: handlers.cancel,
        routes.WORKER_TOKENIZE: handlers.tokenize,
        routes.WORKER_DETOKENIZE: handlers.detokenize,
        routes.WORKER_EMBED: handlers.embed,
        routes.WORKER_STATS: handlers.stats,
        routes.WORKER_END: handlers.shutdown,
        routes.WORKER_METRICS: handlers.metrics,
        routes.WORKER_OPENAPI: handlers.openapi,
    }


class WorkerHandlers:
    """Handlers over one bridge; all state is the bridge's."""

    def __init__(self, service: WorkerService, bridge: Bridge) -> None:
        self._service = service
        self._bridge = bridge

    async def alive(self, _request: Request, _body: None) -> Result:
        return Health(version=daemons.__version__)

    async def ready(self, _request: Request, _body: None) -> Result:
        self._service.hive_was_here()
        loaded = self._bridge.loaded
        return Ready(
            ready=loaded and not self._service.draining,
            state=self._bridge.state,
            model_loaded=loaded,
            progress_url=None if loaded else routes.WORKER_PROGRESS.path,
        )

    async def loading_progress(self, _request: Request, _body: None) -> Result:
        self._service.hive_was_here()
        return SseResponse(loading_chunks(self._bridge))

    async def infer(self, request: Request, body: InferenceRequest) -> Result:
        deadline = deadline_of(request.headers, "worker")
        engine_request = await self._read(body, deadline, large=_is_large(request))
        ticket = self._bridge.submit(engine_request)
        await self._while_connected(request, ticket, self._started(ticket))
        get_logger().info("generating", id=body.id, prompt_tokens=len(engine_request.tokens), deadline=deadline)
        return SseResponse(generation_chunks(self._bridge, ticket, request.scope["request_id"]))

    async def cancel(self, request: Request, _body: None) -> Result:
        id = request.path_params["id"]
        if not self._bridge.cancel(id):
            raise RbeeError(Code.TASK_NOT_FOUND, f"no request {id!r} was seen here", details={"id": id})
        get_logger().info("cancel asked for", id=id)
        return None

    async def tokenize(self, _request: Request, body: TokenizeRequest) -> Result:
        reader = self._bridge.reader()
        tokens = await asyncio.to_thread(reader.tokenize, body.text, add_special=body.add_special)
        return {"tokens": tokens}

    async def detokenize(self, _request: Request, body: DetokenizeRequest) -> Result:
        reader = self._bridge.reader()
        if len(body.tokens) < LARGE:
            return {"text": reader.detokenize(body.tokens)}
        return {"text": await asyncio.to_thread(reader.detokenize, body.tokens)}

    async def embed(self, request: Request, body: EmbeddingsRequest) -> Result:
        reader = self._bridge.reader()
        deadline = deadline_of(request.headers, "worker")
        inputs = await asyncio.to_thread(
            lambda: tuple(tuple(reader.tokenize(text, add_special=True)) for text in body.input)
        )
        ticket = self._bridge.submit(EmbedRequest(id=new_id("emb"), inputs=inputs, deadline=on_engine_clock(deadline)))
        event = await self._while_connected(request, ticket, self._last(ticket))
        return {"embeddings": event.vectors, "tokens": event.tokens}

    async def stats(self, _request: Request, _body: None) -> Result:
        self._service.hive_was_here()
        bridge = self._bridge
        info = bridge.backend.info if bridge.loaded else None
        return WorkerStats(
            id=self._service.settings.worker_id,
            state=bridge.state,
            slots_total=bridge.slots,
            slots_available=bridge.slots - bridge.slots_busy,
            ctx=info.ctx if info else self._service.settings.ctx,
            kv_cells_used=bridge.kv_used,
            kv_cells_total=info.cells if info else 0,
            requests_total=bridge.requests_total,
            tokens_generated_total=bridge.rate.total,
            tokens_per_second=round(bridge.rate.per_second, 3),
            last_active_at=bridge.last_active_at,
            progress=bridge.progress,
        )

    async def shutdown(self, _request: Request, body: DrainRequest) -> Result:
        self._service.end(body.drain_s)
        return Accepted()

    async def metrics(self, _request: Request, _body: None) -> Result:
        bridge, metrics = self._bridge, self._bridge.metrics
        metrics.slots.labels("busy").set(bridge.slots_busy)
        metrics.slots.labels("free").set(bridge.slots - bridge.slots_busy)
        cells = bridge.backend.info.cells if bridge.loaded else 0
        metrics.kv_cells.labels("used").set(bridge.kv_used)
        metrics.kv_cells.labels("free").set(cells - bridge.kv_used)
        return metrics_response(metrics.registry)

    async def openapi(self, _request: Request, _body: None) -> Result:
        return openapi_document(routes.Daemon.WORKER)

    async def _read(self, body: InferenceRequest, deadline: float | None, *, large: bool) -> GenerateRequest:
        """Large requests are rendered and tokenized beside the loop, so that the streams of others go on."""
        reader = self._bridge.reader()
        if not large and body.response_format is None:
            return reader.read(body, deadline=deadline)
        return await asyncio.to_thread(reader.read, body, deadline=deadline)

    async def _while_connected(
        self, request: Request, ticket: Ticket, outcome: Coroutine[Any, Any, OutcomeT]
    ) -> OutcomeT:
        """Wait for something of a request, and cancel the request when its client leaves meanwhile."""
        waiting, leaving = asyncio.ensure_future(outcome), asyncio.ensure_future(_until_gone(request))
        try:
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            raise RbeeError(Code.CANCELLED, "the client is gone")
        finally:
            if not waiting.done():
                self._bridge.cancel(ticket.id)
            waiting.cancel()
            leaving.cancel()

    async def _started(self, ticket: Ticket) -> None:
        """Wait until the engine has taken the request, so that a refusal is an HTTP status and not an event."""
        events = await ticket.take()
        first = events[0]
        if isinstance(first, Failed):
            raise error_of(first)
        ticket.waiting[:0] = events

    async def _last(self, ticket: Ticket) -> Embedded:
        while True:
            for event in await ticket.take():
                if isinstance(event, Failed):
                    raise error_of(event)
                if isinstance(event, Embedded):
                    return event


def _is_large(request: Request) -> bool:
    """By what the client said of its body; one that came in chunks may be of any size."""
    length = request.headers.get("content-length", "")
    return not length.isdecimal() or int(length) >= LARGE


async def _until_gone(request: Request) -> None:
    """Returns when the client has closed its connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
