"""The size of the gradient that an optimizer is about to follow, from a sample of its elements."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gradcheckup import statistics
from gradcheckup.watching.sharding import is_distributed, own_part, shards

_ALL = 2048
_LEAST = 64


class GradientSample:
    """Estimates the norm of the gradient of some weight matrices together.

    From 2048 elements of all of them, and of each no less than 64, spread evenly; a sum over all
    elements costs as much as clipping does. Gradients that are not dense are left out.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [each for each in dict.fromkeys(parameters) if each.ndim > 1]
        most = max(_LEAST, _ALL // max(1, len(self._parameters)))
        self._strides = [statistics.spread_stride(each.numel(), most) for each in self._parameters]
        self._shards = [shards(each) if is_distributed(each) else 0 for each in self._parameters]
        self._weights: tuple[list[tuple[int, int]], Tensor] | None = None

    def norm(self) -> Tensor | None:
        """A 0-d tensor; None where there is no gradient."""
        parts, sizes = [], []
        every = zip(self._parameters, self._strides, self._shards, strict=True)
        for parameter, stride, held_in in every:
            gradient = parameter.grad
            if gradient is None or gradient.layout is not torch.strided:
                continue
            if held_in:
                gradient = own_part(gradient)
            size = gradient.numel()
            if gradient.is_contiguous() and not gradient.is_complex():
                taken = -(-size // stride)
                parts.append(gradient.as_strided((taken,), (stride,)))
            else:
                parts.append(statistics.flat_values(gradient).reshape(-1)[::stride])
                taken = parts[-1].numel()
            sizes.append((taken, size * held_in if held_in else size))
        if not parts:
            return None
        values = torch.cat(parts) if len(parts) > 1 else parts[0]
        return statistics.quick_norm(values * self._scales(sizes, values))

    def _scales(self, sizes: list[tuple[int, int]], like: Tensor) -> Tensor:
        """What each element stands for: sqrt(size / sampled) of its gradient."""
        if self._weights is None or self._weights[0] != sizes:
            parts = [
                torch.full((taken,), math.sqrt(size / max(1, taken)), device=like.device)
                for taken, size in sizes
            ]
            self._weights = sizes, torch.cat(parts)
        return self._weights[1]
