"""Whether a criterion's gradient is that of its value: autograd against finite differences.

Where the part of a loss that matters was computed from detached outputs, or from numbers, a penalty
or an auxiliary part that is left keeps gradients flowing: each of them is in order, and the loss
does not fall.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradcheckup.nesting import mapped

_DISTANCE = 0.1
"""How far outputs are moved, in standard deviations of theirs."""

_DIRECTIONS = 3
_ALIKE = 0.2
_CLEAR = 100.0
_ZERO = 1e-6


def accounted(criterion: Callable[[Any], Tensor], outputs: Any) -> float | None:
    """How much of what outputs do to a loss its gradient accounts for.

    The derivative along a random direction of the outputs, by autograd, over that by central
    differences; the median of the absolute values over three directions.

    Args:
        criterion: The loss of outputs.
        outputs: A tensor, or a tuple, list or dict of tensors.

    Returns:
        1 but for rounding where the loss is differentiable; 0 where no gradient comes back to the
        outputs. None where that cannot be said: the loss does not depend on the outputs, or steps
        and bends so that differences at two distances are not alike, or its gradient is 0 but for
        rounding (a net that is its own teacher has only begun).
    """
    generator = torch.Generator().manual_seed(0)

    def loss(outputs: Any) -> Tensor:
        torch.manual_seed(0)  # the same noise each time
        return criterion(outputs)

    found = [_along(loss, outputs, generator) for _ in range(_DIRECTIONS)]
    known = [share for share in found if share is not None]
    return statistics.median(known) if len(known) > 1 else None


def _along(
    criterion: Callable[[Any], Tensor], outputs: Any, generator: torch.Generator
) -> float | None:
    moves: list[tuple[Tensor, Tensor]] = []

    def start(output: Tensor) -> Tensor:
        if not output.is_floating_point():
            return output
        drawn = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        spread = float(output.detach().double().std()) if output.numel() > 1 else 0.0
        leaf = output.detach().clone().requires_grad_()
        moves.append((leaf, (drawn * (spread or 1.0)).to(output)))
        return leaf

    given = mapped(start, outputs)
    if not moves:
        return None
    with torch.enable_grad():
        loss = criterion(given)
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            loss, [leaf for leaf, _ in moves], allow_unused=True
        )
    known = [
        (gradient, move)
        for gradient, (_, move) in zip(gradients, moves, strict=True)
        if gradient is not None  # the loss does not use that output
    ]
    slope = math.fsum(float((one.double() * other.double()).sum()) for one, other in known)

    def moved(distance: float) -> float:
        steps = iter(moves)

        def shift(output: Tensor) -> Tensor:
            if not output.is_floating_point():
                return output
            leaf, move = next(steps)
            return leaf.detach() + distance * move

        return float(criterion(mapped(shift, outputs)).detach())

    far, near = ((moved(h) - moved(-h)) / (2 * h) for h in (_DISTANCE, _DISTANCE / 2))
    rounding = torch.finfo(loss.dtype).eps * abs(float(loss.detach())) / _DISTANCE
    if not abs(near) > _CLEAR * rounding or abs(far - near) > _ALIKE * abs(near):
        return None
    share = abs(slope / near)
    return None if known and share < _ZERO else share
