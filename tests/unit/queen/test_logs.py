"""Log lines of the queen and of its hives, merged and followed."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import LogLine, LogLines, LogQuery
from daemons.contracts.routes import LOGS
from daemons.queen.logs import LOOK_EACH_S, QueenLogs
from tests.support.fake_hive import FakeHive
from tests.support.queen_harness import QueenUnderTest, queen_and_hive, running_queen, until


def _own(folder: Path, *lines: tuple[float, str]) -> None:
    _write(folder / "queen.log", *lines)


def _write(path: Path, *lines: tuple[float, str]) -> None:
    with path.open("a") as file:
        for at, text in lines:
            file.write(json.dumps({"at": at, "level": "info", "source": "queen", "text": text}) + "\n")


def _line(at: float, text: str, source: str = "hive") -> LogLine:
    return LogLine(node="whatever", source=source, at=at, level="info", text=text)


async def _texts(queen: QueenUnderTest, **query: object) -> list[str]:
    return [line.text for line in (await queen.admin.get(LOGS, LogLines, query=query)).lines]


@asynccontextmanager
async def _follow(queen: QueenUnderTest, **query: object) -> AsyncIterator[list[str]]:
    """Texts that a follower is told, from when it has been told what there is."""
    seen: list[str] = []
    begun = asyncio.Event()

    async def follow() -> None:
        async with queen.admin.stream(LOGS, query={"follow": "true", **query}) as events:
            async for event in events:
                lines = event.data["lines"] if event.type == "snapshot" else [event.data]
                seen.extend(line["text"] for line in lines)
                begun.set()

    following = asyncio.create_task(follow())
    try:
        await asyncio.wait_for(begun.wait(), 5)
        yield seen
        assert not following.done()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_lines_of_queen_and_hive_are_merged_by_time(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        await asyncio.to_thread(_own, tmp_path, (1.0, "one"), (3.0, "three"))
        hive.lines = [_line(2.0, "two"), _line(4.0, "four", "w-00000001")]
        assert await _texts(queen) == ["one", "two", "three", "four"]
        assert await _texts(queen, tail=2) == ["three", "four"]
        assert await _texts(queen, node="local") == ["two", "four"]
        lines = (await queen.admin.get(LOGS, LogLines)).lines
        assert {(line.node, line.source) for line in lines} == {
            ("local", "queen"),
            ("local", "hive"),
            ("local", "w-00000001"),
        }


async def test_since_counts_back_from_now(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        await asyncio.to_thread(_own, tmp_path, (time.time() - 100, "old"), (time.time() - 1, "new"))
        assert await _texts(queen, since_s=10) == ["new"]


async def test_an_unknown_node_is_refused(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        for query in ({"node": "mars"}, {"node": "mars", "follow": "true"}):
            with pytest.raises(RbeeError) as caught:
                await queen.admin.call(LOGS, query=query)
            assert caught.value.code is Code.NODE_NOT_FOUND


async def test_following_begins_with_a_snapshot_and_tells_each_further_line_once(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        await asyncio.to_thread(_own, tmp_path, (1.0, "one"))
        hive.lines = [_line(2.0, "two")]
        async with _follow(queen) as seen:
            assert seen == ["one", "two"]
            await asyncio.to_thread(_own, tmp_path, (3.0, "three"))
            await until(lambda: seen[2:] == ["three"])
            hive.lines = [*hive.lines, _line(4.0, "four")]
            await until(lambda: seen[3:] == ["four"])
            await asyncio.to_thread((tmp_path / "queen.log").rename, tmp_path / "queen.log.1")
            await asyncio.to_thread(_own, tmp_path, (5.0, "five"))
            await until(lambda: seen[4:] == ["five"])


async def test_following_ends_with_the_queen(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, _hive):
        ended = asyncio.Event()

        async def follow() -> None:
            async with queen.admin.stream(LOGS, query={"follow": "true"}) as events:
                async for _ in events:
                    pass
            ended.set()

        following = asyncio.create_task(follow())
        await asyncio.sleep(0.2)
        queen.service.stop()
        await asyncio.wait_for(ended.wait(), 3)
        await following


async def test_a_line_written_while_the_following_begins_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = QueenLogs.read
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.lines = [_line(1.0, "dropped by the tail"), _line(2.0, "two")]

        async def reading(self: QueenLogs, query: LogQuery) -> LogLines:
            found = await read(self, query)
            hive.lines = [*hive.lines, _line(3.0, "between")]
            return LogLines(lines=[line for line in found.lines if line.at >= 2.0])

        monkeypatch.setattr(QueenLogs, "read", reading)
        seen: list[str] = []
        async with queen.admin.stream(LOGS, query={"follow": "true", "tail": 1}) as events, asyncio.timeout(3):
            async for event in events:
                lines = event.data["lines"] if event.type == "snapshot" else [event.data]
                seen += [line["text"] for line in lines]
                if seen[-1] == "between":
                    hive.lines = [*hive.lines, _line(4.0, "last")]
                if seen[-1] == "last":
                    break
        assert seen == ["two", "between", "last"]


@pytest.mark.parametrize("method", ["_follow_hive", "_follow_files"])
async def test_a_failure_does_not_end_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    follow, failures = getattr(QueenLogs, method), [OSError(5, "Input/output error"), ValueError("not a line")]

    async def failing(self: QueenLogs, *arguments: Any) -> None:
        if failures:
            raise failures.pop()
        await follow(self, *arguments)

    monkeypatch.setattr(QueenLogs, method, failing)
    async with queen_and_hive(tmp_path) as (queen, hive), _follow(queen) as seen:
        hive.lines = [_line(4.0, "of the hive")]
        await asyncio.to_thread(_own, tmp_path, (5.0, "of the queen"))
        await until(lambda: sorted(seen) == ["of the hive", "of the queen"])
        assert not failures


async def test_an_own_log_that_cannot_be_read_for_a_while_is_followed_on(tmp_path: Path) -> None:
    path = tmp_path / "queen.log"
    async with running_queen(tmp_path, {}) as queen:
        await asyncio.to_thread(_own, tmp_path, (1.0, "one"))
        async with _follow(queen) as seen:
            await until(lambda: seen == ["one"])
            await asyncio.to_thread(path.rename, tmp_path / "queen.log.1")
            await asyncio.to_thread(path.mkdir)  # opening it fails, for root as well
            await asyncio.sleep(2 * LOOK_EACH_S)
            await asyncio.to_thread(path.rmdir)
            await asyncio.to_thread(_own, tmp_path, (2.0, "two"))
            await until(lambda: seen == ["one", "two"])


async def test_following_that_ends_leaves_no_task(tmp_path: Path) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
    before = asyncio.all_tasks()
    for _ in range(3):
        events = await QueenLogs(tmp_path / "queen.log", {}, asyncio.Event()).follow(LogQuery(follow=True))
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]
        del events, waiting
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    gc.collect()
    assert [fault["message"] for fault in faults] == []


@pytest.mark.parametrize("name", ["local", "mars"])
async def test_a_node_that_connects_later_joins_and_one_that_was_lost_joins_again_without_repeating(
    tmp_path: Path, name: str
) -> None:
    began = time.time()
    async with (
        FakeHive(started=False, startable=False).serving() as hive,
        running_queen(tmp_path, {name: hive}, start_hives=False) as queen,
        _follow(queen) as seen,
    ):
        hive.lines = [_line(began, "one"), _line(began + 0.001, "two", "w-00000001")]
        hive.started = True
        await until(lambda: seen == ["one", "two"])
        for number, text in enumerate(("three", "four")):
            hive.die()
            await until(lambda: not queen.service.watchers[name].connected)
            hive.lines = [*hive.lines, _line(began + 1 + number, text)]
            hive.started = True
            await until(lambda text=text: seen[-1] == text)  # type: ignore[misc]
        hive.lines = [*hive.lines, _line(began + 5, "five")]
        await until(lambda: seen[-1] == "five")
        assert seen == ["one", "two", "three", "four", "five"]


async def test_what_the_tail_left_out_is_not_told_by_a_node_that_joins_later(tmp_path: Path) -> None:
    async with (
        FakeHive(started=False, startable=False).serving() as hive,
        running_queen(tmp_path, {"mars": hive}, start_hives=False) as queen,
    ):
        await asyncio.to_thread(_own, tmp_path, (1.0, "one"), (3.0, "three"), (5.0, "five"))
        async with _follow(queen, tail=2) as seen:
            await until(lambda: seen == ["three", "five"])
            hive.lines = [_line(2.0, "two"), _line(4.0, "four")]
            hive.started = True
            await until(lambda: seen == ["three", "five", "four"])


async def test_files_of_this_machine_are_read_while_its_hive_is_away(tmp_path: Path) -> None:
    async with (
        FakeHive(started=False, startable=False).serving() as hive,
        running_queen(tmp_path, {"local": hive}, start_hives=False) as queen,
    ):
        await asyncio.to_thread(_own, tmp_path, (2.0, "of the queen"))
        await asyncio.to_thread(_write, tmp_path / "hive.log", (1.0, "of the hive"))
        await asyncio.to_thread(_write, tmp_path / "w-00000001.log", (3.0, "of the worker"))
        assert await _texts(queen) == ["of the hive", "of the queen", "of the worker"]
        assert await _texts(queen, node="local", tail=1) == ["of the worker"]
        assert await _texts(queen, worker="w-00000001") == ["of the worker"]
        for worker in ("w-0000ffff", "hive", "../logs/hive"):
            with pytest.raises(RbeeError) as caught:
                await queen.admin.call(LOGS, query={"worker": worker})
            assert caught.value.code is Code.WORKER_NOT_FOUND


async def test_a_named_node_elsewhere_whose_hive_is_away_is_told_of(tmp_path: Path) -> None:
    async with (
        FakeHive(started=False, startable=False).serving() as hive,
        running_queen(tmp_path, {"mars": hive}, start_hives=False) as queen,
    ):
        assert await _texts(queen) == []
        with pytest.raises(RbeeError) as caught:
            await queen.admin.call(LOGS, query={"node": "mars"})
        assert caught.value.code is Code.HIVE_UNREACHABLE


async def test_following_goes_from_the_files_to_the_hive_and_back(tmp_path: Path) -> None:
    began, path = time.time(), tmp_path / "hive.log"
    async with (
        FakeHive(started=False, startable=False).serving() as hive,
        running_queen(tmp_path, {"local": hive}, start_hives=False) as queen,
    ):
        await asyncio.to_thread(_write, path, (began, "one"))
        async with _follow(queen) as seen:
            await until(lambda: seen == ["one"])
            await asyncio.to_thread(_write, path, (began + 1, "two"))
            await until(lambda: seen == ["one", "two"])
            hive.lines = [_line(began + at, text) for at, text in ((0, "one"), (1, "two"), (2, "three"))]
            hive.started = True
            await until(lambda: seen[2:] == ["three"])
            await asyncio.to_thread(_write, path, (began + 2, "three"), (began + 3, "last words"))
            hive.die()
            await until(lambda: seen[3:] == ["last words"])
            await asyncio.to_thread(_write, path, (began + 4, "of its next start"))
            await until(lambda: seen[4:] == ["of its next start"])
