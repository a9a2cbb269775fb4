"""A bar on a terminal's stderr for something long; it leaves nothing behind. Imported late: rich costs 0.1 s."""

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from daemons.contracts.events import Progress
from rbee_tui.cli.clean import one_line


class LoadingBar:
    """Shown from the first `show` to `stop`."""

    def __init__(self, err: TextIO) -> None:
        self._progress = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TimeElapsedColumn(),
            console=Console(file=err, force_terminal=True, highlight=False),
            transient=True,
        )
        self._stage = ""
        self._task = self._progress.add_task("", total=None)
        self._progress.start()

    def show(self, progress: Progress) -> None:
        """Move the bar; another stage begins it anew."""
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._progress.reset(self._task, description=one_line(progress.stage))
        self._progress.update(self._task, completed=progress.done, total=progress.total or None)

    def print_above(self, line: str) -> None:
        """A line that stays, above the bar."""
        self._progress.console.print(Text(line), soft_wrap=True)

    def stop(self) -> None:
        self._progress.stop()
