"""Log lines: what is there in order of time, then what is appended, through rotation, without gap or double."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import LogQuery
from daemons.hive.clock import SteadyClock
from daemons.hive.logs import LogReader
from daemons.kit.paths import Paths

WORKER = "w-00000001"


def line(at: float, text: str) -> str:
    return json.dumps({"at": at, "level": "info", "source": "x", "text": text}) + "\n"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def ending() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def reader(paths: Paths, ending: asyncio.Event) -> LogReader:
    return LogReader(paths, "local", SteadyClock(), ending)


def parsed(chunk: bytes) -> tuple[str, Any]:
    kind, data = chunk.decode().strip().split("\n")
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def snapshot(reader: LogReader, **query: Any) -> list[str]:
    """Texts of the only event."""
    chunks = [parsed(chunk) async for chunk in await reader.events(LogQuery.model_validate(query))]
    ((kind, data),) = chunks
    assert kind == "snapshot"
    return [row["text"] for row in data["lines"]]


async def test_lines_of_all_sources_in_order_of_time(paths: Paths, reader: LogReader) -> None:
    append(paths.logs / "hive.log", line(10, "first") + line(30, "third"))
    append(paths.logs / f"{WORKER}.log", line(20, "second"))
    append(paths.logs / f"{WORKER}.out", "printed\n")
    assert await snapshot(reader) == ["first", "second", "third"]
    assert await snapshot(reader, tail="2") == ["second", "third"]


async def test_one_worker_with_what_it_printed(paths: Paths, reader: LogReader) -> None:
    append(paths.logs / "hive.log", line(10, "of the hive"))
    append(paths.logs / f"{WORKER}.log", line(20, "told"))
    append(paths.logs / f"{WORKER}.out", "printed\n")
    assert await snapshot(reader, worker=WORKER) == ["printed", "told"]


async def test_only_what_is_recent(paths: Paths, reader: LogReader) -> None:
    now = SteadyClock().now()
    append(paths.logs / "hive.log", line(now - 100, "old") + line(now - 1, "new"))
    assert await snapshot(reader, since_s="50") == ["new"]


@pytest.mark.parametrize("worker", ["w-0000ffff", "../home", "hive", "w-00000001.log"])
async def test_workers_without_logs(reader: LogReader, paths: Paths, worker: str) -> None:
    append(paths.logs / "hive.log", line(1, "x"))
    with pytest.raises(RbeeError) as failure:
        await reader.events(LogQuery(worker=worker))
    assert failure.value.code is Code.WORKER_NOT_FOUND


async def test_following_tells_each_further_line_once(paths: Paths, reader: LogReader) -> None:
    path = paths.logs / "hive.log"
    append(path, line(1, "there"))
    events = await reader.events(LogQuery(follow=True))
    kind, data = parsed(await anext(events))
    assert (kind, [row["text"] for row in data["lines"]]) == ("snapshot", ["there"])
    append(path, line(2, "appended"))
    assert await next_text(events) == ("log", "appended")
    append(path, line(3, "before the rotation"))
    path.rename(path.with_name("hive.log.1"))
    append(path, line(4, "after it"))
    assert await next_text(events) == ("log", "before the rotation")
    assert await next_text(events) == ("log", "after it")
    append(paths.logs / f"{WORKER}.log", line(5, "a new source"))
    assert await next_text(events) == ("log", "a new source")


async def test_a_stream_that_follows_ends_with_the_hive(paths: Paths, reader: LogReader, ending: asyncio.Event) -> None:
    append(paths.logs / "hive.log", line(1, "there"))
    events = await reader.events(LogQuery(follow=True))
    await anext(events)
    following = asyncio.ensure_future(anext(events, None))
    await asyncio.sleep(0)
    ending.set()
    assert await asyncio.wait_for(following, 5.0) is None


async def next_text(events: AsyncIterator[bytes]) -> tuple[str, str]:
    kind, data = parsed(await asyncio.wait_for(anext(events), 10.0))
    return kind, data["text"]
