"""What the bench requires: every bound can be missed, and a figure that is not measured counts as missed."""

import math

import pytest

from tests.bench.required import REQUIREMENTS, Requirement, missed, of_title
from tests.bench.run import PARTS


def figures(part: str) -> dict[str, float]:
    """Figures that are just good enough."""
    return {row.title: row.bound for row in REQUIREMENTS if row.part == part}


@pytest.mark.parametrize("part", sorted({row.part for row in REQUIREMENTS}))
def test_figures_at_their_bounds_are_good_enough(part: str) -> None:
    assert part in PARTS
    assert missed(part, figures(part)) == []


@pytest.mark.parametrize("row", REQUIREMENTS, ids=lambda row: row.title)
def test_every_requirement_can_be_missed(row: Requirement) -> None:
    assert of_title(row.title) is row
    worse = row.bound * (1.001 if row.at_most else 0.999)
    for value in (worse, math.nan):
        (told,) = missed(row.part, {**figures(row.part), row.title: value})
        assert told.startswith(row.title)
        assert str(row) in told
    without = figures(row.part)
    del without[row.title]
    assert missed(row.part, without) == [f"{row.title}: not measured"]


def test_what_is_only_told_is_not_required() -> None:
    assert of_title("llama-server / packaged server, 8 streams") is None
    assert missed("narrow", {}) == []
