"""The training that rules look at: the first steps of a case, one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from benchmarks.cases import PROBE_STEPS, Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One step, after the backward pass and before the update.

    Attributes:
        model: The net, with its gradients.
        optimizer: Its optimizer.
        loss: The loss on the batch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: float

    def gradients(self) -> dict[str, Tensor]:
        """Gradients of the trainable parameters that have one, by name, in the model's order."""
        return {
            name: each.grad
            for name, each in self.model.named_parameters()
            if each.requires_grad and each.grad is not None
        }


def begin(case: Case, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The net and its optimizer, as the training of this case begins with them."""
    torch.manual_seed(seed)
    model = case.build()
    return model, case.make_optimizer(model.parameters())


def moments(
    case: Case, seed: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[Moment]:
    """Trains for some steps, and stops in each; ends early once the loss is not finite."""
    criterion = case.task.criterion()
    for inputs, targets in islice(case.task.batches(case.batch_size, seed), PROBE_STEPS):
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        yield Moment(model=model, optimizer=optimizer, loss=loss.item())
        if not math.isfinite(loss.item()):
            return
        optimizer.step()
