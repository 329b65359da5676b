"""How good the verdicts are: against outcomes, as numbers and as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import MARKDOWN
from rich.table import Table

from benchmarks.results import Result
from benchmarks.training import FAILS, LEARNS

_CLEAR = frozenset({LEARNS, FAILS})


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


def score(results: Iterable[Result], *, others: str | None = None) -> Score:
    """Counts; other outcomes (see `training`) are left out, or count as the label given."""
    labelled = [(each.label if each.label in _CLEAR else others, each.healthy) for each in results]
    return Score(
        cases=sum(label is not None for label, _ in labelled),
        sick=sum(label == FAILS for label, _ in labelled),
        caught=sum(label == FAILS and not healthy for label, healthy in labelled),
        alarms=sum(label == LEARNS and not healthy for label, healthy in labelled),
    )


def roc_area(results: Iterable[Result]) -> float:
    """Chance that a failing net's report is worse than a learning one's; ties count half."""
    sick: list[float] = []
    well: list[float] = []
    for each in results:
        if each.label in _CLEAR:
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
        *("cases", "sick", "others", "of them flagged", "precision", "recall"),
        *("balanced accuracy", "others sick", "ROC area", "right code", "right layer"),
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
        str(sum(each.label not in _CLEAR and not each.healthy for each in results)),
        _percentage(clear.precision),
        _percentage(clear.recall),
        _percentage(clear.balanced_accuracy),
        _percentage(score(results, others=FAILS).balanced_accuracy),
        _percentage(roc_area(results)),
        _fraction(each.right_code for each in results if each.label == FAILS),
        _fraction(each.right_layer for each in results if each.label == FAILS),
    ]


def _fraction(answers: Iterable[bool | None]) -> str:
    """Right ones of those that can be told."""
    told = [answer for answer in answers if answer is not None]
    return f"{sum(told)} of {len(told)}" if told else "–"


def disagreements(results: Iterable[Result]) -> Table:
    """Cases of which seeds got different verdicts though the outcomes are the same."""
    view = Table(box=MARKDOWN)
    for name in ("case", "net", "optimizer", "outcome", "verdicts"):
        view.add_column(name, overflow="fold")
    by_case: dict[tuple[str, str], list[Result]] = {}
    for each in results:
        by_case.setdefault((each.identity.rsplit("/", 3)[0], each.label), []).append(each)
    for (case, label), same in sorted(by_case.items()):
        if label in _CLEAR and len({each.healthy for each in same}) > 1:
            verdicts = [
                f"{each.seed}: {'healthy' if each.healthy else 'unhealthy'}" for each in same
            ]
            net = ", ".join(str(value) for value in same[0].architecture.values())
            view.add_row(case, net, same[0].optimizer, label, ", ".join(verdicts))
    return view


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
