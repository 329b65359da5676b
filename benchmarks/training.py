"""The label of a case: what became of the net when it was trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import torch

from benchmarks.cases import Case

LEARNS, FAILS, AMBIGUOUS = "learns", "fails", "ambiguous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What training came to.

    Attributes:
        label: `learns`, `fails` or `ambiguous`, by the limits of the task.
        score: Validation score at the end; None where the loss left the finite numbers.
    """

    label: str
    score: float | None


def train(case: Case, seed: int, budget: int) -> Outcome:
    """Trains a case for `budget` steps and scores it on samples it has not seen.

    A net counts by where it ends, not by its best moment: one that learns and then diverges fails.
    """
    torch.manual_seed(seed)
    model = case.build()
    optimizer = case.make_optimizer(model.parameters())
    criterion = case.task.criterion()
    for inputs, targets in islice(case.task.batches(case.batch_size, seed), budget):
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        if not math.isfinite(loss.item()):
            return Outcome(label=FAILS, score=None)
        loss.backward()
        optimizer.step()
    score = _score(case, model)
    return Outcome(label=_label(case, score), score=score)


def _score(case: Case, model: torch.nn.Module) -> float | None:
    model.eval()
    with torch.no_grad():
        outputs = model(case.task.held_inputs)
    if not bool(outputs.isfinite().all()):
        return None
    return case.task.score(outputs, case.task.held_targets)


def _label(case: Case, score: float | None) -> str:
    if score is None or score <= case.task.fails:
        return FAILS
    return LEARNS if score >= case.task.learns else AMBIGUOUS
