"""A comparison as text: what became of the verdict, the figures, the findings and the layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gradcheckup.comparison import Comparison, LayerChange, Pair, Vitals
from gradcheckup.records import Finding
from gradcheckup.reports.names import fold, spoken
from gradcheckup.reports.numbers import count, number, percent
from gradcheckup.reports.sheet import Page
from gradcheckup.reports.table import grid

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 80
_NOTICEABLE = 2.0
"""The factor from which on a layer's figure has changed."""
_MOST = 5
_LEAD = 11


def render(
    comparison: Comparison,
    *,
    verbose: bool = False,
    width: int | None = None,
    color: bool = False,
    encoding: str = "utf-8",
    more: str = "comparison.layers",
) -> str:
    """The comparison as text, without a newline at its end.

    Args:
        comparison: What to show.
        verbose: All layers that changed, and all names.
        width: Columns to fill, 80 unless given.
        color: With ANSI codes; without, there are none.
        encoding: That of the terminal or file it goes to: signs that it lacks are replaced.
        more: Where to find the layers that are left out.
    """
    page = Page(max(width or _WIDTH, 40), color=color, encoding=encoding)
    word, said, style = _verdict(comparison)
    page.write(f"  {said}", lead=word, style=style)
    page.table(_figures(comparison, page))
    page.gap()
    for heading, findings in (
        ("gone", comparison.gone),
        ("new", comparison.new),
        ("remaining", comparison.remaining),
    ):
        page.write(_named(findings), lead=f"{heading:<{_LEAD}}")
    changed = [change for change in comparison.layers if change.factor >= _NOTICEABLE]
    shown = changed if verbose else changed[:_MOST]
    if shown:
        page.table(_layers(shown, page))
        rest = len(changed) - len(shown)
        if rest:
            page.write(f"and {count(rest, 'more layer')}: {more}")
    moves = _moves(comparison, verbose=verbose)
    if moves or not changed:
        page.gap()
    if not changed:
        same = f"no layer changed by a factor of {number(_NOTICEABLE)}"
        page.write(same if comparison.layers else "no weight layer in common")
    for heading, said in moves:
        page.write(said, lead=f"{heading:<{_LEAD}}")
    return page.text()


def _verdict(comparison: Comparison) -> tuple[str, str, str]:
    if comparison.worse:
        return "WORSE", "healthy before, unhealthy after", "bold red"
    if comparison.better:
        return "BETTER", "unhealthy before, healthy after", "bold green"
    word = "healthy" if comparison.after.healthy else "unhealthy"
    return (
        "SAME",
        f"{word} before and after",
        "bold yellow" if word == "unhealthy" else "bold green",
    )


def _figures(comparison: Comparison, page: Page) -> Table:
    """One row a figure; what the nets were is said where it differs."""
    before, after = comparison.before, comparison.after
    rows: list[tuple[str, Callable[[Vitals], str]]] = [
        ("verdict", lambda vitals: "healthy" if vitals.healthy else "unhealthy"),
        ("gradient, end to end", lambda vitals: _course(vitals.gradient_ratio)),
        ("signal, end to end", lambda vitals: _course(vitals.signal_ratio)),
        ("worst saturation", lambda vitals: _course(vitals.saturation, percent)),
        ("smallest update", lambda vitals: _course(vitals.update_ratio)),
        ("loss", lambda vitals: _course(vitals.loss)),
    ]
    settings: list[tuple[str, Callable[[Vitals], str]]] = [
        ("model", lambda vitals: vitals.model),
        ("optimizer", lambda vitals: vitals.optimizer),
        ("steps", lambda vitals: str(vitals.steps)),
    ]
    rows = [row for row in settings if row[1](before) != row[1](after)] + rows
    cells = [(name, figure(before), figure(after)) for name, figure in rows]
    return grid(("", "before", "after"), cells, page.width, page.clean)


def _layers(changes: Sequence[LayerChange], page: Page) -> Table:
    cells = [
        (
            spoken(change.name) + (f"#{change.call}" if change.call else ""),
            _course(change.gradient_ratio),
            _course(change.signal_ratio),
            _course(change.update_ratio),
        )
        for change in changes
    ]
    headings = ("at the last step", "gradient", "signal", "update")
    return grid(headings, cells, page.width, page.clean)


def _course(pair: Pair, write: Callable[[float | None], str] = number) -> str:
    """``7.3e-6 → 0.9``, or one of the two where they read the same."""
    first, last = map(write, pair)
    return first if first == last else f"{first} → {last}"


def _named(findings: Sequence[Finding]) -> str:
    """``GC101 vanishing-gradient (critical)``, each once with its worst severity."""
    worst: dict[str, Finding] = {}
    for finding in findings:
        held = worst.get(finding.code)
        if held is None or finding.severity.rank > held.severity.rank:
            worst[finding.code] = finding
    said = [f"{each.code} {each.rule} ({each.severity.value})" for each in worst.values()]
    return ", ".join(said) or "none"


def _moves(comparison: Comparison, *, verbose: bool) -> list[tuple[str, str]]:
    """What came, went, or became of another kind."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for name, old, new in comparison.replaced:
        kinds.setdefault((old, new), []).append(name)
    replaced = [
        f"{old} → {new} in {_fold(names, verbose=verbose)}" for (old, new), names in kinds.items()
    ]
    moves = [
        ("added", _fold(comparison.added, verbose=verbose)),
        ("removed", _fold(comparison.removed, verbose=verbose)),
        ("replaced", "; ".join(replaced)),
    ]
    return [move for move in moves if move[1]]


def _fold(names: Sequence[str], *, verbose: bool) -> str:
    return fold(names, names, most=len(names) if verbose else 4) if names else ""
