"""What comes from models, nodes and logs cannot drive a terminal."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rbee_tui.cli.clean import MOST_HELD, StreamCleaner, clean, one_line


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


EVIL = "a\x1b[2Jb\x1b]0;owned\x07c\x9b31md\x1bP1;2|e\x1b\\f\x1b(0g"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_sequence_in_pieces_is_removed_as_a_whole(size: int) -> None:
    cleaner = StreamCleaner()
    shown = "".join(cleaner.feed(EVIL[at : at + size]) for at in range(0, len(EVIL), size)) + cleaner.rest()
    assert shown == clean(EVIL) == "abcdfg"


@pytest.mark.parametrize("text", ["\x1b", "x\x1b[12", "\x1b]0;title", "\x1bPdata\x1b"])
def test_what_does_not_end_is_told_at_the_end_without_its_escape(text: str) -> None:
    cleaner = StreamCleaner()
    shown = cleaner.feed(text) + cleaner.rest()
    assert "\x1b" not in shown
    assert cleaner.feed("next") == "next"


def test_text_is_not_held_back_for_ever() -> None:
    cleaner = StreamCleaner()
    assert cleaner.feed("\x1b]0;" + "x" * MOST_HELD).endswith("x" * MOST_HELD)
    assert StreamCleaner().feed("\x1b]0;x\nnext line") == "]0;x\nnext line"
