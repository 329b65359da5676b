"""A depth profile in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeGuard

LEVELS = "▁▂▃▄▅▆▇█"
UNKNOWN = "·"
ZERO = "0"
BROKEN = "!"


def sparkline(values: Sequence[float | None], columns: int = 60) -> str:
    """One character a value on a log scale, from the lowest to the highest of them.

    ``0`` marks an exact zero, ``!`` NaN or an infinity, ``·`` a value that was not measured. The
    scale spans at least a factor of ten, so that a flat profile looks flat. More values than
    `columns` are merged: a column shows the geometric mean of its neighbours, unless one of them
    is zero or not finite, which shows.
    """
    merged = _merge(values, columns)
    exponents = [math.log10(value) for value in merged if _drawable(value)]
    if not exponents:
        return "".join(_level(value, 0.0, 1.0) for value in merged)
    top = max(exponents)
    bottom = min(*exponents, top - 1)
    return "".join(_level(value, bottom, top) for value in merged)


def _drawable(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value) and value > 0


def _merge(values: Sequence[float | None], columns: int) -> list[float | None]:
    if len(values) <= columns:
        return list(values)
    edges = [round(index * len(values) / columns) for index in range(columns + 1)]
    return [_typical(values[start:end]) for start, end in pairwise(edges)]


def _typical(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    broken = [value for value in known if not math.isfinite(value)]
    if broken:
        return broken[0]
    if min(known) <= 0:
        return 0.0
    return math.exp(math.fsum(math.log(value) for value in known) / len(known))


def _level(value: float | None, bottom: float, top: float) -> str:
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return BROKEN
    if value <= 0:
        return ZERO
    share = (math.log10(value) - bottom) / (top - bottom)
    return LEVELS[min(int(share * len(LEVELS)), len(LEVELS) - 1)]
