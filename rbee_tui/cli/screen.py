"""The two doors out of a command: stdout for data and nothing else, stderr for narration, progress and errors."""

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from pydantic import BaseModel

from daemons.contracts.errors import RbeeError
from daemons.contracts.events import Narration, Progress
from rbee_tui.cli.clean import StreamCleaner, one_line
from rbee_tui.cli.figures import figure
from rbee_tui.cli.tables import Column, as_lines, print_table

if TYPE_CHECKING:
    from rbee_tui.cli.loading_bar import LoadingBar

RowT = TypeVar("RowT")
_STEP = 0.25
"""Away from a terminal progress is a line each time this share of the whole was done."""


class OutputLost(OSError):
    """What was said on stdout went nowhere: a full disk, an error of the device."""


class Screen:
    """Renders for one command. `quiet` drops narration and progress, `verbose` adds the figures of each sentence."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._bar: LoadingBar | None = None
        self._said: tuple[str, float] = ("", 0.0)
        self._open_line = False
        self._cleaner = StreamCleaner()
        self._held: list[str] = []

    @property
    def out_is_terminal(self) -> bool:
        return self._out.isatty()

    def write(self, text: str) -> None:
        """Data as it comes: at once, and without control characters where it would drive a terminal."""
        if not text:
            return
        self.stop_progress()
        shown = self._cleaner.feed(text) if self.out_is_terminal else text
        try:
            self._out.write(shown)
            self._out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error.errno, error.strerror) from error
        if shown:
            self._open_line = not shown.endswith("\n")
        if not self._open_line:
            self._say_held()

    def line(self, text: str) -> None:
        """One line of data."""
        self.write(f"{text}\n")

    def end_line(self) -> None:
        """Finish a line of data that is still open; then what was held back meanwhile is said."""
        self.write(self._cleaner.rest())
        if self._open_line:
            self.write("\n")

    def interrupted(self) -> None:
        """After Ctrl+C the terminal shows ``^C`` somewhere: the next sentence begins on a line of its own."""
        ended = self._bar is not None or (self._open_line and self.out_is_terminal)
        self.stop_progress()
        if self._err.isatty() and not ended:
            self._err.write("\n")
            self._err.flush()
        self._break_off()

    def json(self, value: Mapping[str, Any] | BaseModel) -> None:
        """One JSON object as data; indented for people, on one line for programs."""
        decoded = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        indent = 2 if self.out_is_terminal else None
        # ASCII escapes keep control characters of foreign text from a terminal, and are the same JSON.
        self.line(json.dumps(decoded, indent=indent, ensure_ascii=self.out_is_terminal, default=_as_json))

    def listing(self, key: str, rows: Sequence[RowT], columns: Sequence[Column[RowT]], *, nothing: str) -> None:
        """A list: ``{key: [row…]}`` with --json, else a table; `nothing` is what is said on stderr when it is empty."""
        if self.as_json:
            self.json({key: list(rows)})
            return
        if not rows:
            self.say(nothing)
        self.table(rows, columns)

    def table(self, rows: Sequence[RowT], columns: Sequence[Column[RowT]]) -> None:
        """Rows for people on a terminal, as tab-separated lines with a header elsewhere."""
        if not self.out_is_terminal:
            self._lines(as_lines(columns, rows))
        elif rows:
            print_table(columns, rows, self._out)

    def _lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.line(line)

    def narrate(self, narration: Narration) -> None:
        """One sentence of an actor, on stderr."""
        if self.quiet:
            return
        figures = f" ({_figures(narration.fields)})" if self.verbose and narration.fields else ""
        self._say(f"[{one_line(narration.actor)}] {one_line(narration.text)}{one_line(figures)}")

    def say(self, text: str) -> None:
        """A sentence of the keeper itself, on stderr."""
        self.narrate(Narration(actor="keeper", text=text))

    def remarks(self, texts: Iterable[str]) -> None:
        """Sentences that go with a listing; with --json they are in its rows."""
        for text in texts if not self.as_json else ():
            self.say(text)

    def progress(self, progress: Progress) -> None:
        """Something long is under way: a bar on a terminal, a line for each quarter elsewhere."""
        if self.quiet:
            return
        if self._err.isatty():
            self._start_bar().show(progress)
            return
        share = progress.done / progress.total if progress.total else 0.0
        stage, before = self._said
        if stage != progress.stage or share >= 1.0 > before or share >= before + _STEP:
            self._said = (progress.stage, share)
            self.say(_progress_sentence(progress))

    def stop_progress(self) -> None:
        """Remove the bar, if there is one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def error(self, error: RbeeError) -> None:
        """A failure on stderr: code, message, hint and request id; one JSON object with --json."""
        self.stop_progress()
        self._break_off()
        if self.as_json:
            self._err.write(json.dumps({"error": error.as_dict()}) + "\n")
        else:
            self._err.write(f"error {error.code.value}: {_indented(error.message)}\n")
            self._err.write(f"hint: {one_line(error.hint)}\n")
            if error.request_id:
                self._err.write(f"request id: {one_line(error.request_id)}\n")
        self._err.flush()

    def _say(self, line: str) -> None:
        if self._open_line and not self.out_is_terminal:
            self._held.append(line)  # both may go into one file, and what is piped is the data and nothing else
            return
        self._close_line()
        if self._bar is not None:
            self._bar.print_above(line)
            return
        self._err.write(line + "\n")
        self._err.flush()

    def _say_held(self) -> None:
        held, self._held = self._held, []
        for line in held:
            self._say(line)

    def _break_off(self) -> None:
        """The data end here. That nobody reads them any more is no news then."""
        with contextlib.suppress(BrokenPipeError):
            self.end_line()
        self._open_line = False
        self._say_held()

    def _close_line(self) -> None:
        """On a terminal that shows both, a sentence does not begin in the middle of the data."""
        if self._open_line and self.out_is_terminal and self._err.isatty():
            self._out.write("\n")
            self._out.flush()
            self._open_line = False

    def _start_bar(self) -> "LoadingBar":
        if self._bar is None:
            from rbee_tui.cli.loading_bar import LoadingBar  # late: imports rich

            self._close_line()
            self._bar = LoadingBar(self._err)
        return self._bar


def _indented(message: str) -> str:
    """Lines below the first one, such as the end of a log, stand further right: none looks like a line of ours."""
    return "\n".join(one_line(line) for line in message.split("\n")).replace("\n", "\n  ")


def _as_json(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _figures(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={figure(value)}" for name, value in fields.items())


def _progress_sentence(progress: Progress) -> str:
    total = f" of {progress.total:g}" if progress.total and progress.unit != "percent" else ""
    unit = "%" if progress.unit == "percent" else progress.unit
    return f"{progress.stage}: {progress.done:.0f}{total} {unit}"
