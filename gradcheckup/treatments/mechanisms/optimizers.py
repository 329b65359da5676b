"""Optimizers that follow a model through a treatment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradcheckup.probe.safekeeping import copied
from gradcheckup.probe.subject import parameters_of
from gradcheckup.treatments.mechanisms.clipping import clip_of, clipped


def follow(
    optimizer: Optimizer,
    model: nn.Module,
    before: Mapping[Tensor, Tensor],
    names: Mapping[str, Tensor],
) -> None:
    """Has an optimizer update the parameters that a treated model has now.

    A parameter in the place of another one joins its group, and any other new one the largest;
    those that are gone leave theirs. What the optimizer knows of a parameter is forgotten where the
    treatment has changed it.

    Args:
        optimizer: Bound to the model before the treatment; changed in place.
        model: The treated model.
        before: The values of the optimizer's parameters before the treatment.
        names: The model's parameters before the treatment.
    """
    now = [each for each in model.parameters() if each.requires_grad]
    existing = {id(each) for each in model.parameters()}
    largest = max(optimizer.param_groups, key=lambda group: len(group["params"]))
    homes = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    for group in optimizer.param_groups:
        # Parameters of the loss are in no model and stay. LBFGS holds on to the list itself.
        group["params"][:] = [
            each for each in group["params"] if id(each) in existing or each not in before
        ]
    held = {id(each) for each in parameters_of(optimizer)}
    places = {id(each): name for name, each in model.named_parameters()}
    for each in now:
        if id(each) not in held and each not in before:
            homes.get(id(names.get(places[id(each)])), largest)["params"].append(each)
    gone = [
        parameter
        for parameter, values in before.items()
        if id(parameter) not in existing or not torch.equal(parameter, values)
    ]
    for parameter in gone:
        optimizer.state.pop(parameter, None)
    if gone or len(held) != sum(len(group["params"]) for group in optimizer.param_groups):
        _forget_as_one(optimizer)


def exchanged(optimizer: Optimizer, kind: type[Optimizer], rate: float) -> Optimizer:
    """Another optimizer of the same parameters, in the same groups, that clips as this one does.

    Weight decay is kept as well; where there is none, it is what the new class has by default.

    Args:
        optimizer: The present one.
        kind: Class of the new one.
        rate: Its learning rate; groups keep the proportions they have to the first one whose rate
            is not 0, as all are where a warm-up begins.
    """
    rates = [float(group.get("lr", 1.0)) for group in optimizer.param_groups]
    first = next(filter(None, rates), None)
    groups: list[dict[str, Any]] = [
        {"params": group["params"], "lr": rate * own / first if first else rate}
        for group, own in zip(optimizer.param_groups, rates, strict=True)
    ]
    decays = weight_decays(optimizer)
    if any(decays):
        for group, decay in zip(groups, decays, strict=True):
            group["weight_decay"] = decay
    other = kind(groups, lr=rate)  # type: ignore[call-arg]
    clip = clip_of(optimizer)
    if clip:
        clipped(other, clip)
    return other


def parameters_code(optimizer: Optimizer, model: nn.Module) -> str:
    """How the user's code gets at what an optimizer updates."""
    own = {id(each) for each in model.parameters()}
    trained = {id(each) for each in model.parameters() if each.requires_grad}
    held = {id(each) for each in parameters_of(optimizer)}
    if trained <= held <= own:
        return "model.parameters()"
    if len(optimizer.param_groups) == 1:
        return 'optimizer.param_groups[0]["params"]'
    return '[each for group in optimizer.param_groups for each in group["params"]]'


def weight_decays(optimizer: Optimizer) -> list[float]:
    """Of each group; 0 where there is none."""
    return [float(group.get("weight_decay") or 0.0) for group in optimizer.param_groups]


def narrowed(
    optimizer: Optimizer, without: Container[int], added: Iterable[nn.Parameter]
) -> Optimizer:
    """A new optimizer of the same class and settings, that updates some of the parameters.

    Args:
        optimizer: What it is like; stays as it is.
        without: `id` of each parameter that it is not to update.
        added: Parameters that it updates besides, with the settings of the largest group.
    """
    # Copied with the same parameters and nothing of what is known of them.
    memo: dict[int, Any] = {id(each): each for each in parameters_of(optimizer)}
    memo[id(optimizer.state)] = defaultdict(dict)
    other = copied(optimizer, memo)
    largest = max(other.param_groups, key=lambda group: len(group["params"]))
    for group in other.param_groups:
        group["params"][:] = [each for each in group["params"] if id(each) not in without]
    largest["params"] += added
    _forget_as_one(other)
    return other


def _forget_as_one(optimizer: Optimizer) -> None:
    """Has LBFGS, which sees all parameters as one vector, begin anew with another one."""
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.state.clear()
        optimizer._numel_cache = None  # noqa: SLF001 - there is no other way to have it count again
