"""Characters are never broken, and no part of a stop string ever gets out."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from daemons.worker.engine.detokenizer import Detokenizer, held_back


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given offsets."""
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(at)]


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_text_survives_any_cut_of_its_bytes(text: str, cuts: list[int]) -> None:
    detokenizer = Detokenizer()
    out = "".join(detokenizer.feed(piece) for piece in pieces_of(text.encode(), cuts)) + detokenizer.flush()
    assert out == text


@given(st.text(min_size=1), st.lists(st.integers(0, 1000)))
def test_every_part_is_whole_characters(text: str, cuts: list[int]) -> None:
    detokenizer = Detokenizer()
    done = ""
    for piece in pieces_of(text.encode(), cuts):
        done += detokenizer.feed(piece)
        assert text.startswith(done)


@given(
    st.text(alphabet="ab"),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1),
    st.lists(st.integers(0, 99)),
)
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str], cuts: list[int]) -> None:
    detokenizer = Detokenizer(stops)
    out = ""
    for piece in pieces_of(text.encode(), cuts):
        out += detokenizer.feed(piece)
        if detokenizer.stopped:
            break
    out += detokenizer.flush()
    assert not any(stop in out for stop in stops)
    assert text.startswith(out)
    if detokenizer.stopped:
        assert any(text[len(out) :].startswith(stop) for stop in stops)
    else:
        assert out == text


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    detokenizer = Detokenizer(["END"])
    assert detokenizer.feed(b"the E") == "the "
    assert detokenizer.feed(b"N") == ""
    assert detokenizer.feed(b"try") == "ENtry"
    assert detokenizer.feed(b"EN") == ""
    assert detokenizer.flush() == "EN"


def test_earliest_stop_string_wins() -> None:
    detokenizer = Detokenizer(["late", "so"])
    assert detokenizer.feed(b"it is so late") == "it is "
    assert detokenizer.stopped
    assert detokenizer.feed(b"more") == ""


def test_unfinished_character_is_dropped_and_bad_bytes_are_replaced() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.feed(b"a\xff") == "a�"
    assert detokenizer.feed("é".encode()[:1]) == ""
    assert detokenizer.flush() == ""


def test_held_back_is_the_longest_beginning() -> None:
    assert held_back("xaab", ["aabc", "b!"]) == 3
    assert held_back("xyz", ["aabc"]) == 0
    assert held_back("abc", ["abc"]) == 0
