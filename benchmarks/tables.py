"""Verdicts against outcomes, as tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.box import MARKDOWN
from rich.table import Table

from benchmarks.peers import PEERS
from benchmarks.results import Result
from benchmarks.scores import CLEAR, roc_area, score
from benchmarks.training import FAILS


def families(results: Sequence[Result]) -> Table:
    """The verdicts of gradcheckup: one row per family, and one for all of them."""
    view = Table(box=MARKDOWN)
    view.add_column("family")
    for name in (
        *("cases", "sick", "others", "of them flagged", "precision", "recall"),
        *("balanced accuracy", "others sick", "ROC area", "right code", "right layer"),
    ):
        view.add_column(name, justify="right")
    for family, some in _by_family(results):
        view.add_row(family, *_row(some))
    return view


def _by_family(results: Sequence[Result]) -> list[tuple[str, Sequence[Result]]]:
    names = list(dict.fromkeys(each.family for each in results))
    groups: list[tuple[str, Sequence[Result]]] = [
        (name, [each for each in results if each.family == name]) for name in names
    ]
    return [*groups, ("all", results)] if len(names) > 1 else groups


def tools(results: Sequence[Result]) -> Table:
    """All tools side by side, on the nets whose outcome is clear, by family."""
    view = Table(box=MARKDOWN)
    view.add_column("family")
    view.add_column("tool")
    for name in ("judged", "failed to run", "precision", "recall", "balanced accuracy", "ROC area"):
        view.add_column(name, justify="right")
    for family, some in _by_family(results):
        clear = [each for each in some if each.label in CLEAR]
        for tool in ("", *PEERS):
            asked = [each for each in clear if not tool or tool in each.peers]
            found = score(asked, tool=tool)
            view.add_row(
                family,
                tool or "gradcheckup",
                str(found.cases) if asked else "not run",
                str(len(asked) - found.cases) if asked else "",
                _percentage(found.precision),
                _percentage(found.recall),
                _percentage(found.balanced_accuracy),
                _percentage(roc_area(asked, tool=tool)),
            )
    return view


def faults(results: Iterable[Result]) -> Table:
    """Planted faults, one row each: how often they make a net sick, are found, named and placed."""
    view = Table(box=MARKDOWN)
    view.add_column("fault")
    for name in ("cases", "sick", "found", "right code", "right layer"):
        view.add_column(name, justify="right")
    groups: dict[str, list[Result]] = {}
    for each in results:
        if "fault" in each.architecture:
            groups.setdefault(str(each.architecture["fault"]), []).append(each)
    for fault, same in sorted(groups.items()):
        sick = [each for each in same if each.label == FAILS]
        view.add_row(
            fault,
            str(len(same)),
            str(len(sick)),
            str(score(same).caught),
            _fraction(each.right_code for each in sick),
            _fraction(each.right_layer for each in sick),
        )
    return view


def _row(results: Sequence[Result]) -> list[str]:
    clear = score(results)
    return [
        str(len(results)),
        str(clear.sick),
        str(len(results) - clear.cases),
        str(sum(each.label not in CLEAR and not each.healthy for each in results)),
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
        if label in CLEAR and len({each.healthy for each in same}) > 1:
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
