"""What a rule is: a stable code, its explanation, and a function from recording to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gradcheckup.records import Finding, Recording
from gradcheckup.thresholds import Thresholds

_YIELDING = (
    "It is no more than a warning in a small net that was followed and learns all the same: its "
    "loss on at least 4 batches is at step 64 less than unlearnt_loss of what it is where their "
    "samples exchange the outputs, or by step 256 its loss on batches that it was not trained on. "
    "A light net is trained on to step 2048 at most, to see whether that holds."
)
_CONVICTING = (
    "A warning is critical where the net learns next to nothing in schooled_steps (GC306)."
)

Check = Callable[[Recording, Thresholds], Iterator[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule and everything that is said about it, in one place.

    Attributes:
        code: Stable code, ``GC101``; the hundreds are families.
        name: Its name, ``vanishing-gradient``.
        summary: One line for tables.
        formula: What is measured and compared.
        default: The limits and the evidence for them.
        false_alarms: Known ones, and what keeps them rare.
        remedy: What usually helps.
        check: The rule itself.
        yields: Whether what it finds is no more than a warning in a net that learns all the same.
        convicts: Whether what it warns of is critical in a net that learns nothing.
    """

    code: str
    name: str
    summary: str
    formula: str
    default: str
    false_alarms: str
    remedy: str
    check: Check
    yields: bool = False
    convicts: bool = False

    @property
    def measured(self) -> str:
        """The formula, and what else decides."""
        return " ".join([self.formula, *[_YIELDING] * self.yields, *[_CONVICTING] * self.convicts])
