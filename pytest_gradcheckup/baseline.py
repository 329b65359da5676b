"""What gradients and signals were when somebody looked: the numbers that a baseline keeps.

Both are medians over steps and seeds of what the report calls `gradient_ratio` and `signal_ratio`:
free of the loss scale, the batch size and the widths.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median_low

from gradcheckup import LayerRecord, Report, Role
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

_DIGITS = 3
_KEPT = {Role.WEIGHT, Role.NORM}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLine:
    """One layer of a baseline.

    Attributes:
        layer: Its name.
        kind: ``linear``, ``conv2d``, ``batchnorm2d`` ...
        weight: Shape of its first parameter; empty where it has none.
        gradient: Gradient ratio, over all calls of the layer; None where none arrived.
        signal: Signal ratio at the first call; None where it was not measured.
    """

    layer: str
    kind: str
    weight: tuple[int, ...]
    gradient: float | None
    signal: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """All layers with weights and all that normalise, and what they were measured with.

    Attributes:
        model: Its class.
        optimizer: In words.
        steps: Of each probe.
        layers: In execution order.
    """

    model: str
    optimizer: str
    steps: int
    layers: tuple[LayerLine, ...]


def measured(reports: Sequence[Report]) -> Baseline:
    """The baseline of a model that was probed with one or more seeds."""
    first = reports[0]
    layers = []
    for record in first.layers:
        if record.role in _KEPT and record.call == 0:
            calls = [each for report in reports for each in _calls(report, record.name)]
            layers.append(
                LayerLine(
                    layer=record.name,
                    kind=record.kind,
                    weight=_weight(first, record.name),
                    gradient=_median(_total(each) for each in calls),
                    signal=_median(each[0].signal_ratio for each in calls),
                )
            )
    return Baseline(
        model=first.recording.model,
        optimizer=first.recording.optimizer,
        steps=len(first.steps),
        layers=tuple(layers),
    )


def where_it_broke(report: Report) -> str | None:
    """Where the first NaN or Inf of the forward pass arose; None where there was none.

    Gradients that overflow in a step or two are what a gradient scaler is for.
    """
    for step in report.steps:
        broken = next((layer.name for layer in step.layers if layer.finite is False), None)
        if broken is not None:
            return f"NaN or Inf at step {step.index}, first in the output of {broken}"
        if not math.isfinite(step.loss):
            return f"the loss is {step.loss} at step {step.index}"
    return None


def unfit_number(baseline: Baseline) -> str | None:
    """Which number of a baseline is none; None where all are."""
    for line in baseline.layers:
        for name, value in (("gradient", line.gradient), ("signal", line.signal)):
            if value is not None and not math.isfinite(value):
                return f"the {name} of {line.layer} is {value}"
    return None


def _calls(report: Report, name: str) -> Iterator[list[LayerRecord]]:
    """The calls of a layer, step by step."""
    for step in report.steps:
        calls = [layer for layer in step.layers if layer.name == name]
        if calls:
            yield calls


def _total(calls: Sequence[LayerRecord]) -> float | None:
    ratios = [call.gradient_ratio for call in calls if call.gradient_ratio is not None]
    return math.hypot(*ratios) if ratios else None


def _weight(report: Report, layer: str) -> tuple[int, ...]:
    shapes = (each.shape for each in report.steps[0].parameters if each.layer == layer)
    return next(shapes, ())


def _median(values: Iterable[float | None]) -> float | None:
    """Rounded, so that a diff of two files shows what changed; None where most are None.

    NaN where most are NaN, which no order knows.
    """
    everything = list(values)
    known = [value for value in everything if value is not None]
    if 2 * len(known) <= len(everything):
        return None
    numbers = [value for value in known if not math.isnan(value)]
    if 2 * len(numbers) <= len(known):
        return math.nan
    return float(f"{median_low(numbers):.{_DIGITS}g}")
