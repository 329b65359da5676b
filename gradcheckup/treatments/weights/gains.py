"""Sizes of weights at which signal and gradient neither grow nor fade, by mean-field theory.

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
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gradcheckup.activations import KINDS, SQUASHING


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
