"""Questions that several rules ask of a recording."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from gradcheckup.records import LayerRecord, ParameterRecord, Recording, Role, Step


def hidden(step: Step, role: Role) -> list[LayerRecord]:
    """Layers of a role in execution order, without those at the loss end."""
    return [layer for layer in step.layers if layer.role is role and not layer.output]


def names(layers: Iterable[LayerRecord]) -> tuple[str, ...]:
    """Their names in order, each once."""
    return tuple(dict.fromkeys(layer.name for layer in layers))


def persistent(recording: Recording, holds: Callable[[Step], bool]) -> tuple[int, ...]:
    """Steps at which something held, if it held at every settled step; else none."""
    if not all(holds(step) for step in recording.settled):
        return ()
    return tuple(step.index for step in recording.steps if holds(step))


def median(values: Iterable[float | None]) -> float | None:
    """Median of the finite values; None without any."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.median(finite) if finite else None


def updated(step: Step) -> list[ParameterRecord]:
    """Parameters that the optimizer is meant to change."""
    return [each for each in step.parameters if each.trainable and each.learning_rate]


def by_name(recording: Recording) -> dict[str, list[ParameterRecord]]:
    """The records of each parameter over the steps."""
    found: dict[str, list[ParameterRecord]] = {}
    for step in recording.steps:
        for each in step.parameters:
            found.setdefault(each.name, []).append(each)
    return found


def is_matrix(parameter: ParameterRecord) -> bool:
    """Whether it mixes features, as a weight does and a bias or a scale does not."""
    return len(parameter.shape) > 1


def per_layer(step: Step) -> tuple[float, int] | None:
    """Geometric mean of the gain a weight layer from the first to the reference, and their number.

    None where either gradient is missing or zero.
    """
    first = step.first
    ratio = step.end_to_end_ratio
    if first is None or not ratio or not math.isfinite(ratio):
        return None
    weights = [layer.key for layer in step.layers if layer.role is Role.WEIGHT]
    order = [layer.key for layer in step.layers]
    end = order.index(step.reference) if step.reference in order else len(order) - 1
    count = sum(order.index(key) < end for key in weights if key != first.key)
    count += step.reference != first.key
    return (ratio ** (1 / count), count) if count else None


def first_outside(
    layers: Sequence[LayerRecord], outside: Callable[[float], bool]
) -> LayerRecord | None:
    """The first layer whose gain is outside a band."""
    return next((layer for layer in layers if layer.gain is not None and outside(layer.gain)), None)


def shares(step: Step) -> tuple[float, float] | None:
    """How a gradient is passed, as geometric means: by activations, and by the weights behind them.

    The first is the norm in front of an activation over that behind it (its effective slope), the
    second that behind it over the one at the next weight layer's output.
    """
    slopes, weights = [], []
    flow = [
        layer
        for layer in step.layers
        if layer.gradient_norm and math.isfinite(layer.gradient_norm)
        and layer.role in (Role.WEIGHT, Role.NORM, Role.ACTIVATION)
    ]
    for before, here, after in zip(flow, flow[1:], flow[2:], strict=False):
        if here.role is Role.ACTIVATION and not here.gate and before.role is not Role.ACTIVATION:
            assert before.gradient_norm and here.gradient_norm and after.gradient_norm
            slopes.append(math.log(before.gradient_norm / here.gradient_norm))
            if after.role is Role.WEIGHT:
                weights.append(math.log(here.gradient_norm / after.gradient_norm))
    if not slopes or not weights:
        return None
    return math.exp(statistics.fmean(slopes)), math.exp(statistics.fmean(weights))
