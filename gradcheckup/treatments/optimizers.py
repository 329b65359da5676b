"""Optimizers that follow a model through a treatment."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradcheckup.treatments.clipping import clip_of, clipped


def follow(optimizer: Optimizer, model: nn.Module, before: Mapping[Tensor, Tensor]) -> None:
    """Has an optimizer update the parameters that a treated model has now.

    New parameters join the largest group, those that are gone leave theirs, and what the optimizer
    knows of a parameter is forgotten where the treatment has changed it.

    Args:
        optimizer: Bound to the model before the treatment; changed in place.
        model: The treated model.
        before: The values of the optimizer's parameters before the treatment.
    """
    now = [each for each in model.parameters() if each.requires_grad]
    existing = {id(each) for each in model.parameters()}
    for group in optimizer.param_groups:
        # Parameters of the loss are in no model and stay.
        group["params"] = [
            each for each in group["params"] if id(each) in existing or each not in before
        ]
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    largest = max(optimizer.param_groups, key=lambda group: len(group["params"]))
    largest["params"] += [each for each in now if id(each) not in held and each not in before]
    for parameter, values in before.items():
        if id(parameter) not in existing or not torch.equal(parameter, values):
            optimizer.state.pop(parameter, None)


def exchanged(optimizer: Optimizer, kind: type[Optimizer], rate: float) -> Optimizer:
    """Another optimizer of the same parameters, in the same groups, that clips as this one does.

    Args:
        optimizer: The present one.
        kind: Class of the new one.
        rate: Its learning rate; groups keep the proportions they have to the first one.
    """
    first = optimizer.param_groups[0].get("lr") or 1.0
    groups = [
        {"params": group["params"], "lr": rate * float(group.get("lr", first)) / float(first)}
        for group in optimizer.param_groups
    ]
    other = kind(groups, lr=rate)  # type: ignore[call-arg]
    clip = clip_of(optimizer)
    if clip:
        clipped(other, clip)
    return other


def default(model: nn.Module) -> Optimizer:
    """The optimizer that `diagnose` takes where none is given."""
    trained = [each for each in model.parameters() if each.requires_grad]
    return torch.optim.SGD(trained, lr=0.01, momentum=0.9)
