"""From the raw numbers of a step to its records: ratios, gains, the reference they refer to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gradcheckup.capture.readings import Measured
from gradcheckup.probe.through_time import time_profiles
from gradcheckup.records import (
    LayerRecord,
    ParameterRecord,
    Response,
    Role,
    Step,
    first_layer,
    over_calls,
)


def assemble(
    index: int,
    loss: float,
    measured: list[Measured],
    parameters: list[ParameterRecord],
    response: Response | None,
) -> Step:
    """The records of one step.

    Args:
        index: Of the step.
        loss: Before the update.
        measured: The layers, in execution order.
        parameters: In the model's order.
        response: Of the outputs to the update.
    """
    updates = _layer_updates(parameters)
    times = time_profiles(measured)
    layers = [
        LayerRecord(
            name=each.name,
            call=each.call,
            kind=each.kind,
            role=each.role,
            functional=each.functional,
            shape=each.shape,
            output=each.place.output,
            bottleneck=each.place.bottleneck,
            gate=each.place.gate,
            gradient_norm=each.gradient_norm,
            gradient_underflow=each.gradient_underflow,
            signal=each.signal,
            saturation=each.saturation,
            dead_fraction=each.dead_fraction,
            attention_entropy=each.attention_entropy,
            update_ratio=updates.get(each.name),
            time_profile=profile,
            time_steps=length,
            dependence=each.dependence,
            finite=_finite(each),
        )
        for each in measured
        for profile, length in [times.get((each.name, each.call), (None, None))]
    ]
    reference = _reference(layers)
    base = over_calls(
        each.gradient_norm for each in layers if reference and each.name == reference.name
    )
    first = first_layer(layers)
    related = [
        replace(
            layer,
            gradient_ratio=_ratio(layer.gradient_norm, base),
            signal_ratio=_ratio(layer.signal, first.signal if first else None),
            gain=_ratio(layer.gradient_norm, _next_norm(layers, position)),
        )
        for position, layer in enumerate(layers)
    ]
    return Step(
        index=index,
        loss=loss,
        layers=tuple(related),
        parameters=tuple(parameters),
        reference=reference.key if reference else None,
        response=response,
    )


def _finite(measured: Measured) -> bool | None:
    value = measured.signal if measured.signal is not None else measured.peak
    return None if value is None else math.isfinite(value)


def _ratio(value: float | None, base: float | None) -> float | None:
    if value is None or not base:
        return None
    return value / base


def _next_norm(layers: Sequence[LayerRecord], position: int) -> float | None:
    """Gradient norm of the next layer of the same role: like is compared with like."""
    later = (each for each in layers[position + 1 :] if each.role is layers[position].role)
    return next((each.gradient_norm for each in later if each.gradient_norm is not None), None)


def _layer_updates(parameters: Sequence[ParameterRecord]) -> dict[str, float]:
    """Update ratio over all updated parameters of each layer, and of each parameter by itself."""
    squares: dict[str, tuple[float, float]] = {}
    for each in parameters:
        if each.trainable and each.update_norm is not None and each.weight_norm is not None:
            for name in (each.layer, each.name):
                change, weight = squares.get(name, (0.0, 0.0))
                squares[name] = (
                    math.hypot(change, each.update_norm),
                    math.hypot(weight, each.weight_norm),
                )
    return {layer: change / weight for layer, (change, weight) in squares.items() if weight > 0}


def _reference(layers: Sequence[LayerRecord]) -> LayerRecord | None:
    """The last hidden weight layer, where every path to the loss passes through it.

    In a residual net its gradient says nothing about the path around it, so the output layer
    stands in. Without a graph to tell, it is taken to be the last hidden weight layer.
    """
    reached = [
        layer
        for layer in layers
        if layer.gradient_norm is not None and layer.role is not Role.CONTAINER
    ]
    weights = [layer for layer in reached if layer.role is Role.WEIGHT]
    if not weights:
        return next(iter(reached), None)
    if not any(layer.output for layer in weights):
        return weights[-2] if len(weights) > 1 else weights[0]
    outputs = [layer for layer in weights if layer.output]
    hidden = [layer for layer in weights if not layer.output]
    if not hidden:
        return weights[0]
    return outputs[-1] if hidden[-1].bottleneck is False else hidden[-1]
