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
from torch import nn

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


class Training:
    """The training of a model on the task of a case, which can be continued.

    Attributes:
        case: The task.
        model: Trained in place.
        finite: Whether each loss was a finite number; after one that was not, no step is made.
    """

    def __init__(self, case: Case, model: nn.Module, seed: int) -> None:
        """Sets the batches out; weights and dropout draw from torch's global generator.

        Args:
            case: As the attribute.
            model: As the attribute.
            seed: Of the batches.
        """
        self.case = case
        self.model = model
        self.finite = True
        self._criterion = case.task.criterion()
        self._batches = case.task.batches(case.batch_size, seed)

    def advance(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Makes some more steps, up to a loss that is no finite number."""
        self.model.train()
        for inputs, targets in islice(self._batches, steps if self.finite else 0):
            optimizer.zero_grad()
            loss = self._criterion(self.model(inputs), targets)
            self.finite = math.isfinite(loss.item())
            if not self.finite:
                return
            loss.backward()
            optimizer.step()

    def score(self) -> float | None:
        """Score on samples that were not seen; None where a loss or an output is not finite."""
        if not self.finite:
            return None
        self.model.eval()
        with torch.no_grad():
            outputs = self.model(self.case.task.held_inputs)
        if not bool(outputs.isfinite().all()):
            return None
        return self.case.task.score(outputs, self.case.task.held_targets)


class _Run(Training):
    """Training of the net of a case with its own optimizer, at a share of the learning rate."""

    def __init__(self, case: Case, seed: int, rate: float = 1.0) -> None:
        torch.manual_seed(seed)
        super().__init__(case, case.build(), seed)
        self.optimizer = case.make_optimizer(self.model.parameters())
        for group in self.optimizer.param_groups:
            group["lr"] *= rate

    def train(self, steps: int) -> float | None:
        """Trains on, and scores."""
        self.advance(self.optimizer, steps)
        return self.score()


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
