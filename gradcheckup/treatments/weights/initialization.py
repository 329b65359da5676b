"""Draws initial weights, critical ones by `gains` or such of unit variance on a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gradcheckup.capture.tap import outputs_of
from gradcheckup.treatments.editing.anatomy import Anatomy, WeightLayer
from gradcheckup.treatments.editing.surgery import folded
from gradcheckup.treatments.weights.gains import critical_gain, offset
from gradcheckup.treatments.weights.memory import SLOPES, scale_drivers

_LSUV_TOLERANCE, _LSUV_ROUNDS = 0.1, 10
_LEAST_VARIANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Drawn:
    """New weights of one layer.

    Attributes:
        name: Of the layer.
        std: Their standard deviation.
        offset: What the bias takes back, phi(0) of the activation in front.
        gain: Of orthogonal weights, which layers in a loop get; None for normal ones.
    """

    name: str
    std: float
    offset: float = 0.0
    gain: float | None = None


Mixing = nn.Linear | _ConvNd
"""Layers whose weights this module draws."""


def mixing(model: nn.Module, layer: WeightLayer) -> Mixing | None:
    """The linear layer or convolution of this name, where its weights can be drawn.

    None for other layers, and where the weights are frozen, complex, or computed from other
    parameters, as by `weight_norm`.
    """
    module = model.get_submodule(layer.name)
    if not isinstance(module, (nn.Linear, _ConvNd)):
        return None
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    if weight is None or not weight.requires_grad or not weight.is_floating_point():
        return None
    return module


def critical(model: nn.Module, anatomy: Anatomy, run: Callable[[], Any]) -> list[Drawn]:
    """Draws critical weights for linear layers and convolutions, in execution order.

    A norm behind a layer undoes any scale: such layers stay as they are. The first layer is scaled
    by what it makes of the batch, to mean 0 and variance 1; one that drives a recurrence, so that
    its states do not saturate (`memory`).

    Args:
        model: Changed in place.
        anatomy: Of the model.
        run: Runs the model on a batch.
    """
    drawn: dict[str, Drawn] = {}
    tied: set[Tensor] = set()
    for layer in anatomy.layers:
        module = mixing(model, layer)
        if module is None or layer.normalised:
            continue
        kind = _activation_before(anatomy, layer)
        std = critical_gain(kind) / math.sqrt(fans(module)[0])
        with torch.no_grad():
            if module.weight in tied:  # what an earlier layer took back was for these values
                std = float(module.weight.double().std())
            elif layer.recurrent:
                orthogonal(module.weight, critical_gain(kind))
            else:
                module.weight.normal_(0, std)
            if is_drawn(module.bias):
                module.bias.copy_(-offset(kind) * _sums(module))
        if not layer.sources and not layer.output and module.weight not in tied:
            std *= standardize(module, run)
        gain = critical_gain(kind) if layer.recurrent and module.weight not in tied else None
        tied.add(module.weight)
        drawn[layer.name] = Drawn(layer.name, std, offset(kind), gain)
        drivers = _drivers(anatomy, layer)
        if kind is not None and kind in SLOPES and drivers and drawn.keys() >= set(drivers):
            modules = [model.get_submodule(name) for name in drivers]
            factor = scale_drivers(module, modules, kind, layer.calls, run)
            drawn |= {name: replace(drawn[name], std=drawn[name].std * factor) for name in drivers}
    return list(drawn.values())


def _drivers(anatomy: Anatomy, layer: WeightLayer) -> list[str]:
    """The layers whose outputs join those of one that a state runs through, step by step.

    None of them where more than this one layer makes a state of the one before: gates, as a rule.
    """
    others = [name for name in layer.sources if name != layer.name]
    found = [anatomy.by_name[name] for name in others if name in anatomy.by_name]
    alone = layer.recurrent and layer.kind == "linear" and layer.given[-1] == layer.shape[-1]
    plain = all(each.calls == layer.calls and not each.recurrent for each in found)
    return others if alone and plain and len(found) == len(others) else []


def _activation_before(anatomy: Anatomy, layer: WeightLayer) -> str | None:
    kinds = [
        kind
        for source in layer.sources
        if source in anatomy.by_name
        for kind in anatomy.by_name[source].activations
    ]
    return kinds[-1] if kinds else None


def is_drawn(bias: Any) -> TypeGuard[Tensor]:
    """Whether there is a bias, and it is not frozen."""
    return bias is not None and bias.requires_grad


def fans(module: Mixing) -> tuple[int, int]:
    """How many inputs a unit reads, and how many units read an input."""
    weight: Tensor = module.weight
    first, second = weight.shape[:2]
    taps = weight[0, 0].numel()
    if not isinstance(module, _ConvNd):
        return second, first
    first //= module.groups  # the other dimension counts those of one group already
    read, reading = (first, second) if module.transposed else (second, first)
    return read * taps, reading * taps


def _sums(module: Mixing) -> Tensor:
    """The sum of the weights of each unit."""
    weight: Tensor = module.weight.detach()
    if isinstance(module, _ConvNd) and module.transposed:
        groups = weight.chunk(module.groups)
        # (inputs, outputs of a group, ...), the inputs of all groups after each other
        return torch.cat([each.transpose(0, 1).flatten(1).sum(1) for each in groups])
    return weight.flatten(1).sum(1)


def is_narrow(weights: Iterable[Tensor]) -> bool:
    """Whether torch knows no QR decomposition of a format among these, as `orthogonal_` needs."""
    return any(each.dtype in (torch.float16, torch.bfloat16) for each in weights)


def orthogonal(weight: Tensor, gain: float = 1.0) -> None:
    """Orthogonal weights (Saxe, McClelland & Ganguli 2014): every direction keeps its size."""
    # The decomposition behind it exists in full precision alone.
    drawn = torch.empty_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    weight.copy_(nn.init.orthogonal_(drawn, gain))


def standardize(module: Mixing, run: Callable[[], Any]) -> float:
    """Scales a layer so that its outputs on a batch have mean 0 and variance 1 over all units.

    Returns:
        By what the weights were multiplied.
    """
    values = outputs_of(module, run)
    if values is None or len(values) < 2:
        return 1.0
    # Counted from the end: a single sample has no dimension of the batch.
    units_dim = 1 - module.weight.dim() if isinstance(module, _ConvNd) else -1
    units = values.movedim(units_dim, 0).reshape(values.shape[units_dim], -1).double()
    mean = units.mean(1)
    deviation = float((units - mean[:, None]).square().mean().sqrt())
    if not math.isfinite(deviation) or deviation**2 < _LEAST_VARIANCE:
        return 1.0
    with torch.no_grad():
        module.weight /= deviation
        if is_drawn(module.bias):
            module.bias.copy_((module.bias.double() - mean) / deviation)
    return 1 / deviation


def unit_variance(model: nn.Module, anatomy: Anatomy, run: Callable[[], Any]) -> list[Drawn]:
    """Layer-sequential unit variance (Mishkin & Matas 2016).

    Orthogonal weights, then each layer in turn is divided by the standard deviation of its outputs
    on a batch, until that is 1.
    """
    drawn = []
    tied: set[Tensor] = set()
    for layer in anatomy.layers:
        module = mixing(model, layer)
        if module is None or layer.normalised or layer.output or module.weight in tied:
            continue
        tied.add(module.weight)
        with torch.no_grad():
            orthogonal(module.weight)
            if is_drawn(module.bias):
                module.bias.zero_()
        for _ in range(_LSUV_ROUNDS):
            values = outputs_of(module, run)
            variance = float(values.double().var()) if values is not None else math.nan
            if not variance > _LEAST_VARIANCE or abs(variance - 1) < _LSUV_TOLERANCE:
                break
            with torch.no_grad():
                module.weight /= math.sqrt(variance)
        drawn.append(Drawn(layer.name, float(module.weight.detach().double().std())))
    return drawn


def code(model: nn.Module, drawn: list[Drawn]) -> str:
    """The same for the user's own code, less what the first layer got from the batch."""
    first = {model.get_submodule(each.name).weight: each for each in reversed(drawn)}
    loops: dict[tuple[str, bool], list[Drawn]] = {}
    for each in drawn:
        module = model.get_submodule(each.name)
        tied = first[module.weight] is not each
        if not tied or is_drawn(module.bias):
            turned = isinstance(module, _ConvNd) and module.transposed
            size = "" if tied else "std" if each.gain is None else "gain"
            loops.setdefault((size, turned), []).append(each)
    return "\n".join(
        line for (size, turned), each in loops.items() for line in _loop(model, each, size, turned)
    )


