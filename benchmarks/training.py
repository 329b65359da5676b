"""The label of a case: what became of the net when it was trained, and whether it was the net.

A net that fails gets two more chances. One that learns with four times the budget is `slow`: the
budget was the fault. One that learns at a tenth of the learning rate is `unstable`: many of these
train well until they blow up, long after any probe. Neither says that gradient flow was or was not
in order, so they are counted apart, and in a stricter score as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import torch

from benchmarks.cases import Case

LEARNS, FAILS = "learns", "fails"
SLOW, UNSTABLE, AMBIGUOUS = "slow", "unstable", "ambiguous"
PATIENCE = (2, 4)
_GENTLE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What training came to.

    Attributes:
        label: `learns` or `fails`, by the limits of the task; `slow`, `unstable`, or `ambiguous`
            where the score lies between the limits to the end.
        score: Validation score after the budget; None where the loss left the finite numbers.
        late_score: After twice or four times the budget, of nets that had not learnt before.
        gentle_score: After the budget at a tenth of the learning rate, of nets that fail.
    """

    label: str
    score: float | None
    late_score: float | None = None
    gentle_score: float | None = None


class _Run:
    """One training of a case, which can be continued."""

    def __init__(self, case: Case, seed: int, rate: float = 1.0) -> None:
        torch.manual_seed(seed)
        self.case = case
        self.model = case.build()
        self.optimizer = case.make_optimizer(self.model.parameters())
        for group in self.optimizer.param_groups:
            group["lr"] *= rate
        self.criterion = case.task.criterion()
        self.batches = case.task.batches(case.batch_size, seed)
        self.finite = True

    def train(self, steps: int) -> float | None:
        """Trains on, and scores on samples that were not seen; None for a loss without a number."""
        self.model.train()
        for inputs, targets in islice(self.batches, steps if self.finite else 0):
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(inputs), targets)
            self.finite = math.isfinite(loss.item())
            if not self.finite:
                break
            loss.backward()
            self.optimizer.step()
        return self._score() if self.finite else None

    def _score(self) -> float | None:
        self.model.eval()
        with torch.no_grad():
            outputs = self.model(self.case.task.held_inputs)
        if not bool(outputs.isfinite().all()):
            return None
        return self.case.task.score(outputs, self.case.task.held_targets)


def train(case: Case, seed: int, budget: int) -> Outcome:
    """Trains a case for `budget` steps, and further or more gently where that fails.

    A net counts by where it ends, not by its best moment: one that learns and then diverges fails.
    One whose fault is a fact fails in any case.
    """
    run = _Run(case, seed)
    score = run.train(budget)
    if case.culprit and case.culprit.fact:
        return Outcome(label=FAILS, score=score)
    label = _label(case, score)
    if label == LEARNS:
        return Outcome(label=label, score=score)
    late, done = score, 1
    for times in PATIENCE:
        late = run.train((times - done) * budget)
        done, label = times, _label(case, late)
        if label == LEARNS:
            return Outcome(label=SLOW, score=score, late_score=late)
    if label == AMBIGUOUS:
        return Outcome(label=label, score=score, late_score=late)
    gentle = _Run(case, seed, _GENTLE).train(budget)
    label = UNSTABLE if _label(case, gentle) == LEARNS else FAILS
    return Outcome(label=label, score=score, late_score=late, gentle_score=gentle)


def _label(case: Case, score: float | None) -> str:
    if score is None or score <= case.task.fails:
        return FAILS
    return LEARNS if score >= case.task.learns else AMBIGUOUS
