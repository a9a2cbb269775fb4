"""The template language."""

import random

from hypothesis import given
from hypothesis import strategies as st

from daemons.models.demo.phrases import expand, first_choice

WORDS = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4)


@given(WORDS, st.integers())
def test_expand_picks_one_of_the_choices(words: list[str], seed: int) -> None:
    """Whatever the seed, the text is one of the choices, between its surroundings."""
    assert expand(f"x [{'|'.join(words)}] y", random.Random(seed)) in {f"x {word} y" for word in words}


def test_choices_nest_and_empty_ones_leave_no_double_space() -> None:
    """Inner brackets are resolved first."""
    assert first_choice("a [[b|c] d|e] [|f] g") == "a b d g"
    seen = {expand("a [[b|c] d|e] [|f] g", random.Random(seed)) for seed in range(60)}
    assert seen == {f"a {left}{right} g" for left in ("b d", "c d", "e") for right in ("", " f")}
