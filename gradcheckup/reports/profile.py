"""The depth profile: where between input and loss the gradient or the signal dies."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradcheckup.records import LayerRecord, Role, Step
from gradcheckup.reports.names import shorten, spoken
from gradcheckup.reports.numbers import number
from gradcheckup.reports.sparkline import BROKEN, UNKNOWN, ZERO, sparkline

COLUMNS = 60
_LABEL = 10
_LEGEND = {ZERO: "exactly 0", BROKEN: "NaN or infinite", UNKNOWN: "not measured"}


def depth_profile(step: Step, width: int) -> list[str]:
    """Lines that draw gradient and signal over the weight layers of a step.

    Each line is a sparkline with its lowest and highest value and where they are. Empty for nets
    with fewer than three weight layers, which need no picture.
    """
    layers = [layer for layer in step.layers if layer.role is Role.WEIGHT]
    if len(layers) < 3:
        return []
    columns = max(min(COLUMNS, width - _LABEL), 8)
    drawn, lines = "", []
    for label, values in (("gradient", _gradients(layers)), ("signal", _signals(layers))):
        line = sparkline(values, columns)
        drawn += line
        lines.append(f"{label:<{_LABEL}}{line}")
        beside = "  " + _bounds(layers, values, width)
        if len(lines[-1] + beside) <= width:
            lines[-1] += beside
        else:
            lines.append(" " * _LABEL + _bounds(layers, values, width - _LABEL))
    per_column = "" if len(layers) <= columns else f", {len(layers)} layers"
    scale = f"log scale, step {step.index}{per_column}"
    room = (width - _LABEL - 3) // 2
    ends = f"{shorten(spoken(layers[0].name), room)} → {shorten(layers[-1].name, room)}"
    beside = f"{ends}, {scale}"
    captions = [beside] if len(beside) <= width - _LABEL else [ends, scale]
    legend = [f"{sign} {meaning}" for sign, meaning in _LEGEND.items() if sign in drawn]
    lines.extend(" " * _LABEL + line for line in [*captions, ", ".join(legend)] if line)
    return lines


def time_profile(step: Step, name: str, width: int) -> list[str]:
    """Lines that draw the gradient of a recurrent layer's inputs over the time steps.

    Empty for layers without a profile. Of several sequences the first is drawn.
    """
    layer = next((each for each in step.layers if each.name == name and each.time_profile), None)
    if layer is None or not layer.time_profile:
        return []
    values = layer.time_profile
    line = f"{'time':<{_LABEL}}{sparkline(values, max(min(COLUMNS, width - _LABEL), 8))}"
    last = (layer.time_steps or len(values)) - 1
    ends = f"{number(values[0])} at time step 0 … {number(values[-1])} at {last}"
    lines = [f"{line}  {ends}"]
    if len(lines[0]) > width:
        lines = [line, " " * _LABEL + ends]
    room = width - _LABEL
    about, scale = "|dL/dx_t| of ", f"log scale, step {step.index}"
    caption = about + shorten(spoken(name), max(room - len(about), 5))
    beside = f"{caption}, {scale}"
    captions = [beside] if len(beside) <= room else [caption, scale]
    legend = [f"{sign} {meaning}" for sign, meaning in _LEGEND.items() if sign in line[_LABEL:]]
    lines.extend(" " * _LABEL + each for each in [*captions, ", ".join(legend)] if each)
    return lines


def _gradients(layers: Sequence[LayerRecord]) -> list[float | None]:
    """Ratios; plain norms where there was no layer to refer to. The picture is the same."""
    ratios = [layer.gradient_ratio for layer in layers]
    if any(ratio is not None for ratio in ratios):
        return ratios
    return [layer.gradient_norm for layer in layers]


def _signals(layers: Sequence[LayerRecord]) -> list[float | None]:
    return [layer.signal_ratio for layer in layers]


def _bounds(layers: Sequence[LayerRecord], values: Sequence[float | None], width: int) -> str:
    """``7.9e-6 in layer1 … 1 in layer7``: lowest, then highest, in at most `width` columns."""
    known = [
        (value, spoken(layer.name))
        for value, layer in zip(values, layers, strict=True)
        if value is not None and math.isfinite(value)
    ]
    if not known:
        return ""
    low, first = min(known, key=lambda pair: pair[0])
    high, last = max(known, key=lambda pair: pair[0])
    room = (width - len(f"{number(low)} in  … {number(high)} in ")) // 2
    room = max(room, 5)
    return f"{number(low)} in {shorten(first, room)} … {number(high)} in {shorten(last, room)}"
