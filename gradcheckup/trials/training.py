"""Trains a treated model for a budget and measures what became of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradcheckup.prescription import Outcome
from gradcheckup.probe import batches
from gradcheckup.probe.objective import Objective, is_torchs
from gradcheckup.probe.safekeeping import in_eval_mode, random_state
from gradcheckup.treatments.course import Treated

_FEWEST_TO_SET_ASIDE = 5
_SET_ASIDE = 0.2
_FEWEST_CLASSES = 2
_IGNORED = -100
"""Targets that torch's cross-entropy leaves out unless it is told others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What all trials have in common.

    Attributes:
        objective: Computes the loss.
        training: Batches, used in turn, again and again.
        held_out: Batches to measure the outcome on: the training ones where there are few.
        budget: Training steps.
        on_step: Called after each step.
    """

    objective: Objective
    training: Sequence[Any]
    held_out: Sequence[Any]
    budget: int
    on_step: Callable[[], None] = field(default=lambda: None)

    @property
    def aside(self) -> int:
        """How many batches are kept from training."""
        return 0 if self.held_out is self.training else len(self.held_out)


def divided(taken: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Batches to train on and the last fifth to judge by; all for both where there are few."""
    if len(taken) < _FEWEST_TO_SET_ASIDE:
        return taken, taken
    aside = max(1, round(_SET_ASIDE * len(taken)))
    return taken[:-aside], taken[-aside:]


def train(
    treated: Treated,
    course: Course,
    seed: int,
    at_start: Callable[[Optimizer], None] = lambda _: None,
) -> Outcome:
    """Trains a model in place.

    Args:
        treated: Model, optimizer and plan.
        course: Data, loss and budget.
        seed: Of dropout and the like.
        at_start: Called with the optimizer when the whole net begins to train: at once, or at the
            start of the last stage of a plan.
    """
    model = treated.model
    if not any(module.training for module in model.modules()):
        model.train()
    with random_state(seed), torch.enable_grad():
        finite = True
        for optimizer, steps, last in _stages(treated, course.budget):
            if last:
                at_start(optimizer)
            finite = finite and _train(model, optimizer, course, steps)
        outcome = measure(model, course, seed)
    return outcome if finite else replace(outcome, loss=math.inf)


def _stages(treated: Treated, budget: int) -> Iterator[tuple[Optimizer, int, bool]]:
    """Optimizer and steps of each stage of training, and whether it is the last one."""
    if treated.plan is None:
        assert treated.optimizer is not None  # noqa: S101 - trials always have one
        yield treated.optimizer, budget, True
        return
    for stage, steps, last in treated.plan.shared_out(budget):
        yield stage.optimizer, steps, last


def _train(model: nn.Module, optimizer: Optimizer, course: Course, steps: int) -> bool:
    """Some steps; False where the loss stopped being finite."""
    device = next(model.parameters()).device
    for index in range(steps):
        batch = batches.copied(course.training[index % len(course.training)], device)

        def closure(batch: Any = batch) -> Tensor:
            optimizer.zero_grad()
            loss = course.objective.loss(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        # Every optimizer takes a closure, and some need one.
        loss: Any = optimizer.step(closure)  # type: ignore[arg-type]
        course.on_step()
        if not math.isfinite(float(loss.detach())):
            return False
    return True


def measure(model: nn.Module, course: Course, seed: int) -> Outcome:
    """How good a model is in eval mode; its modes are as before."""
    device = next(model.parameters()).device
    losses: list[float] = []
    answers: list[tuple[Tensor, Tensor]] = []
    with in_eval_mode(model):
        for given in course.held_out:
            batch = batches.copied(given, device)
            losses.append(float(course.objective.loss(model, batch).detach()))
            found = _classes(model, batches.copied(given, device), course.objective)
            if found is not None:
                answers.append(found)
    loss = sum(losses) / len(losses)
    if not answers:
        return Outcome(seed=seed, loss=loss)
    said, right = (torch.cat(parts) for parts in zip(*answers, strict=True))
    return Outcome(
        seed=seed,
        loss=loss,
        accuracy=float((said == right).float().mean()),
        samples=len(right),
        chance=float((right == right.mode().values).float().mean()),
    )


def _classes(model: nn.Module, batch: Any, objective: Objective) -> tuple[Tensor, Tensor] | None:
    """The classes that a model names and the right ones; None where it is no classification."""
    if objective.compute_loss is not None:
        return None
    with torch.no_grad():
        outputs, targets = objective.scores(model, batch)
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or not targets.numel():
        return None
    if not targets.is_floating_point() and outputs.ndim == targets.ndim + 1:
        dim = _class_dim(outputs, targets, objective.criterion)
        if dim is None or outputs.shape[dim] < _FEWEST_CLASSES:
            return None
        said = outputs.argmax(dim)
        counts = targets != getattr(objective.criterion, "ignore_index", _IGNORED)
        return (said[counts], targets[counts]) if counts.any() else None
    binary = bool(((targets == 0) | (targets == 1)).all())
    if binary and outputs.numel() == targets.numel() and _is_binary(objective.criterion):
        given = isinstance(objective.criterion, nn.BCELoss)
        said = outputs.reshape(targets.shape) > (0.5 if given else 0.0)
        return said.flatten(), targets.bool().flatten()
    return None


def _class_dim(outputs: Tensor, targets: Tensor, criterion: Any) -> int | None:
    """Which dimension of the outputs the classes are in; None where the shapes do not tell.

    Torch's own losses have them in dimension 1, any others last where both would fit.
    """
    last = outputs.shape[:-1] == targets.shape
    second = outputs.shape[:1] == targets.shape[:1] and outputs.shape[2:] == targets.shape[1:]
    if last and not (second and is_torchs(criterion)):
        return -1
    return 1 if second else None


def _is_binary(criterion: Any) -> bool:
    name = type(criterion).__name__.lower() + getattr(criterion, "__name__", "").lower()
    return criterion is None or "bce" in name or "binary_cross_entropy" in name
