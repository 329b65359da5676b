"""How much of a gradient the 16-bit format it is computed in rounds away.

A zero that a ReLU, dropout or padding made and one that was too small for float16 look the same.
Differentiating the loss times a power of two tells them apart: it changes nothing but the
distance from the smallest number of the format (Micikevicius et al. 2018, "Mixed precision
training", section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradcheckup import statistics
from gradcheckup.capture.readings import Measured, Tray

_SUSPICIOUS = 0.5
_LARGEST = 2.0**12
"""What the largest gradient norm is scaled to: float16 ends at 2^16."""
_SCALES = (2.0, 2.0**15)


def scale_for(layers: Sequence[Measured]) -> float | None:
    """By how much a loss may be scaled, where gradients lie below the range of their format.

    Args:
        layers: Of one step.

    Returns:
        A power of two; None where every layer's gradient is within the range, or nothing larger
        would be left of it.
    """
    short = [layer for layer in layers if layer.gradient_underflow is not None]
    if not any((layer.gradient_underflow or 0.0) > _SUSPICIOUS for layer in short):
        return None
    largest = max(layer.gradient_norm or 0.0 for layer in short)
    if not math.isfinite(largest):
        return None
    room = 2.0 ** math.floor(math.log2(_LARGEST / largest)) if largest else _SCALES[1]
    return min(room, _SCALES[1]) if room >= _SCALES[0] else None


Gradients = Sequence[Tensor | None]


def gradients_lost(plain: Gradients, scaled: Gradients, scale: float) -> list[float | None]:
    """1 - <g, g'> / ||g'||^2 of each parameter.

    Rounding of what is not lost adds noise across g', which hardly changes the product.

    Args:
        plain: The gradients g of the loss, by parameter.
        scaled: Those of the same loss times `scale`, which makes them g' times `scale`.
        scale: A power of two.

    Returns:
        0 for a gradient that arrives, 1 for one that is lost. None where it is zero with the scale
        as well, not part of the loss, or sparse, and where the scale was too much.
    """
    tray = Tray()
    slots: list[tuple[int | None, int | None]] = []
    for one, other in zip(plain, scaled, strict=True):
        if one is None or other is None or other.layout is not torch.strided:
            slots.append((None, None))
            continue
        # Normalised before they are multiplied, since squares of small gradients underflow.
        length = statistics.norm(other)
        unit = (other / length).float().flatten()
        slots.append((tray.put(torch.dot(one.float().flatten(), unit)), tray.put(length)))
    readings = tray.carry()
    return [_share(readings.get(product), readings.get(length), scale) for product, length in slots]


def differentiate(loss: Tensor, parameters: Sequence[Tensor], scale: float) -> Gradients:
    """Gradients of the loss times `scale`, without a trace in `.grad`."""
    return torch.autograd.grad(
        loss, parameters, grad_outputs=torch.full_like(loss, scale), allow_unused=True
    )


def _share(product: float | None, length: float | None, scale: float) -> float | None:
    if product is None or not length or not math.isfinite(product):
        return None
    return 1 - product * scale / length
