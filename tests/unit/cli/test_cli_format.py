"""Values as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnaeus.cli._format import (
    count_text,
    metrics_text,
    safe_text,
    seconds_text,
    shape_text,
    size_text,
    spelled_numbers,
    time_text,
    value_text,
)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_234_567_890, "1.23 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes_have_three_digits(num_bytes: int, text: str) -> None:
    """A size is shown in decimal units with three digits, also where rounding reaches the next unit."""
    assert size_text(num_bytes) == text


@given(st.text())
def test_no_text_can_steer_a_terminal(text: str) -> None:
    """Whatever a file or a bucket calls things, nothing of it is obeyed by a terminal."""
    shown = safe_text(text)
    assert all(character.isprintable() or not _steers(character) for character in shown)
    assert safe_text(shown) == shown


def _steers(character: str) -> bool:
    return ord(character) < 32 or 127 <= ord(character) < 160 or character in "\u202e\u2066\u200b\u2028"


def test_harmless_texts_stay_as_they_are() -> None:
    """Letters of any script, and line ends where they are allowed, are shown as they are."""
    assert safe_text("Füße_数字.pth") == "Füße_数字.pth"
    assert safe_text("a\nb", keep_lines=True) == "a\nb"
    assert safe_text("a\nb\x1b[31m") == "a\\nb\\x1b[31m"


def test_metrics_are_one_line_with_shares_as_percentages() -> None:
    """Metrics are shown by name; an accuracy is a percentage, other numbers have four digits."""
    metrics = {"loss": 0.123456, "accuracy_digit": 0.97222, "accuracy_k": 97.2, "best": "NaN", "n": 3}
    assert metrics_text(metrics) == "loss 0.1235, accuracy_digit 97.2 %, accuracy_k 97.2, best NaN, n 3"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (99.4, "99.4 s"), (99.6, "1 min 40 s"), (3_660, "1 h 01 min")]
)
def test_durations(seconds: float, text: str) -> None:
    """A duration is shown in the unit that suits it."""
    assert seconds_text(seconds) == text


def test_moments_are_shown_in_utc() -> None:
    """A bucket's time is shown to the minute in UTC, and as it is when it has another form."""
    assert time_text("2026-11-23T18:28:31.123456789+01:00") == "2026-11-23 17:28"
    assert time_text("yesterday") == "yesterday"
    assert time_text(None) == ""


def test_small_forms() -> None:
    """Shapes, counts and long values have short forms."""
    assert (shape_text((64, 3, 7, 7)), shape_text(())) == ("64 x 3 x 7 x 7", "scalar")
    assert (count_text(1, "tensor"), count_text(1200, "tensor")) == ("1 tensor", "1,200 tensors")
    assert len(value_text(list(range(1000)))) == 100


def test_numbers_that_json_has_not_become_texts() -> None:
    """Not-a-number and infinities are spelled, as in the file format; everything else stays."""
    plain = {"a": [math.nan, math.inf, -math.inf, 1.5], "b": "x", "c": None}
    assert spelled_numbers(plain) == {"a": ["NaN", "Infinity", "-Infinity", 1.5], "b": "x", "c": None}
