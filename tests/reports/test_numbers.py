"""How numbers read. Expectations are written by hand."""

from __future__ import annotations

import math

import pytest

from gradcheckup.reports.numbers import at_steps, count, factor, number, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.0, "1"),
        (0.14159, "0.14"),
        (0.1, "0.1"),
        (0.0079, "0.0079"),
        (0.001, "0.001"),
        (0.00094, "9.4e-4"),
        (7.9e-6, "7.9e-6"),
        (2e-10, "2e-10"),
        (1e-29, "1e-29"),
        (9.96, "10"),
        (99.4, "99"),
        (99.7, "100"),
        (126_123.0, "126,000"),
        (2500.0, "2,500"),
        (999_999.6, "1e6"),
        (-3.25, "-3.2"),
        (math.nan, "NaN"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"),
        (0.0, "0%"),
        (0.0001, "<1%"),
        (0.96, "96%"),
        (0.9999, ">99%"),
        (1.0, "100%"),
        (math.nan, "NaN"),
    ],
)
def test_percent(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("held", "made", "text"),
    [
        ((), range(8), ""),
        ((0,), range(1), "at the one step"),
        (tuple(range(8)), range(8), "at all 8 steps"),
        ((3,), range(8), "at step 3"),
        ((4, 5, 6, 7), range(8), "from step 4 on"),
        ((0, 2, 7), range(8), "at 3 of 8 steps"),
        ((0, 1), range(8), "at 2 of 8 steps"),
        ((0, 10, 30), (0, 10, 30), "at all 3 looks"),
        ((30, 70), (0, 10, 30, 70), "from step 30 on"),
        ((10, 70), (0, 10, 30, 70), "at 2 of 4 looks"),
    ],
)
def test_at_steps(held: tuple[int, ...], made: tuple[int, ...], text: str) -> None:
    assert at_steps(held, made) == text


def test_count_and_factor() -> None:
    assert (count(1, "layer"), count(8, "layer"), count(1500, "layer")) == (
        "1 layer",
        "8 layers",
        "1,500 layers",
    )
    assert factor(1 / 7.9e-6) == "127,000×"
