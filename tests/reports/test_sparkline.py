"""The depth profile in one line."""

from __future__ import annotations

import math

import pytest

from gradcheckup.reports.sparkline import LEVELS, sparkline


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([10.0**-k for k in range(7, -1, -1)], "▁▂▃▄▅▆▇█"),
        ([1.0, 1e-8], "█▁"),
        # A flat profile looks flat: the scale spans a factor of ten at least.
        ([1.0, 0.9, 1.0, 0.8], "████"),
        ([1.0, 0.0, None, math.nan, math.inf, 1e-9], "█0·!!▁"),
        ([0.0, None], "0·"),
    ],
)
def test_sparkline(values: list[float | None], line: str) -> None:
    assert sparkline(values) == line


def test_far_below_the_smallest_float32_there_is_still_a_slope() -> None:
    line = sparkline([10.0 ** (-29 + 4 * k) for k in range(8)])
    assert line == LEVELS


def test_many_layers_share_columns() -> None:
    line = sparkline([10.0 ** (-k / 10) for k in range(150)], 60)
    assert len(line) == 60
    assert line == "".join(sorted(line, reverse=True))
    assert (line[0], line[-1]) == (LEVELS[-1], LEVELS[0])


@pytest.mark.parametrize(("value", "sign"), [(0.0, "0"), (math.nan, "!"), (1e-30, "▁")])
def test_one_sick_layer_of_many_is_not_averaged_away(value: float, sign: str) -> None:
    values: list[float | None] = [1.0] * 150
    values[77] = value
    line = sparkline(values, 50)
    assert line[25] == sign
    assert line.count("█") == 49


def test_a_column_is_unknown_only_if_all_its_layers_are() -> None:
    assert sparkline([None, 1.0, None, None], 2) == "█·"
