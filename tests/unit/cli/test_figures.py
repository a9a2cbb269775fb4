"""Sizes, times and ages as people read them."""

import pytest

from rbee_tui.cli.figures import age, duration, figure, percent, size


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (8_482_560_512, "7.9 GiB"), (5 * 2**50, "5120.0 TiB")],
)
def test_size(count: int, expected: str) -> None:
    assert size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-3, "0.0s"),
        (0.44, "0.4s"),
        (59.4, "59s"),
        (60, "1m00s"),
        (185, "3m05s"),
        (7800, "2h10m"),
        (3600 * 24 * 5 + 3 * 3600, "5d03h"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_what_never_was_has_no_age() -> None:
    assert (age(0.0, 50.0), age(None, 50.0), age(20.0, 50.0)) == ("-", "-", "30s")


def test_measured_numbers_are_cut_and_others_left_alone() -> None:
    assert [figure(value) for value in (70.23028299954603, 2.0, 7, "text", None)] == [
        "70.2303",
        "2",
        "7",
        "text",
        "None",
    ]


def test_unknown_is_not_zero() -> None:
    assert (percent(None), percent(0.0), percent(49.7)) == ("-", "0%", "50%")
