"""What a detector says of a net, whoever it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

_MOST = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """One detector's verdict on one net.

    Attributes:
        unhealthy: Whether the net is called sick; None where the detector could not run.
        score: How bad it is, for the ROC area: larger is worse, finite. None without one.
        findings: What it says, in its own words.
    """

    unhealthy: bool | None
    score: float | None = None
    findings: list[str] = field(default_factory=list)


def excess(value: float, limit: float, *, above: bool = True) -> float:
    """By how many decades a value is on the wrong side of a limit; negative on the right one."""
    if math.isnan(value):
        return _MOST
    decades = math.log10(value / limit) if 0 < value < math.inf else math.copysign(_MOST, value - 1)
    return decades if above else -decades


def worst(excesses: Sequence[float]) -> float:
    """The largest, within finite bounds; the lowest bound without any."""
    return min(max(excesses, default=-_MOST), _MOST)
