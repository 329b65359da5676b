"""Initial weights at which signal and gradient neither grow nor fade, by mean-field theory.

In a fully connected net with weights N(0, g^2 / fan_in) pre-activations have variance
q' = g^2 E[phi(sqrt(q) z)^2] one layer on, and squared gradients grow by
chi = g^2 E[phi'(sqrt(q) z)^2] per layer back, z ~ N(0, 1) (Poole et al. 2016; Schoenholz et al.
2017). Behind bounded activations, which are steepest at 0, the smallest gain at which chi = 1 is
1 / phi'(0): 1 for tanh (Glorot & Bengio 2010). For unbounded ones q may have no place to settle;
theirs keeps q = 1: sqrt(2) for ReLU (He et al. 2015), for which chi is 1 as well.

An activation that is not 0 at 0 pushes every unit of the next layer by the same amount. The bias
takes this back, b = -phi(0) sum_j w_j, and the gain is that of phi - phi(0): 4 for the sigmoid,
where weights alone would need 10 and saturate it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from gradcheckup.activations import KINDS, SQUASHING
from gradcheckup.capture.tap import outputs_of
from gradcheckup.treatments.anatomy import Anatomy, WeightLayer
from gradcheckup.treatments.surgery import reference

_LSUV_TOLERANCE, _LSUV_ROUNDS = 0.1, 10
_LEAST_VARIANCE = 1e-12


def function(kind: str) -> Callable[[Tensor], Tensor]:
    """The element-wise function of a kind of activation, with torch's defaults."""
    found: Callable[[Tensor], Tensor] = getattr(F, kind, None) or getattr(torch, kind)
    return found


@functools.cache
def offset(kind: str | None) -> float:
    """phi(0) of a kind of activation; 0 for None and for what is no element-wise function."""
    if kind is None or not _element_wise(kind):
        return 0.0
    return float(function(kind)(torch.zeros((), dtype=torch.float64)))


@functools.cache
def critical_gain(kind: str | None) -> float:
    """The gain g of weights behind an activation; 1 behind none."""
    if kind is None or not _element_wise(kind):
        return 1.0
    if kind in SQUASHING:
        return 1 / _slope_at_0(kind)
    # E[(phi(z) - phi(0))^2]; no grid point lies on 0, where ReLU has its kink.
    z = torch.linspace(-8, 8, 2000, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2)
    square = (function(kind)(z) - offset(kind)) ** 2
    return 1 / math.sqrt(float((density * square).sum() / density.sum()))


def _slope_at_0(kind: str) -> float:
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(function(kind)(zero), zero)
    return float(slope)


def _element_wise(kind: str) -> bool:
    return kind in KINDS and "softm" not in kind and kind not in {"prelu", "rrelu", "threshold"}


@dataclass(frozen=True, slots=True)
class Drawn:
    """New weights of one layer.

    Attributes:
        name: Of the layer.
        std: Their standard deviation.
        offset: What the bias takes back, phi(0) of the activation in front.
    """

    name: str
    std: float
    offset: float = 0.0


Mixing = nn.Linear | _ConvNd
"""Layers whose weights this module draws."""


def mixing(model: nn.Module, layer: WeightLayer) -> Mixing | None:
    """The linear layer or convolution of this name; None where it is something else.

    Nor is it one whose weight is computed from other parameters, as by `weight_norm`.
    """
    module = model.get_submodule(layer.name)
    own = isinstance(module, (nn.Linear, _ConvNd)) and "weight" in dict(
        module.named_parameters(recurse=False)
    )
    return module if own else None  # type: ignore[return-value]


def critical(
    model: nn.Module, anatomy: Anatomy, run: Callable[[], Any], names: Iterable[str] | None = None
) -> list[Drawn]:
    """Draws critical weights for linear layers and convolutions, in execution order.

    A norm behind a layer undoes any scale: such layers stay as they are. The first layer is scaled
    by what it makes of the batch, to mean 0 and variance 1.

    Args:
        model: Changed in place.
        anatomy: Of the model.
        run: Runs the model on a batch.
        names: Layers to draw; None for all that no norm follows.
    """
    wanted = None if names is None else set(names)
    drawn = []
    tied: set[Tensor] = set()
    for layer in anatomy.layers:
        module = mixing(model, layer)
        if module is None or layer.normalised or (wanted is not None and layer.name not in wanted):
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
            if module.bias is not None:
                module.bias.copy_(-offset(kind) * _sums(module))
        if not layer.sources and not layer.output and module.weight not in tied:
            std *= standardize(module, run)
        tied.add(module.weight)
        drawn.append(Drawn(layer.name, std, offset(kind)))
    return drawn


def _activation_before(anatomy: Anatomy, layer: WeightLayer) -> str | None:
    kinds = [
        kind
        for source in layer.sources
        if source in anatomy.by_name
        for kind in anatomy.by_name[source].activations
    ]
    return kinds[-1] if kinds else None


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
    units = values.movedim(1 if isinstance(module, _ConvNd) else -1, 0).flatten(1).double()
    mean = units.mean(1)
    deviation = float((units - mean[:, None]).square().mean().sqrt())
    if not math.isfinite(deviation) or deviation**2 < _LEAST_VARIANCE:
        return 1.0
    with torch.no_grad():
        module.weight /= deviation
        if module.bias is not None:
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
            if module.bias is not None:
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
    loops: dict[tuple[bool, bool], list[Drawn]] = {}
    for each in drawn:
        module = model.get_submodule(each.name)
        tied = first[module.weight] is not each
        if not tied or module.bias is not None:
            turned = isinstance(module, _ConvNd) and module.transposed
            loops.setdefault((tied, turned), []).append(each)
    return "\n".join(
        line for (tied, turned), each in loops.items() for line in _loop(model, each, tied, turned)
    )


def _loop(model: nn.Module, drawn: list[Drawn], tied: bool, turned: bool) -> Iterator[str]:
    """Lines that go through layers; weights that are tied to those of others are there already."""
    shifted = any(each.offset for each in drawn)
    biased = [model.get_submodule(each.name).bias is not None for each in drawn]
    names = ["layer", *([] if tied else ["std"]), *(["offset"] if shifted else [])]
    yield f"for {', '.join(names)} in ("
    for each in drawn:
        values = {"layer": reference(model, each.name), "std": f"{each.std:.3g}"}
        values["offset"] = f"{each.offset:.3g}"
        row = ", ".join(values[name] for name in names)
        yield f"    ({row})," if len(names) > 1 else f"    {row},"
    yield "):"
    if not tied:
        yield "    nn.init.normal_(layer.weight, std=std)"
    if not any(biased):
        return
    if not all(biased):
        yield "    if layer.bias is not None:"
    indent = "    " if all(biased) else "        "
    if not shifted:
        yield f"{indent}nn.init.zeros_(layer.bias)"
        return
    # Takes back what the activation in front hands on at 0.
    units = "unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(2).sum(2).flatten()"
    taken = units if turned else "flatten(1).sum(1)"
    yield f"{indent}layer.bias.data = -offset * layer.weight.data.{taken}"
