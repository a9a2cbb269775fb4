"""Log lines of queen, hives and workers: from the queen, or from this machine's files when no queen runs."""

import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType
from daemons.contracts.fleet import LogLine, LogLines, LogQuery
from daemons.contracts.ids import LOCAL_NODE
from daemons.contracts.routes import LOGS
from daemons.kit.client import Event, error_in
from daemons.kit.logs import read_log
from daemons.kit.paths import Paths
from rbee_tui.keeper.session import QueenSession, read_event

OnLine = Callable[[LogLine], None]

_SINCE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_since(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``10m``, ``2h`` or ``1d``. Raises ValueError."""
    match = _SINCE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time span; write 90s, 10m, 2h or 1d")
    return float(match[1]) * _SECONDS[match[2]]


async def read_logs(session: QueenSession, query: LogQuery) -> list[LogLine]:
    """The lines there are now, oldest first. Raises RbeeError(NODE_NOT_FOUND) or WORKER_NOT_FOUND."""
    return (await session.get(LOGS, LogLines, query=query)).lines


async def follow_logs(session: QueenSession, query: LogQuery, on_line: OnLine) -> None:
    """Tell each line as it is written, beginning with those there are; ends only by cancellation or RbeeError."""
    async with session.stream(LOGS, query=query, silence_s=3 * session.policy.ping_s) as events:
        async for line in _lines_of(events):
            on_line(line)
    raise RbeeError(Code.UPSTREAM_LOST, f"the log stream of {session.name} ended")


async def _lines_of(events: AsyncIterator[Event]) -> AsyncIterator[LogLine]:
    async for event in events:
        if event.type == EventType.LOG:
            yield read_event(event, LogLine)
        elif event.type == EventType.SNAPSHOT:
            for line in read_event(event, LogLines).lines:
                yield line
        elif failure := error_in(event):
            raise failure


def read_local_logs(paths: Paths, query: LogQuery) -> list[LogLine]:
    """As `read_logs`, from the files of this machine: what is left to read when no queen runs.

    Raises RbeeError(NODE_NOT_FOUND) for a node elsewhere, WORKER_NOT_FOUND for a worker without a log here.
    """
    if query.node not in (None, LOCAL_NODE):
        raise RbeeError(
            Code.NODE_NOT_FOUND,
            f"no queen runs, so only logs of the node {LOCAL_NODE} can be read, not of {query.node!r}",
            hint="rbee queen start",
        )
    since = time.time() - query.since_s if query.since_s is not None else 0.0
    files = sorted(_log_files(paths.logs, query.worker))
    if query.worker is not None and not files:
        raise RbeeError(Code.WORKER_NOT_FOUND, f"no log of a worker {query.worker} in {paths.logs}")
    stamped = [row for file in files for row in _stamped(file, since)]
    stamped.sort(key=lambda row: row[0])
    lines = [line for _, line in stamped]
    return lines[-query.tail :] if query.tail else lines


def _log_files(folder: Path, worker: str | None) -> Iterator[Path]:
    """Structured logs, and what programs wrote on their stdout and stderr."""
    for file in folder.glob("*.log"):
        if worker is None or file.stem == worker:
            yield file
    for file in folder.glob("*.out"):
        if worker is None or file.stem == worker:
            yield file


def _stamped(file: Path, since: float) -> Iterator[tuple[float, LogLine]]:
    """Lines with the time they are sorted by: a line without one goes with the time its file was last written."""
    written = file.stat().st_mtime
    if written < since:
        return
    for line in read_log(file, LOCAL_NODE, file.stem, since=since):
        yield line.at or written, line
