"""How good the verdicts are: against outcomes, as numbers and as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import MARKDOWN
from rich.table import Table

from benchmarks.results import Result
from benchmarks.training import AMBIGUOUS, FAILS, LEARNS


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


def score(results: Iterable[Result], *, ambiguous: str | None = None) -> Score:
    """Counts; ambiguous outcomes are left out, or count as the label given for them."""
    labelled = [
        (ambiguous if each.label == AMBIGUOUS else each.label, each.healthy) for each in results
    ]
    return Score(
        cases=sum(label is not None for label, _ in labelled),
        sick=sum(label == FAILS for label, _ in labelled),
        caught=sum(label == FAILS and not healthy for label, healthy in labelled),
        alarms=sum(label == LEARNS and not healthy for label, healthy in labelled),
    )


def roc_area(results: Iterable[Result]) -> float:
    """Chance that a failing net's ratios lie further from 1 than a learning one's; ties half."""
    sick: list[float] = []
    well: list[float] = []
    for each in results:
        if each.label != AMBIGUOUS:
            (sick if each.label == FAILS else well).append(each.distance)
    if not sick or not well:
        return math.nan
    wins = sum((one > other) + (one == other) / 2 for one in sick for other in well)
    return wins / (len(sick) * len(well))


def table(results: Sequence[Result]) -> Table:
    """One row per family, and one for all of them."""
    view = Table(box=MARKDOWN)
    view.add_column("family")
    for name in (
        *("cases", "sick", "ambiguous", "precision", "recall", "balanced accuracy"),
        *("ambiguous sick", "ambiguous well", "ROC area"),
    ):
        view.add_column(name, justify="right")
    families = list(dict.fromkeys(each.family for each in results))
    for family in families:
        view.add_row(family, *_row([each for each in results if each.family == family]))
    if len(families) > 1:
        view.add_row("all", *_row(results))
    return view


def _row(results: Sequence[Result]) -> list[str]:
    clear = score(results)
    return [
        str(len(results)),
        str(clear.sick),
        str(len(results) - clear.cases),
        _percentage(clear.precision),
        _percentage(clear.recall),
        _percentage(clear.balanced_accuracy),
        _percentage(score(results, ambiguous=FAILS).balanced_accuracy),
        _percentage(score(results, ambiguous=LEARNS).balanced_accuracy),
        _percentage(roc_area(results)),
    ]


def _percentage(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.3f}".removeprefix("0")


def listing(results: Iterable[Result], label: str, *, healthy: bool) -> Table:
    """The cases of one outcome and one verdict, with what the verdict rests on."""
    view = Table(box=MARKDOWN)
    for name in ("case", "net", "optimizer", "score", "gradient ratio", "signal ratio", "findings"):
        view.add_column(name, overflow="fold")
    for each in sorted(results, key=lambda each: each.identity):
        if each.label == label and each.healthy is healthy:
            view.add_row(
                each.identity.rsplit("/", 2)[0],
                ", ".join(str(value) for value in each.architecture.values()),
                each.optimizer,
                "–" if each.score is None else f"{each.score:.2f}",
                _series(each.ratios),
                _series(each.signals),
                "; ".join(each.findings) or "none",
            )
    return view


def _series(values: Sequence[float | None]) -> str:
    return " ".join("–" if value is None else f"{value:.2g}" for value in values)
