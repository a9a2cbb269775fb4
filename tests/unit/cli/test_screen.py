"""stdout is data and nothing else; stderr is talk; a terminal gets nothing that could drive it."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Narration, Progress
from rbee_tui.cli.screen import Screen
from rbee_tui.cli.tables import Column
from tests.support.fake_queen import worker_row


class FakeTerminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass
class Doors:
    """A screen and what came out of it."""

    terminal: bool = False
    out: io.StringIO = field(init=False)
    err: io.StringIO = field(init=False)

    def __post_init__(self) -> None:
        self.out = FakeTerminal() if self.terminal else io.StringIO()
        self.err = FakeTerminal() if self.terminal else io.StringIO()

    def screen(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> Screen:
        return Screen(as_json=as_json, quiet=quiet, verbose=verbose, out=self.out, err=self.err)


COLUMNS: tuple[Column[str], ...] = (
    Column("NAME", str),
    Column("LENGTH", lambda text: str(len(text)), right=True),
)


def test_narration_goes_to_stderr_with_its_actor() -> None:
    doors = Doors()
    doors.screen().narrate(Narration(actor="queen", text="placing the task", fields={"slots": 4}))
    assert (doors.out.getvalue(), doors.err.getvalue()) == ("", "[queen] placing the task\n")


def test_verbose_adds_the_figures() -> None:
    doors = Doors()
    doors.screen(verbose=True).narrate(Narration(actor="queen", text="placing", fields={"slots": 4, "node": "local"}))
    assert doors.err.getvalue() == "[queen] placing (slots=4, node=local)\n"


def test_quiet_silences_narration_and_progress_but_no_error() -> None:
    doors = Doors()
    screen = doors.screen(quiet=True)
    screen.say("hello")
    screen.progress(Progress(stage="load", done=50, total=100, unit="percent"))
    assert doors.err.getvalue() == ""
    screen.error(RbeeError(Code.QUEUE_FULL, "100 tasks wait"))
    assert doors.err.getvalue().startswith("error QUEUE_FULL: 100 tasks wait\nhint: ")


def test_an_error_names_code_message_hint_and_request() -> None:
    doors = Doors()
    error = RbeeError(Code.WORKER_NOT_FOUND, "no worker w-1", hint="rbee workers list")
    error.request_id = "req-1"
    doors.screen().error(error)
    assert doors.err.getvalue().splitlines() == [
        "error WORKER_NOT_FOUND: no worker w-1",
        "hint: rbee workers list",
        "request id: req-1",
    ]


def test_an_error_with_json_is_one_object_on_stderr() -> None:
    doors = Doors()
    doors.screen(as_json=True).error(RbeeError(Code.QUEUE_FULL, "full", details={"limit": 1}))
    error = json.loads(doors.err.getvalue())["error"]
    assert (error["code"], error["message"], error["details"], bool(error["hint"])) == (
        "QUEUE_FULL", "full", {"limit": 1}, True,
    )  # fmt: skip
    assert doors.out.getvalue() == ""


def test_a_message_cannot_forge_lines_or_drive_the_terminal() -> None:
    doors = Doors(terminal=True)
    doors.screen().error(RbeeError(Code.INTERNAL, "one\nerror FAKE: two\x1b[2J", hint="a\nb"))
    assert doors.err.getvalue() == "error INTERNAL: one\n  error FAKE: two\nhint: a b\n"


@pytest.mark.parametrize(("terminal", "expected"), [(True, "red\n"), (False, "\x1b[31mred\n")])
def test_data_is_cleaned_for_a_terminal_and_left_alone_elsewhere(terminal: bool, expected: str) -> None:
    doors = Doors(terminal)
    doors.screen().write("\x1b[31mred\n")
    assert doors.out.getvalue() == expected


def test_an_open_line_is_closed_once() -> None:
    doors = Doors()
    screen = doors.screen()
    screen.write("text")
    screen.end_line()
    screen.end_line()
    assert doors.out.getvalue() == "text\n"


def test_a_sentence_does_not_begin_in_the_middle_of_the_answer_on_a_terminal() -> None:
    doors = Doors(terminal=True)
    screen = doors.screen()
    screen.write("half an ans")
    screen.say("lost")
    assert doors.out.getvalue() == "half an ans\n"


def test_a_sentence_waits_for_the_end_of_a_line_that_is_piped() -> None:
    doors = Doors()
    screen = doors.screen()
    screen.write("half an ans")
    screen.say("slow")
    assert (doors.out.getvalue(), doors.err.getvalue()) == ("half an ans", "")
    screen.write("wer\n")
    assert doors.err.getvalue() == "[keeper] slow\n"
    screen.write("and more")
    screen.say("lost")
    screen.end_line()
    assert (doors.out.getvalue(), doors.err.getvalue()) == (
        "half an answer\nand more\n", "[keeper] slow\n[keeper] lost\n",
    )  # fmt: skip


@pytest.mark.parametrize("end", ["error", "interrupted", "end_line"])
@pytest.mark.parametrize("text", ["answer", "answer\n"])
def test_data_end_their_line_before_anything_else_is_said_in_the_same_file(end: str, text: str) -> None:
    both = io.StringIO()
    screen = Screen(out=both, err=both)
    screen.write(text)
    screen.say("held")
    ends: dict[str, Callable[[], None]] = {
        "error": lambda: screen.error(RbeeError(Code.QUEUE_FULL, "full", hint="wait")),
        "interrupted": screen.interrupted,
        "end_line": screen.end_line,
    }
    ends[end]()
    screen.say("after")
    shown = "error QUEUE_FULL: full\nhint: wait\n" if end == "error" else ""
    assert both.getvalue() == f"answer\n[keeper] held\n{shown}[keeper] after\n"


class FakeClosedPipe(io.StringIO):
    """A stream whose reader is gone once `closed_now` is set."""

    closed_now = False

    def write(self, text: str) -> int:
        if self.closed_now:
            raise BrokenPipeError
        return super().write(text)


def test_an_error_is_told_though_nobody_reads_the_data_any_more() -> None:
    out, err = FakeClosedPipe(), io.StringIO()
    screen = Screen(out=out, err=err)
    screen.write("half")
    screen.say("held")
    out.closed_now = True
    screen.error(RbeeError(Code.QUEUE_FULL, "full"))
    assert err.getvalue().startswith("[keeper] held\nerror QUEUE_FULL: full\n")


def test_what_is_said_after_ctrl_c_stands_on_a_line_of_its_own_on_a_terminal() -> None:
    doors = Doors(terminal=True)
    screen = doors.screen()
    screen.interrupted()
    screen.say("cancelled")
    assert doors.err.getvalue() == "\n[keeper] cancelled\n"
    doors.out = io.StringIO()
    screen = doors.screen()
    screen.write("half")
    screen.interrupted()
    assert (doors.out.getvalue(), doors.err.getvalue()) == ("half\n", "\n[keeper] cancelled\n\n")
    doors = Doors(terminal=True)
    screen = doors.screen()
    screen.write("half")
    screen.interrupted()
    assert (doors.out.getvalue(), doors.err.getvalue()) == ("half\n", "")


def test_piped_listings_are_tab_separated_with_a_header() -> None:
    doors = Doors()
    doors.screen().listing("names", ["b\tee", "hive"], COLUMNS, nothing="none")
    assert doors.out.getvalue() == "NAME\tLENGTH\nb ee\t4\nhive\t4\n"


def test_listings_on_a_terminal_are_aligned_and_safe() -> None:
    doors = Doors(terminal=True)
    doors.screen().listing("names", ["[red]bee", "hi\x1b[2Jve"], COLUMNS, nothing="none")
    shown = doors.out.getvalue()
    assert "[red]bee" in shown
    assert "hive" in shown
    assert "\x1b[2J" not in shown


def test_an_empty_listing_says_so_on_stderr() -> None:
    doors = Doors(terminal=True)
    doors.screen().listing("names", [], COLUMNS, nothing="there are none")
    assert (doors.out.getvalue(), doors.err.getvalue()) == ("", "[keeper] there are none\n")


def test_listings_with_json_are_one_object_of_wire_types() -> None:
    doors = Doors()
    row = worker_row()
    doors.screen(as_json=True).listing("workers", [row], (), nothing="none")
    assert json.loads(doors.out.getvalue()) == {"workers": [row.model_dump(mode="json")]}


def test_json_for_a_terminal_holds_no_raw_control_character() -> None:
    doors = Doors(terminal=True)
    doors.screen().json({"text": "\x9b2J\x1b[2J蜂"})
    assert json.loads(doors.out.getvalue()) == {"text": "\x9b2J\x1b[2J蜂"}
    assert "\x9b" not in doors.out.getvalue()
    assert "\x1b" not in doors.out.getvalue()


def test_progress_away_from_a_terminal_is_a_line_each_quarter() -> None:
    doors = Doors()
    screen = doors.screen()
    for done in range(0, 101, 5):
        screen.progress(Progress(stage="load", done=done, total=100, unit="percent"))
    assert doors.err.getvalue().splitlines() == [f"[keeper] load: {part} %" for part in (0, 25, 50, 75, 100)]


def test_progress_of_unknown_size_is_said_once() -> None:
    doors = Doors()
    screen = doors.screen()
    for done in (0, 10, 20):
        screen.progress(Progress(stage="read", done=done, total=0, unit="bytes"))
    assert doors.err.getvalue() == "[keeper] read: 0 bytes\n"


def test_progress_on_a_terminal_is_a_bar_that_is_gone_before_data_comes() -> None:
    doors = Doors(terminal=True)
    screen = doors.screen()
    screen.progress(Progress(stage="load\x1b[2J", done=30, total=100, unit="percent"))
    screen.say("still loading")
    screen.write("token")
    shown = doors.err.getvalue()
    assert "load" in shown
    assert "[keeper] still loading" in shown
    assert "\x1b[2J" not in shown
    assert doors.out.getvalue() == "token"
