"""Log lines: from the queen, followed, or from this machine's own files when no queen runs."""

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import LogLine, LogQuery
from daemons.kit.paths import Paths
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.logs import follow_logs, parse_since, read_local_logs, read_logs
from rbee_tui.keeper.session import connect
from tests.support.fake_queen import FakeQueen
from tests.unit.keeper.conftest import Heard


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86_400), ("1.5m", 90)]
)
def test_time_spans(text: str, seconds: float) -> None:
    assert parse_since(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "10 m", "10w", "ten", "1e3", "٣m"])
def test_what_is_no_time_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no time span"):
        parse_since(text)


def line(text: str, at: float = 1.0) -> LogLine:
    return LogLine(node="local", source="queen", at=at, level="info", text=text)


async def test_lines_come_from_the_queen_with_the_query_as_it_was_meant(
    installed: Installation, queen: FakeQueen
) -> None:
    queen.lines = [line("a"), line("b")]
    query = LogQuery(node="local", since_s=600.0, tail=5)
    async with await connect(installed, Heard()) as session:
        assert await read_logs(session, query) == queen.lines
    assert queen.queries == [query]


async def test_following_tells_what_is_there_and_then_each_new_line_until_it_is_cancelled(
    installed: Installation, queen: FakeQueen
) -> None:
    queen.lines = [line("old"), line("new"), line("newer")]
    lines: list[LogLine] = []
    enough = asyncio.Event()

    def on_line(told: LogLine) -> None:
        lines.append(told)
        if len(lines) == 3:
            enough.set()

    async with await connect(installed, Heard()) as session:
        following = asyncio.create_task(follow_logs(session, LogQuery(follow=True), on_line))
        await asyncio.wait_for(enough.wait(), 5)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
    assert lines == queen.lines
    assert await asyncio.to_thread(queen.closed_early.wait, 2)


class TestLocalFiles:
    """What is left to read when no queen runs."""

    @pytest.fixture
    def paths(self, tmp_path: Path) -> Paths:
        paths = Paths(tmp_path, tmp_path / "models", tmp_path / "config.toml")
        paths.create()
        return paths

    @staticmethod
    def write(paths: Paths, name: str, *lines: str, at: float | None = None) -> None:
        file = paths.logs / name
        file.write_text("".join(f"{text}\n" for text in lines))
        if at is not None:
            os.utime(file, (at, at))

    @staticmethod
    def row(at: float, text: str) -> str:
        return json.dumps({"at": at, "level": "info", "source": "x", "text": text})

    def test_lines_of_all_files_are_in_the_order_of_time(self, paths: Paths) -> None:
        now = time.time()
        self.write(paths, "queen.log", self.row(now - 9, "q1"), self.row(now - 3, "q2"))
        self.write(paths, "hive.log", self.row(now - 6, "h1"))
        self.write(paths, "queen.out", "Traceback", "ModuleNotFoundError", at=now - 1)
        lines = read_local_logs(paths, LogQuery(tail=0))
        assert [(row.source, row.text) for row in lines] == [
            ("queen", "q1"), ("hive", "h1"), ("queen", "q2"), ("queen", "Traceback"), ("queen", "ModuleNotFoundError"),
        ]  # fmt: skip
        assert [row.text for row in read_local_logs(paths, LogQuery(tail=2))] == ["Traceback", "ModuleNotFoundError"]

    def test_since_leaves_out_what_is_older(self, paths: Paths) -> None:
        now = time.time()
        self.write(paths, "queen.log", self.row(now - 900, "old"), self.row(now - 3, "new"))
        self.write(paths, "hive.out", "old too", at=now - 900)
        assert [row.text for row in read_local_logs(paths, LogQuery(since_s=600.0))] == ["new"]

    def test_one_worker_has_its_own_files(self, paths: Paths) -> None:
        self.write(paths, "w-0000000a.log", self.row(1.0, "loaded"))
        self.write(paths, "w-0000000b.log", self.row(1.0, "other"))
        assert [row.text for row in read_local_logs(paths, LogQuery(worker="w-0000000a"))] == ["loaded"]

    def test_an_unknown_worker_is_named(self, paths: Paths) -> None:
        with pytest.raises(RbeeError, match="no log of a worker w-0000000c") as raised:
            read_local_logs(paths, LogQuery(worker="w-0000000c"))
        assert raised.value.code is Code.WORKER_NOT_FOUND

    def test_a_worker_name_reads_no_other_file(self, paths: Paths) -> None:
        (paths.home / "secret.log").write_text("secret\n")
        with pytest.raises(RbeeError):
            read_local_logs(paths, LogQuery(worker="../secret"))

    def test_another_node_needs_a_queen(self, paths: Paths) -> None:
        with pytest.raises(RbeeError, match="only logs of the node local") as raised:
            read_local_logs(paths, LogQuery(node="box"))
        assert (raised.value.code, raised.value.hint) == (Code.NODE_NOT_FOUND, "rbee queen start")

    def test_before_the_first_start_there_is_nothing(self, tmp_path: Path) -> None:
        assert read_local_logs(Paths(tmp_path / "no", tmp_path, tmp_path), LogQuery()) == []
