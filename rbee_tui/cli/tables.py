"""Listings: a readable table on a terminal, tab-separated lines with a header elsewhere."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TextIO, TypeVar

from rbee_tui.cli.clean import one_line

RowT = TypeVar("RowT")

_STYLES = {
    "idle": "green", "busy": "green", "reachable": "green", "completed": "green", "healthy": "green",
    "loading": "yellow", "draining": "yellow", "stale": "yellow", "starting": "yellow", "placing": "yellow",
    "queued": "yellow", "warn": "yellow", "stopped": "dim", "cancelled": "dim",
    "failed": "red", "unhealthy": "red", "unreachable": "red", "fail": "red",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column(Generic[RowT]):
    """A heading and how to get the cell's text from a row; `right` for numbers."""

    title: str
    cell: Callable[[RowT], str]
    right: bool = False


def as_lines(columns: Sequence[Column[RowT]], rows: Iterable[RowT]) -> Iterable[str]:
    """Header and rows, cells separated by tabs."""
    yield "\t".join(column.title for column in columns)
    for row in rows:
        yield "\t".join(one_line(column.cell(row)) for column in columns)


def print_table(columns: Sequence[Column[RowT]], rows: Iterable[RowT], out: TextIO) -> None:
    """The same as a table for people, as wide as the terminal; words that name a state are coloured."""
    # Rich takes longer to import than a warm answer takes to come.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(
            column.title, justify="right" if column.right else "left", no_wrap=number == 0, overflow="fold"
        )
    for row in rows:
        cells = [one_line(column.cell(row)) for column in columns]
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    Console(file=out, highlight=False).print(table)
