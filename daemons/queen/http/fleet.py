"""Routes of the queen itself and of the fleet as a whole."""

from collections.abc import Mapping

from starlette.requests import Request

from daemons import __version__
from daemons.contracts import routes
from daemons.contracts.fleet import (
    Accepted,
    DrainRequest,
    FleetSnapshot,
    Health,
    LogQuery,
    ModelList,
    NodeList,
)
from daemons.contracts.routes import Route
from daemons.kit.app import Handler, Result, metrics_response
from daemons.kit.openapi import openapi_document
from daemons.kit.sse import SseResponse
from daemons.queen.logs import QueenLogs
from daemons.queen.service import QueenService


class FleetHandlers:
    """Handlers over one service."""

    def __init__(self, service: QueenService, logs: QueenLogs) -> None:
        self._service = service
        self._logs = logs

    def table(self) -> Mapping[Route, Handler]:
        return {
            routes.QUEEN_HEALTH: self.health,
            routes.FLEET: self.fleet,
            routes.FLEET_EVENTS: self.fleet_events,
            routes.NODE_LIST: self.nodes,
            routes.MODEL_LIST: self.models,
            routes.LOGS: self.logs,
            routes.QUEEN_SHUTDOWN: self.shutdown,
            routes.QUEEN_METRICS: self.metrics,
            routes.QUEEN_OPENAPI: self.openapi,
        }

    async def health(self, _request: Request, _body: None) -> Health:
        return Health(version=__version__)

    async def fleet(self, _request: Request, _body: None) -> FleetSnapshot:
        return self._service.view.snapshot()

    async def fleet_events(self, _request: Request, _body: None) -> Result:
        return SseResponse(self._service.feed.events(), ping_s=self._service.policy.ping_s)

    async def nodes(self, _request: Request, _body: None) -> NodeList:
        await self._service.nodes_settled()
        return NodeList(nodes=self._service.view.node_rows())

    async def models(self, _request: Request, _body: None) -> ModelList:
        return ModelList(models=await self._service.models_now())

    async def logs(self, _request: Request, query: LogQuery) -> Result:
        if not query.follow:
            return await self._logs.read(query)
        return SseResponse(await self._logs.follow(query), ping_s=self._service.policy.ping_s)

    async def shutdown(self, _request: Request, body: DrainRequest) -> Accepted:
        self._service.shut_down(body)
        return Accepted()

    async def metrics(self, _request: Request, _body: None) -> Result:
        return metrics_response(self._service.metrics.registry)

    async def openapi(self, _request: Request, _body: None) -> Result:
        return openapi_document(routes.Daemon.QUEEN)
