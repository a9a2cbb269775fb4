"""A handler for each of the hive's routes: read the request, ask the service, answer with a wire type."""

import asyncio
import functools
import os
import platform
import socket
from collections.abc import Mapping

from starlette.requests import Request

from daemons import __version__
from daemons.contracts import routes
from daemons.contracts.fleet import Accepted, Capabilities, CapabilitiesQuery, DrainRequest, Health, LogQuery, ModelList
from daemons.contracts.routes import Route
from daemons.contracts.workers import (
    HiveWorker,
    HiveWorkerList,
    ReadyCallback,
    ShutdownRequest,
    SpawnedWorker,
    SpawnRequest,
    WorkerExitList,
    WorkerExitQuery,
    WorkerHealthList,
)
from daemons.hive.logs import LogReader
from daemons.hive.service import HiveService
from daemons.kit.app import Handler, Result, metrics_response
from daemons.kit.deadline import deadline_of
from daemons.kit.logs import get_logger
from daemons.kit.openapi import openapi_document
from daemons.kit.sse import SseResponse


@functools.cache
def _machine() -> tuple[str, str]:
    """(host name, operating system). Blocks: it may read files and start a program."""
    return socket.gethostname(), platform.platform()


class HiveHandlers:
    """The routes of one hive."""

    def __init__(self, service: HiveService) -> None:
        self._service = service
        self._logs = LogReader(service.parts.paths, service.parts.node, service.parts.clock, service.ending)

    def table(self) -> Mapping[Route, Handler]:
        return {
            routes.HIVE_HEALTH: self.health,
            routes.HIVE_HEALTH_V1: self.health,
            routes.HIVE_CAPABILITIES: self.capabilities,
            routes.HIVE_TELEMETRY: self.telemetry,
            routes.HIVE_SPAWN: self.spawn,
            routes.HIVE_READY: self.ready,
            routes.HIVE_WORKER_LIST: self.worker_list,
            routes.HIVE_WORKER_HEALTH: self.worker_health,
            routes.HIVE_WORKER_SHUTDOWN: self.worker_shutdown,
            routes.HIVE_WORKER_EXITS: self.worker_exits,
            routes.HIVE_MODEL_LIST: self.model_list,
            routes.HIVE_LOGS: self.logs,
            routes.HIVE_SHUTDOWN: self.shutdown,
            routes.HIVE_METRICS: self.metrics,
            routes.HIVE_OPENAPI: self.openapi,
        }

    async def health(self, _request: Request, _body: None) -> Health:
        return Health(version=__version__)

    async def capabilities(self, _request: Request, query: CapabilitiesQuery) -> Capabilities:
        service, instruments = self._service, self._service.parts.instruments
        self_test = await instruments.self_test(run=query.self_test)
        await service.measured.wait()
        hostname, system = await asyncio.to_thread(_machine)
        state = service.telemetry()
        devices = state.devices if state else []
        return Capabilities(
            node=service.parts.node,
            version=__version__,
            hostname=hostname,
            platform=system,
            backends=list(dict.fromkeys(device.backend for device in devices)),
            devices=devices,
            worker_runtime=instruments.worker_runtime,
            self_test=self_test,
            pid=os.getpid(),
            started_at=service.started_at,
        )

    async def telemetry(self, _request: Request, _body: None) -> Result:
        return SseResponse(self._service.broadcast.events(), ping_s=self._service.parts.policy.ping_s)

    async def spawn(self, request: Request, body: SpawnRequest) -> SpawnedWorker:
        deadline = deadline_of(request.headers, "hive")
        get_logger().info("a worker is asked for", model=body.model_ref, deadline=deadline)
        return await self._service.spawn(body)

    async def ready(self, request: Request, body: ReadyCallback) -> Accepted:
        await self._service.ready(body, request.scope["bearer"])
        return Accepted()

    async def worker_list(self, _request: Request, _body: None) -> HiveWorkerList:
        return HiveWorkerList(workers=await self._service.workers_asked_now())

    async def worker_health(self, _request: Request, _body: None) -> WorkerHealthList:
        return WorkerHealthList(workers=await self._service.health())

    async def worker_shutdown(self, _request: Request, body: ShutdownRequest) -> HiveWorker:
        return await self._service.stop_worker(body.id, body.drain_s)

    async def worker_exits(self, _request: Request, query: WorkerExitQuery) -> WorkerExitList:
        if query.id is not None:
            return WorkerExitList(exits=[await self._service.exit_of(query.id)])
        return WorkerExitList(exits=await self._service.parts.store.exits(limit=query.limit))

    async def model_list(self, _request: Request, _body: None) -> ModelList:
        loaded = {row.model_ref for row in await self._service.workers() if row.has_process}
        return ModelList(models=await self._service.parts.catalog.rows(loaded))

    async def logs(self, _request: Request, query: LogQuery) -> Result:
        return SseResponse(await self._logs.events(query), ping_s=self._service.parts.policy.ping_s)

    async def shutdown(self, _request: Request, body: DrainRequest) -> Accepted:
        self._service.shut_down(body)
        return Accepted()

    async def metrics(self, _request: Request, _body: None) -> Result:
        return metrics_response(self._service.metrics.registry)

    async def openapi(self, _request: Request, _body: None) -> Result:
        return openapi_document(routes.Daemon.HIVE)
