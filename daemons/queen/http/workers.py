"""Routes of workers: list, health, start, shutdown, over all nodes."""

import asyncio
from collections.abc import Mapping

from starlette.requests import Request

from daemons.contracts import routes
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import Route
from daemons.contracts.workers import (
    ShutdownRequest,
    StartWorkerRequest,
    WorkerHealth,
    WorkerHealthList,
    WorkerHealthQuery,
    WorkerList,
    WorkerRow,
)
from daemons.kit.app import Handler, Result
from daemons.queen.http.callers import client_of
from daemons.queen.http.tasks import attached
from daemons.queen.service import QueenService
from daemons.queen.submissions import Submission


class WorkerHandlers:
    """Handlers over one service."""

    def __init__(self, service: QueenService) -> None:
        self._service = service

    def table(self) -> Mapping[Route, Handler]:
        return {
            routes.WORKER_LIST: self.list_all,
            routes.WORKER_HEALTH: self.health,
            routes.WORKER_START: self.start,
            routes.WORKER_SHUTDOWN: self.shutdown,
        }

    async def list_all(self, _request: Request, _body: None) -> WorkerList:
        await self._service.nodes_settled()
        return WorkerList(workers=self._service.view.worker_rows())

    async def health(self, _request: Request, query: WorkerHealthQuery) -> WorkerHealthList:
        await self._service.nodes_settled()
        if query.node is not None:
            return WorkerHealthList(workers=await self._health_of(self._service.node(query.node).name))
        reachable = [name for name, watcher in self._service.watchers.items() if watcher.connected]
        lists = await asyncio.gather(*(self._health_of(name) for name in reachable))
        return WorkerHealthList(workers=[row for rows in lists for row in rows])

    async def _health_of(self, node: str) -> list[WorkerHealth]:
        """Each worker of a node, asked now by its hive. Raises RbeeError(HIVE_UNREACHABLE)."""
        listed = await self._service.watchers[node].client.get(
            routes.HIVE_WORKER_HEALTH, WorkerHealthList, timeout_s=2 * self._service.policy.http_timeout_s
        )
        return [row.model_copy(update={"node": node}) for row in listed.workers]

    async def start(self, request: Request, body: StartWorkerRequest) -> Result:
        record = self._service.submit(Submission(body, client_of(request), request.scope["request_id"]))
        return await attached(self._service, record)

    async def shutdown(self, _request: Request, body: ShutdownRequest) -> WorkerRow:
        worker = self._service.state.workers.get(body.id)
        if worker is None:
            raise RbeeError(Code.WORKER_NOT_FOUND, f"no worker {body.id!a} on any node", details={"id": body.id})
        gone = await self._service.actions.stop_worker(worker.node, body)
        return gone.public(worker.node)
