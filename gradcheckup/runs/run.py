"""A watched run: what was read of it so far, and the judgement on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradcheckup import rules
from gradcheckup.errors import UsageError
from gradcheckup.records import Finding, Recording, Step
from gradcheckup.report import Report
from gradcheckup.runs.trace import Trace
from gradcheckup.thresholds import Thresholds

_ENOUGH = 4


class Run:
    """Takes in what is read of a run, and judges it.

    Attributes:
        every: Of how many optimizer steps one is sampled.
        thresholds: Limits to judge by.
        rules: What to judge by.
        subject: What to call the model in the report.
        processes: How many processes train the model together.
        steps: Optimizer steps so far.
        trace: What is kept of them.
        failure: Why the monitor stopped by itself; None if it did not.
        judged: Index of the step at which findings were last looked for, and which there were; None
            before there were looks enough.
    """

    def __init__(
        self, *, every: int, thresholds: Thresholds, chosen: Sequence[rules.Rule], subject: str
    ) -> None:
        self.every, self.thresholds, self.rules, self.subject = every, thresholds, chosen, subject
        self.processes = 1
        self.steps = 0
        self.trace = Trace()
        self.failure: str | None = None
        self.judged: tuple[int, tuple[Finding, ...]] | None = None
        self._facts: Recording | None = None
        self._told: set[tuple[str, tuple[str, ...]]] = set()

    @property
    def strays(self) -> bool:
        """Whether the latest samples ask for a full look: see `Trace.strays`."""
        limits = self.thresholds
        return self.trace.strays(
            limits.gradient_ratio_critical,
            limits.gradient_ratio_high,
            looks=_ENOUGH,
            every=self.every,
        )

    def look(self, step: Step, facts: Recording, layers: tuple[str, ...]) -> None:
        """Takes in a full look.

        Args:
            step: What was measured.
            facts: What is known of the model beside its steps.
            layers: Names of the layers whose norms samples have from now on.
        """
        self._facts = facts
        self.trace.look(step, layers)

    def fresh(self) -> tuple[Finding, ...]:
        """Findings that were not there before, once there are looks enough, or a NaN or Inf."""
        steps = self.trace.steps
        if len(steps) < _ENOUGH and self.trace.first_bad is None:
            return ()
        found = self.report().findings
        self.judged = steps[-1].index, found
        fresh = tuple(each for each in found if (each.code, each.layers) not in self._told)
        self._told.update((each.code, each.layers) for each in fresh)
        return fresh

    def report(self) -> Report:
        """The verdict on the last full looks, and the course of the run.

        Raises:
            UsageError: There is no full look yet.
        """
        if self._facts is None or not self.trace.steps:
            raise UsageError("expected a sampled training step to report on, but there is none yet")
        recording = replace(
            self._facts,
            steps=tuple(self.trace.steps),
            batches=len(self.trace.steps),
            history=self.trace.history(
                every=self.every, steps=self.steps, processes=self.processes
            ),
            unexplained=self.trace.loss_left,
        )
        stopped = (f"the monitor stopped by itself: {self.failure}",) if self.failure else ()
        return Report(
            recording=recording,
            findings=rules.judge(recording, self.thresholds, self.rules),
            thresholds=self.thresholds,
            assumptions=stopped,
            subject=self.subject,
        )
