"""Numbers as people read them. A value that is None prints as a dash, never as 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "–"


def number(value: float | None) -> str:
    """Two significant digits, three from 100 on: ``7.9e-6``, ``0.14``, ``2,500``."""
    if value is None:
        return MISSING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    size = abs(value)
    if size == 0:
        return "0"
    # The digits decide about the form, so that 999,999.6 is not written as 1,000,000.
    digits, _, exponent = f"{value:.{2 if size >= 99.5 else 1}e}".partition("e")
    power = int(exponent)
    if -3 <= power < 6:
        written = f"{float(f'{digits}e{power}'):,.{max(1 - power, 0)}f}"
        return written.rstrip("0").rstrip(".") if "." in written else written
    return f"{digits.rstrip('0').rstrip('.')}e{power}"


def factor(value: float) -> str:
    """How many times: ``126,000×``."""
    return f"{number(value)}×"


def percent(share: float | None) -> str:
    """A share in whole percent; 0% and 100% are said of exact values alone."""
    if share is None or not math.isfinite(share):
        return number(share)
    rounded = round(100 * share)
    if rounded == 0 and share > 0:
        return "<1%"
    if rounded == 100 and share < 1:
        return ">99%"
    return f"{rounded}%"


def count(amount: int, singular: str, plural: str = "") -> str:
    """``1 layer``, ``8 layers``."""
    return f"{amount:,} {singular if amount == 1 else plural or f'{singular}s'}"


def at_steps(held: Sequence[int], made: Sequence[int]) -> str:
    """When a finding held, of the steps that were made: ``at all 8 steps``, ``from step 4 on``.

    Args:
        held: Numbers of the steps at which it held.
        made: Numbers of all steps that were measured; of a watched run, not all that there were.
    """
    if not held:
        return ""
    if len(made) == 1:
        return "at the one step"
    looks = "steps" if list(made) == list(range(len(made))) else "looks"
    if len(held) == len(made):
        return f"at all {len(made)} {looks}"
    if len(held) == 1:
        return f"at step {held[0]}"
    if list(held) == list(made)[-len(held) :]:
        return f"from step {held[0]} on"
    return f"at {len(held)} of {len(made)} {looks}"
