"""What is said where a net is not what its baseline says."""

from __future__ import annotations

import math
from typing import Any

import gradcheckup
from gradcheckup import UsageError
from pytest_gradcheckup.comparing import Difference
from pytest_gradcheckup.failures import aligned
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

_MOST_ROWS = 12
_MOST_NAMES = 6
_FEWEST = 3
_COLUMNS = 50

UPDATE = "--gradcheckup-update writes it anew; review the diff"


def check_tolerance(given: Any) -> None:
    """Refuses what is no factor.

    Raises:
        UsageError: It is no number above 1.
    """
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not number or not 1 < given < math.inf:
        raise UsageError(f"expected tolerance to be a factor above 1, as 2.0, got {given!r}")


def missing(baseline: str) -> str:
    """For a run that never writes one."""
    return (
        f"there is no baseline {baseline}, and --gradcheckup-ci never writes one: run the test "
        "once without it, and commit the file"
    )


def claim(baseline: str) -> str:
    """The first line of a failure."""
    return f"gradient flow is not that of the baseline {baseline}"


def unfit(baseline: str, why: str) -> str:
    """For a net whose numbers no baseline can keep."""
    return f"expected finite numbers to store in {baseline}: {why}; nothing was written"


def details(difference: Difference, tolerance: float) -> list[str]:
    """What moved, came and went, each a paragraph."""
    parts = [difference.ended or "", _table(difference, tolerance), "\n".join(changes(difference))]
    return [part for part in (*parts, _picture(difference)) if part]


def changes(difference: Difference) -> list[str]:
    """What is not about gradient and signal, a line each."""
    lines = [
        f"{name}: {_listed(names)}"
        for name, names in (("added", difference.added), ("removed", difference.removed))
        if names
    ]
    lines += [f"{name} was {then}, is {now}" for name, then, now in difference.replaced]
    if difference.resized:
        lines.append(
            "resized: "
            + _listed(
                tuple(
                    f"{name} was {_shape(then)}, is {_shape(now)}"
                    for name, then, now in difference.resized
                )
            )
        )
    if difference.renamed:
        renamed = tuple(f"{old} is now {new}" for old, new in difference.renamed)
        lines.append(f"renamed: {_listed(renamed)}")
    return [*lines, *difference.setup]


def remark(baseline: str, difference: Difference) -> str | None:
    """For the summary, where a net passes that is not the same in all; None where it is."""
    lines = changes(difference)
    if not lines:
        return None
    return f"{baseline}: {'; '.join(lines)}; --gradcheckup-update writes it as it is"


def _table(difference: Difference, tolerance: float) -> str:
    if not difference.moved:
        return ""
    rows = [
        (layer, what, "was", _number(then), "is", _number(now), _factor(then, now))
        for layer, what, then, now in difference.moved
    ]
    rest = len(rows) - _MOST_ROWS
    more = [f"  and {rest} more"] if rest > 0 else []
    first = f"beyond a factor of {tolerance:g}:"
    return "\n".join([first, *aligned(rows[:_MOST_ROWS]), *more])


def _picture(difference: Difference) -> str:
    """Then and now over the layers, on one scale, of what moved."""
    if len(difference.pairs) < _FEWEST:
        return ""
    lines = []
    moved = {what for _, what, _, _ in difference.moved}
    for what in ("gradient", "signal"):
        if what in moved:
            values = [getattr(pair[time], what) for time in (0, 1) for pair in difference.pairs]
            columns = min(len(difference.pairs), _COLUMNS)
            line = gradcheckup.sparkline(values, 2 * columns)
            lines.append(f"  {what:<9} was  {line[:columns]}")
            lines.append(f"  {'':<9} is   {line[columns:]}")
    return "\n".join(lines)


def _listed(names: tuple[str, ...]) -> str:
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _factor(then: float | None, now: float | None) -> str:
    if not then or not now or not math.isfinite(now / then):
        return ""
    return f"{now / then:.2g}x"


def _shape(weight: tuple[int, ...]) -> str:
    return "x".join(map(str, weight)) or "without weight"
