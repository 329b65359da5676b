"""What sentences are made of: a finding's facts by type, its layers folded, its steps in words."""

from __future__ import annotations

from collections.abc import Sequence

from gradcheckup.records import Finding, Step
from gradcheckup.report import Report
from gradcheckup.reports.names import fold, spoken
from gradcheckup.reports.numbers import at_steps, count, number, percent


class Evidence:
    """A finding, ready to be quoted: its facts by type, its layers folded."""

    def __init__(self, finding: Finding, report: Report) -> None:
        self.finding = finding
        self.report = report
        self.step = first_step(finding, report)

    def figure(self, name: str) -> float | None:
        """The fact with this name, if it is a number."""
        value = self.finding.fact(name)
        return None if value is None or isinstance(value, str) else float(value)

    def text(self, name: str) -> str:
        """The fact with this name, if it is text."""
        value = self.finding.fact(name)
        return value if isinstance(value, str) else ""

    @property
    def layers(self) -> str:
        """All layers concerned."""
        return fold_layers(self.finding.layers, self.report, most=3) or "the model"

    @property
    def worst(self) -> str:
        """The layer to name where only one is named."""
        finding = self.finding
        first = finding.layers[0] if finding.layers else "the first layer"
        return spoken(self.text("worst") or finding.culprit or first)

    @property
    def reference(self) -> str:
        """The layer that ratios refer to."""
        key = self.step.reference
        name = self.text("reference") or (key[0] if key else "")
        return spoken(name) if name else ""

    @property
    def when(self) -> str:
        """``, at all 8 steps``, with the comma before it; empty where it is not known."""
        held = at_steps(self.finding.steps, [step.index for step in self.report.steps])
        return f", {held}" if held else ""

    @property
    def limit(self) -> str:
        """`` (limit 0.02)``, with the space before it; empty where there is none."""
        limit = self.finding.limit
        return f" (limit {number(limit)})" if limit is not None else ""

    @property
    def percent_limit(self) -> str:
        """`` (limit 90%)``, likewise."""
        limit = self.finding.limit
        return f" (limit {percent(limit)})" if limit is not None else ""

    @property
    def share(self) -> str:
        """How many parameters are meant: ``4 of 20 parameters``."""
        total = self.figure("total")
        amount = int(self.figure("parameters") or len(self.finding.layers))
        if total is None or total < amount:
            return count(amount, "parameter")
        return f"{amount} of {count(int(total), 'parameter')}"


def first_step(finding: Finding, report: Report) -> Step:
    """The first step at which a finding held."""
    held = {step.index: step for step in report.steps}
    return next((held[index] for index in finding.steps if index in held), report.steps[0])


def fold_layers(names: Sequence[str], report: Report, *, most: int = 4) -> str:
    """`names` folded among the names of the same sort in the model."""
    step = report.steps[0]
    roles = {layer.role for layer in step.layers if layer.name in set(names)}
    universe = [layer.name for layer in step.layers if layer.role in roles]
    if not universe:
        universe = [parameter.name for parameter in step.parameters]
    folded = fold(names, universe, most=most)
    if names and not any(sign.isalpha() for name in names for sign in name):
        return f"layer{'s' if len(set(names)) > 1 else ''} {folded}"
    return folded
