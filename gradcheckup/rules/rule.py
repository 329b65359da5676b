"""What a rule is: a stable code, its explanation, and a function from recording to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gradcheckup.records import Finding, Recording
from gradcheckup.thresholds import Thresholds

_YIELDING = (
    "It is no more than a warning in a small net that was followed to step 64 and learns all the "
    "same: its loss on at least 4 batches is less than unlearnt_loss of what it is where their "
    "samples exchange the outputs."
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

    @property
    def measured(self) -> str:
        """The formula, and what else decides."""
        return f"{self.formula} {_YIELDING}" if self.yields else self.formula
