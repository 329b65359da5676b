"""Reductions of a tensor to a 0-d tensor on its own device; nothing here waits for the device.

Norms are accumulated in float64: a float32 norm reads exactly 0 once elements fall below 1e-23,
which is where a deep sigmoid net's gradients live.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Norms in this range lose nothing in float32: an element whose square underflows (below 1e-19) is
# less than 1e-9 of the whole, and no square overflows.
_SAFE = (1e-10, 1e18)
_ROW = 4096
_FEW = 8

_norm: Callable[..., Tensor] = torch.linalg.vector_norm


def flat_values(tensor: Tensor) -> Tensor:
    """The stored values as a real, strided tensor: sparse, complex and mkldnn layouts unpacked."""
    tensor = tensor.detach()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def has_norm(tensor: Tensor) -> bool:
    """Whether there is a norm to take: integers and 8-bit floats are codes of quantised weights."""
    return tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() > 1)


def norm(tensor: Tensor) -> Tensor:
    """L2 norm over all elements, right from 1e-150 to 1e150; NaN and Inf come through.

    Of many elements on the CPU, where looking at a value waits for nothing, float32 is tried first:
    eight times as fast, and right to 1e-8 unless the squares left its range. Rows are summed on
    their own, since one float32 sum over 2e7 elements is off by 1e-3.
    """
    values = flat_values(tensor)
    if values.device.type == "mps":  # has no float64: scale to the largest element instead
        largest = peak(values).clamp_min(torch.finfo(torch.float32).tiny)
        return _norm(values.float() / largest) * largest
    many = values.numel() > _ROW
    if many and values.device.type == "cpu" and values.dtype is torch.float32:
        flat = values.reshape(-1)
        whole = flat.numel() // _ROW * _ROW
        parts = _norm(flat[:whole].view(-1, _ROW), dim=1)
        if whole < flat.numel():
            parts = torch.cat([parts, _norm(flat[whole:]).reshape(1)])
        quick = _norm(parts, dtype=torch.float64)
        if _SAFE[0] < float(quick) < _SAFE[1]:
            return quick
    return _norm(values, dtype=torch.float64)


def quick_norm(tensor: Tensor) -> Tensor:
    """L2 norm over all elements in one pass: right to 1e-4, and down to 1e-150 as `norm` is."""
    if tensor.is_cpu and tensor.dtype is torch.float32 and tensor.layout is torch.strided:
        quick = _norm(tensor.detach())
        if _SAFE[0] < float(quick) < _SAFE[1]:
            return quick
    return norm(tensor)


def peak(tensor: Tensor) -> Tensor:
    """Largest absolute value; NaN if there is one. 0 for an empty tensor."""
    values = flat_values(tensor)
    if values.numel() == 0:
        return values.new_zeros(())
    low, high = torch.aminmax(values)
    return torch.maximum(high, -low)


def signal(tensor: Tensor) -> Tensor | None:
    """RMS over features of the sample standard deviation over the batch (the first dimension).

    Args:
        tensor: Shape (batch, ...); everything after the batch counts as features.

    Returns:
        A 0-d tensor, or None with fewer than two samples.
    """
    values = flat_values(tensor)
    if values.ndim < 2 or values.shape[0] < 2 or values.numel() == 0:
        return None
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    centred = values - values.mean(dim=0)
    features = values[0].numel()
    samples = int(values.shape[0])
    return norm(centred) / math.sqrt((samples - 1) * features)


def dependence(one: Tensor, other: Tensor) -> Tensor | None:
    """Whether two descriptions of the same samples have to do with each other.

    The Hilbert-Schmidt independence criterion with linear kernels (Gretton et al., 2005 and 2008):
    the squared norm of their cross-covariance, less what it is on average when the samples of one
    are shuffled, in standard deviations of that.

    Args:
        one: Shape (samples, features).
        other: Shape (samples, other features).

    Returns:
        A 0-d tensor, about 0 (with a standard deviation of 1) where they are independent, NaN where
        one of them is the same for all samples; None with fewer than 8 samples.
    """
    samples = int(one.shape[0])
    if samples < _FEW:
        return None
    grams = []
    for values in (one, other):
        wide = values.detach().to(torch.float32 if values.device.type == "mps" else torch.float64)
        wide = wide / peak(wide)
        wide = wide - wide.mean(dim=0)
        gram = wide @ wide.T
        grams.append(gram / gram.trace())
    # With traces of 1, shuffling gives 1 / (samples - 1) on average.
    expected = 1 / (samples - 1)
    spread = math.sqrt(2) * expected * _norm(grams[0]) * _norm(grams[1])
    return ((grams[0] * grams[1]).sum() - expected) / spread


def share_outside(tensor: Tensor, low: float, high: float) -> Tensor:
    """Share of elements below `low` or above `high`."""
    values = tensor.detach()
    return ((values < low) | (values > high)).float().mean()


def underflow(gradient: Tensor) -> Tensor | None:
    """Share of the non-zero elements that lie below the smallest normal number of their format.

    Below 6.1e-5 float16 loses bits, below 6e-8 everything. Zeros say nothing: a ReLU makes them.

    Returns:
        A 0-d tensor, 1 where no element but 0 is left; None for formats that reach as far down as
        float32, such as bfloat16.
    """
    values = flat_values(gradient)
    if not values.numel() or torch.finfo(values.dtype).tiny <= torch.finfo(torch.float32).tiny:
        return None
    sizes = values.abs()
    kept = (sizes >= torch.finfo(values.dtype).tiny).sum()
    present = (sizes > 0).sum()
    return torch.where(present > 0, 1 - kept / present, 1.0)


def unit_peaks(tensor: Tensor, dim: int) -> Tensor:
    """Largest value of each unit (index along `dim`) over everything else; shape (units,)."""
    values = tensor.detach()
    others = [axis for axis in range(values.ndim) if axis != dim % values.ndim]
    return values.amax(dim=others) if others else values


def row_spread(weight: Tensor, size: Tensor | None = None) -> Tensor | None:
    """||W - mean of its rows|| / ||W||, 0 when every row is the same and when all is zero.

    Args:
        weight: A parameter of any shape.
        size: Its norm, where it is known.

    Returns:
        A 0-d tensor; None for vectors, single rows and rows of one element.
    """
    values = flat_values(weight)
    if values.ndim < 2 or values.shape[0] < 2 or values[0].numel() < 2:
        return None
    spread = norm(values - values.mean(dim=0))
    total = norm(values) if size is None else size
    return spread / torch.where(total > 0, total, 1.0)


def spread_stride(size: int, most: int) -> int:
    """A stride that leaves up to `most` of `size` elements; 1 where there are no more.

    It has no divisor in common with the size, so that all columns, channels and places of a kernel
    are met equally often.
    """
    if size <= most:
        return 1
    stride = size // most + 1
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride
