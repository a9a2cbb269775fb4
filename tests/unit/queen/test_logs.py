"""Log lines of the queen and of its hives, merged and followed."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import LogLine, LogLines, LogQuery
from daemons.contracts.routes import LOGS
from daemons.queen.logs import QueenLogs
from tests.support.queen_harness import QueenUnderTest, queen_and_hive, until


def _own(folder: Path, *lines: tuple[float, str]) -> None:
    with (folder / "queen.log").open("a") as file:
        for at, text in lines:
            file.write(json.dumps({"at": at, "level": "info", "source": "queen", "text": text}) + "\n")


def _line(at: float, text: str, source: str = "hive") -> LogLine:
    return LogLine(node="whatever", source=source, at=at, level="info", text=text)


async def _texts(queen: QueenUnderTest, **query: object) -> list[str]:
    return [line.text for line in (await queen.admin.get(LOGS, LogLines, query=query)).lines]


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
        seen: list[str] = []

        async def follow() -> None:
            async with queen.admin.stream(LOGS, query={"follow": "true"}) as events:
                async for event in events:
                    if event.type == "snapshot":
                        seen.extend(line["text"] for line in event.data["lines"])
                    else:
                        seen.append(event.data["text"])

        following = asyncio.create_task(follow())
        await until(lambda: seen == ["one", "two"])
        await asyncio.to_thread(_own, tmp_path, (3.0, "three"))
        await until(lambda: seen[2:] == ["three"])
        hive.lines = [*hive.lines, _line(4.0, "four")]
        await until(lambda: seen[3:] == ["four"])
        await asyncio.to_thread((tmp_path / "queen.log").rename, tmp_path / "queen.log.1")
        await asyncio.to_thread(_own, tmp_path, (5.0, "five"))
        await until(lambda: seen[4:] == ["five"])
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


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
        async with queen.admin.stream(LOGS, query={"follow": "true"}) as events, asyncio.timeout(3):
            async for event in events:
                lines = event.data["lines"] if event.type == "snapshot" else [event.data]
                seen += [line["text"] for line in lines]
                if seen[-1] == "between":
                    hive.lines = [*hive.lines, _line(4.0, "last")]
                if seen[-1] == "last":
                    break
        assert seen == ["two", "between", "last"]


async def test_an_unreadable_line_does_not_end_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_on, failures = QueenLogs._read_on, [ValueError("not a line")]

    async def reading_on(self: QueenLogs, *arguments: Any) -> None:
        if failures:
            raise failures.pop()
        await read_on(self, *arguments)

    monkeypatch.setattr(QueenLogs, "_read_on", reading_on)
    async with queen_and_hive(tmp_path) as (queen, hive):
        following = queen.admin.stream(LOGS, query={"follow": "true"})
        async with following as events, asyncio.timeout(3):
            hive.lines = [_line(4.0, "after")]
            async for event in events:
                if event.type == "log" and event.data["text"] == "after":
                    break
