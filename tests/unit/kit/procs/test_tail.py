"""The last lines of a log are what a whole reading of it would give."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemons.kit.procs import last_lines, tail


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=20), max_size=30),
    n=st.integers(1, 40),
    complete=st.booleans(),
    block=st.integers(1, 64),
)
def test_tail_equals_the_end_of_a_whole_reading(
    tmp_path: Path, lines: list[str], n: int, complete: bool, block: int
) -> None:
    complete = complete or not lines or lines[-1] == ""
    log = tmp_path / "log"
    log.write_bytes("".join(line + "\n" for line in lines).encode()[: None if complete else -1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tail, "_BLOCK", block)
        assert last_lines(log, n) == lines[-n:]


def test_a_missing_log_has_no_lines(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "nothing", 5) == []


def test_no_lines_are_read_when_none_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a\n")
    assert last_lines(tmp_path / "log", 0) == []


def test_lines_before_the_given_byte_are_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old 1\nold 2\n")
    size = log.stat().st_size
    with log.open("a") as more:
        more.write("new 1\nnew 2\n")
    assert last_lines(log, 20, since=size) == ["new 1", "new 2"]
    assert last_lines(log, 1, since=size) == ["new 2"]


def test_bytes_that_are_no_text_do_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff\xfe core\r\nlast")
    assert last_lines(tmp_path / "log", 2) == ["�� core", "last"]


def test_a_huge_single_line_is_cut_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * (3 * 1024 * 1024))
    assert [len(line) for line in last_lines(tmp_path / "log", 3)] == [1024 * 1024]
