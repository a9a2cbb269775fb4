"""The whole table of the queen's handlers."""

from collections.abc import Mapping

from daemons.contracts.routes import Route
from daemons.kit.app import Handler
from daemons.queen.http.fleet import FleetHandlers
from daemons.queen.http.openai import OpenAiHandlers
from daemons.queen.http.tasks import TaskHandlers
from daemons.queen.http.workers import WorkerHandlers
from daemons.queen.logs import QueenLogs
from daemons.queen.service import QueenService


def queen_handlers(service: QueenService, logs: QueenLogs) -> Mapping[Route, Handler]:
    """What `build_app` wants."""
    return {
        **TaskHandlers(service).table(),
        **FleetHandlers(service, logs).table(),
        **WorkerHandlers(service).table(),
        **OpenAiHandlers(service).table(),
    }
