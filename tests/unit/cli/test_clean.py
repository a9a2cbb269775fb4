"""What comes from models, nodes and logs cannot drive a terminal."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rbee_tui.cli.clean import clean, one_line


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("\x9b2Jgone", "gone"),
        ("\x1bcreset", "reset"),
        ("over\rwritten", "overwritten"),
        ("bell\x07 null\x00 del\x7f", "bell null del"),
        ("Grüße 蜂 🐝 a\u200db", "Grüße 蜂 🐝 a\u200db"),
        # Cut in two by the end of a token: it does not act any more, which is what counts.
        ("\x1b[3", "[3"),
    ],
)
def test_escape_sequences_and_control_characters_go(raw: str, expected: str) -> None:
    assert clean(raw) == expected


@given(st.text())
@example("\x1b\x1b[31m[31m")
@example("\x1b\x9b0m[0m")
def test_nothing_that_acts_is_left(raw: str) -> None:
    controls = {character for character in clean(raw) if unicodedata.category(character) == "Cc"}
    assert controls <= {"\n", "\t"}


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_text_without_control_characters_is_left_alone(text: str) -> None:
    assert clean(text) == text


def test_one_line_keeps_a_cell_in_its_cell() -> None:
    assert one_line("a\tb\r\nc\x1b[1md") == "a b cd"
