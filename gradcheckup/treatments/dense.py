"""Dense connections: layers that are given the inputs of earlier ones as well."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from gradcheckup.errors import TreatmentError
from gradcheckup.treatments.editing import advice
from gradcheckup.treatments.editing.anatomy import WeightLayer
from gradcheckup.treatments.mechanisms.shortcuts import Memory, put_beside, remembered
from gradcheckup.treatments.treatment import Change, Effect
from gradcheckup.treatments.weights.initialization import mixing


def connect(model: nn.Module, chains: list[list[WeightLayer]], block: int) -> Effect:
    """Puts the inputs of all earlier layers of a block beside that of each layer.

    Args:
        model: Changed in place.
        chains: Layers of which each is computed from the one before alone.
        block: Over how many layers it is done before it begins anew.

    Raises:
        TreatmentError: Nothing fits together.
    """
    widened: list[str] = []
    in_forward: list[advice.Advice] = []
    for chain in chains:
        for start in range(0, len(chain) - 1, block):
            layers = [layer for layer in chain[start : start + block + 1] if _wide(model, layer)]
            memories: list[tuple[WeightLayer, Memory]] = []
            for earlier, layer in pairwise(layers):
                memories.append((earlier, remembered(model.get_submodule(earlier.name))))
                fitting = [held for held in memories if _beside(model, held[0], layer)]
                if not fitting:
                    continue
                sources, held = [each for each, _ in fitting], [memory for _, memory in fitting]
                dim = _dim(model, layer)
                in_forward.append(advice.dense(model, layer, sources, dim))
                _widen(model.get_submodule(layer.name), sum(x.given[dim] for x in sources))
                put_beside(held, model.get_submodule(layer.name), dim)
                widened.append(layer.name)
    if not widened:
        raise TreatmentError(
            "no two layers in a row with trainable weights of their own are given feature maps of "
            "the same size"
        )
    return Effect(
        changes=(Change("inputs of earlier layers beside the own one in", tuple(widened)),),
        snippet="\n".join(
            advice.write(in_forward, "where x0, x1 ... are the inputs of earlier layers")
        ),
    )


def _wide(model: nn.Module, layer: WeightLayer) -> bool:
    module = mixing(model, layer)
    if module is not None and _is_tied(model, module.weight):
        return False
    plain = isinstance(module, _ConvNd) and not module.transposed and module.groups == 1
    return isinstance(module, nn.Linear) or plain


def _is_tied(model: nn.Module, weight: torch.Tensor) -> bool:
    """Whether several modules have the same weight, which wider ones could not have."""
    holders = [
        module
        for module in model.modules()
        for each in module.parameters(recurse=False)
        if each is weight
    ]
    return len(holders) > 1


def _dim(model: nn.Module, layer: WeightLayer) -> int:
    module = model.get_submodule(layer.name)
    # A single sample has no dimension of the batch.
    return len(layer.given) + 1 - module.weight.dim() if isinstance(module, _ConvNd) else -1


def _beside(model: nn.Module, earlier: WeightLayer, layer: WeightLayer) -> bool:
    """Whether two inputs differ in their number of features alone."""
    dim = _dim(model, layer)
    if dim != _dim(model, earlier) or len(earlier.given) != len(layer.given):
        return False
    shapes = [list(each.given) for each in (earlier, layer)]
    for shape in shapes:
        shape[dim] = 0
    return shapes[0] == shapes[1]


def _widen(module: nn.Module, extra: int) -> None:
    """Gives a layer more inputs, with weights of the size of those it has."""
    old: torch.Tensor = module.weight  # type: ignore[assignment]
    more = old.new_empty(old.shape[0], extra, *old.shape[2:])
    before = old.shape[1]
    with torch.no_grad():
        # Together they pass on what the old ones did alone.
        shrunk = math.sqrt(before / (before + extra))
        more.normal_(0, float(old.detach().double().std()) * shrunk)
        joined = torch.cat([old.detach() * shrunk, more], 1)
    module.weight = nn.Parameter(joined, requires_grad=old.requires_grad)
    if isinstance(module, nn.Linear):
        module.in_features += extra
    elif isinstance(module, _ConvNd):
        module.in_channels += extra
