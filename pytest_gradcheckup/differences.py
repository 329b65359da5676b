"""What is said where a net is not what its baseline says."""

from __future__ import annotations

import math
from typing import Any

from gradcheckup import UsageError
from pytest_gradcheckup.baseline import Difference
from pytest_gradcheckup.failures import aligned
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

_MOST_ROWS = 12
_MOST_NAMES = 6


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


def mismatch(baseline: str, difference: Difference, tolerance: float) -> str:
    """What moved, came and went, and how to accept it."""
    head = f"gradient flow is not that of the baseline {baseline}"
    parts = [head, _table(difference, tolerance), *_changes(difference)]
    wanted = "wanted so? --gradcheckup-update writes the baseline anew; review its diff"
    return "\n\n".join([*filter(None, parts), wanted])


def renaming(baseline: str, difference: Difference) -> str:
    """For layers that are the same but for their names."""
    return f"{baseline}: {_renamed(difference)}; --gradcheckup-update writes the new names"


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


def _changes(difference: Difference) -> list[str]:
    lines = []
    if difference.added:
        lines.append(f"added: {_listed(difference.added)}")
    if difference.removed:
        lines.append(f"removed: {_listed(difference.removed)}")
    if difference.renamed:
        lines.append(_renamed(difference))
    lines.extend(difference.setup)
    return ["\n".join(lines)] if lines else []


def _renamed(difference: Difference) -> str:
    return "renamed: " + _listed(tuple(f"{old} is now {new}" for old, new in difference.renamed))


def _listed(names: tuple[str, ...]) -> str:
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _factor(then: float | None, now: float | None) -> str:
    if not then or not now or not math.isfinite(now / then):
        return ""
    return f"{now / then:.2g}x"
