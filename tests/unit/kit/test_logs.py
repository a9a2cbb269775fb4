"""Logs: one JSON object per line, private, rotated, and readable again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from daemons.kit.logs import parse_log_line, read_log
from tests.support.small_disk import small_disk

WRITER = """
import logging, sys
from pathlib import Path
from daemons.kit.logs import bind_request_id, configure_logs, get_logger
from daemons.kit.settings import LogSettings
configure_logs("hive", Path(sys.argv[1]), LogSettings(max_bytes=4096, keep=2))
bind_request_id("req-1")
for number in range(int(sys.argv[2])):
    get_logger().info("line", number=number, evil="a\\nb\\x1b[31m")
logging.getLogger("library").warning("from a library")
get_logger().debug("not at this level")
try:
    1 / 0
except ZeroDivisionError:
    get_logger().exception("broke")
    logging.getLogger("library").exception("broke, too")
"""


def write(path: Path, count: int) -> None:
    subprocess.run([sys.executable, "-c", WRITER, str(path), str(count)], check=True, timeout=30)


def test_lines_are_json_with_the_request_id_and_complete_at_exit(tmp_path: Path) -> None:
    path = tmp_path / "hive.log"
    write(path, 2)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["text"] for row in rows] == ["line", "line", "from a library", "broke", "broke, too"]
    assert rows[0]["request_id"] == "req-1"
    assert rows[0]["source"] == "hive"
    assert rows[2]["source"] == "library"
    for row in rows[3:]:
        assert "ZeroDivisionError" in row["exception"]
    assert "\x1b" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_control_character_reaches_a_log_and_other_languages_do(tmp_path: Path) -> None:
    """JSON lets DEL and C1 through; half a surrogate pair is no UTF-8."""
    path = tmp_path / "hive.log"
    said = "\x00\x1b[31m \x7f \x9b31m \u2028 \udc80 é 蜂"
    program = WRITER.replace("sys.argv[2]", "0") + f"\nget_logger().info({said!a}, {{'name': {said!a}}})"
    subprocess.run([sys.executable, "-c", program.replace(", {'name'", ", fields={'name'"), str(path)], check=True)
    last = path.read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["text"] == json.loads(last)["fields"]["name"] == said
    assert all(character.isprintable() for character in last)
    assert "é 蜂" in last


def test_rotated_files_are_read_in_order_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "hive.log"
    write(path, 200)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hive.log", "hive.log.1", "hive.log.2"]
    numbers = [line.fields["number"] for line in read_log(path, "local", "hive") if line.text == "line"]
    assert numbers == list(range(numbers[0], 200))
    assert [line.text for line in read_log(path, "local", "hive", tail=2)] == ["broke", "broke, too"]


def test_since_leaves_older_lines_out(tmp_path: Path) -> None:
    path = tmp_path / "hive.log"
    path.write_text('{"at": 10, "text": "old"}\n{"at": 20, "text": "new"}\nnative output\n')
    assert [line.text for line in read_log(path, "local", "hive", since=15)] == ["new", "native output"]


def test_foreign_lines_are_kept_as_text() -> None:
    assert parse_log_line("ggml_abort\n", "local", "w-1").text == "ggml_abort"
    assert parse_log_line("[1, 2]", "local", "w-1").text == "[1, 2]"
    line = parse_log_line('{"at": 5.5, "level": "error", "text": "x", "n": 1}', "gpu", "hive")
    assert (line.at, line.level, line.text, line.fields, line.node) == (5.5, "error", "x", {"n": 1}, "gpu")


@pytest.mark.parametrize("at", ["null", '"soon"', "[]", "NaN", "1e999"])
def test_a_line_whose_time_is_none_is_kept_as_it_is(at: str) -> None:
    line = parse_log_line(f'{{"at": {at}, "text": "x"}}\n', "local", "hive")
    assert (line.at, line.text) == (0.0, f'{{"at": {at}, "text": "x"}}')


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    """No trace for each line on stderr, which lies on the same disk; and what comes later is written."""
    with small_disk(tmp_path / "disk", mebibytes=1) as disk:
        argv = [sys.executable, "-c", FILLED_UP, str(disk.folder / "hive.log"), str(disk.folder / "filler")]
        finished = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        assert finished.stderr == ""
        texts = [row.text for row in read_log(disk.folder / "hive.log", "local", "hive")]
        assert texts[0] == "before"
        assert "lines of this log were refused by the disk" in texts
        assert texts[-1] == "last"


FILLED_UP = """
import os, sys, time
from pathlib import Path
from daemons.kit.logs import configure_logs, get_logger
from daemons.kit.settings import LogSettings
log = Path(sys.argv[1])
configure_logs("hive", log, LogSettings())
get_logger().info("before")
while not log.exists() or not log.stat().st_size:
    time.sleep(0.01)
filler = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
try:
    while True:
        os.write(filler, bytes(4096))
except OSError:
    pass
for number in range(300):
    get_logger().info("while it is full", number=number, padding="x" * 500)
time.sleep(0.5)
os.unlink(sys.argv[2])
os.close(filler)
for number in range(10):
    get_logger().info("after", number=number)
    time.sleep(0.02)
get_logger().info("last")
"""