_CALLS = {
    "std": "nn.init.normal_(layer.weight, std=std)",
    "gain": "nn.init.orthogonal_(layer.weight, gain)",
}
_TURNED = "nn.init.orthogonal_(layer.weight.data.float(), gain)"
_NARROW = {**_CALLS, "gain": f"layer.weight.data.copy_({_TURNED})"}


def _loop(model: nn.Module, drawn: list[Drawn], size: str, turned: bool) -> Iterator[str]:
    """Lines that go through layers; weights that are tied to those of others have no size."""
    shifted = any(each.offset for each in drawn)
    biased = [is_drawn(model.get_submodule(each.name).bias) for each in drawn]
    narrow = is_narrow(model.get_parameter(f"{each.name}.weight".strip(".")) for each in drawn)
    names = [*filter(None, [size]), *(["offset"] if shifted else [])]
    rows = [
        (each.name, ", ".join(f"{getattr(each, name):.3g}" for name in names)) for each in drawn
    ]
    yield f"for {', '.join(['layer', *names])} in ("
    yield from (f"    {row}," for row in folded(model, rows))
    yield "):"
    if size:
        yield f"    {(_NARROW if narrow else _CALLS)[size]}"
    if not any(biased):
        return
    if not all(biased):
        yield "    if layer.bias is not None and layer.bias.requires_grad:"
    indent = "    " if all(biased) else "        "
    if not shifted:
        yield f"{indent}nn.init.zeros_(layer.bias)"
        return
    # Takes back what the activation in front hands on at 0.
    units = "unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(2).sum(2).flatten()"
    taken = units if turned else "flatten(1).sum(1)"
    yield f"{indent}layer.bias.data = -offset * layer.weight.data.{taken}"
