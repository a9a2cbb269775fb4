"""The story grammar."""

import random

import pytest

from daemons.models.demo.stories import CLOSINGS, OPENINGS, PLOTS, story


@pytest.mark.parametrize("short", [True, False])
def test_stories_are_whole_sentences_without_grammar_left(short: bool) -> None:
    """Every expansion is finished text: no slot, no bracket, capital first, full stop last."""
    for seed in range(300):
        text = story(random.Random(seed), short=short)
        assert not set("[]{}|") & set(text)
        assert "  " not in text
        assert text[0].isupper()
        assert text[-1] in '.!"'


def test_lengths() -> None:
    """Short stories fit into the default of 100 tokens most of the time; long ones have about 105 words."""
    short = sorted(len(story(random.Random(seed), short=True).split()) for seed in range(200))
    long = sorted(len(story(random.Random(seed)).split()) for seed in range(200))
    assert 50 < short[100] < 80
    assert 90 < long[100] < 150


def test_plots_name_beats_that_exist() -> None:
    """The short form is a true part of the plot, in order."""
    for plot in PLOTS:
        assert list(plot.short) == sorted(set(plot.short))
        assert plot.short[0] >= 0
        assert plot.short[-1] < len(plot.beats)


def test_a_story_names_only_its_own_bees() -> None:
    """No two plots share a bee, and the name is there before the second half."""
    bees = [name for plot in PLOTS for name in (plot.hero, plot.friend)]
    assert len(set(bees)) == len(bees)
    for seed in range(300):
        text = story(random.Random(seed))
        named = {name for name in bees if name in text}
        assert any({plot.hero} <= named <= {plot.hero, plot.friend} for plot in PLOTS)
        assert named & {name for name in bees if name in text[: len(text) // 2]}


def test_there_is_variety() -> None:
    """Many openings, plots and endings: 2,000 stories are 2,000 different ones."""
    assert len({story(random.Random(seed)) for seed in range(2000)}) == 2000
    assert len(OPENINGS) >= 20
    assert len(CLOSINGS) >= 5
