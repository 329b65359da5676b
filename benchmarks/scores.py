"""How good verdicts are against outcomes, as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.results import Result
from benchmarks.training import FAILS, LEARNS

CLEAR = frozenset({LEARNS, FAILS})
"""Outcomes that say whether a verdict was right; see `training` for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Agreement of verdicts and outcomes, `unhealthy` being what is to be found.

    Attributes:
        cases: Number of cases that count.
        sick: How many of them failed to learn.
        caught: Failing ones called unhealthy.
        alarms: Learning ones called unhealthy.
    """

    cases: int
    sick: int
    caught: int
    alarms: int

    @property
    def precision(self) -> float:
        """Share of the nets called unhealthy that failed; NaN when none was called so."""
        return _share(self.caught, self.caught + self.alarms)

    @property
    def recall(self) -> float:
        """Share of the failing nets that were called unhealthy."""
        return _share(self.caught, self.sick)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the shares of failing and of learning nets that were judged right."""
        well = self.cases - self.sick
        return (self.recall + _share(well - self.alarms, well)) / 2


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def score(results: Iterable[Result], *, tool: str = "", others: str | None = None) -> Score:
    """Counts for gradcheckup or a peer; other outcomes are left out, or count as the label given.

    Nets that the tool did not judge are left out.
    """
    labelled = [
        (each.label if each.label in CLEAR else others, opinion.unhealthy)
        for each in results
        if (opinion := each.opinion(tool)).unhealthy is not None
    ]
    return Score(
        cases=sum(label is not None for label, _ in labelled),
        sick=sum(label == FAILS for label, _ in labelled),
        caught=sum(label == FAILS and bool(unhealthy) for label, unhealthy in labelled),
        alarms=sum(label == LEARNS and bool(unhealthy) for label, unhealthy in labelled),
    )


def roc_area(results: Iterable[Result], *, tool: str = "") -> float:
    """Chance that a failing net is scored worse than a learning one; ties count half.

    NaN where there are none of one kind.
    """
    sick: list[float] = []
    well: list[float] = []
    for each in results:
        points = each.opinion(tool).score
        if each.label in CLEAR and points is not None:
            (sick if each.label == FAILS else well).append(points)
    if not sick or not well:
        return math.nan
    wins = sum((one > other) + (one == other) / 2 for one in sick for other in well)
    return wins / (len(sick) * len(well))
