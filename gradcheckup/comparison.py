"""What became of a net between two reports. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradcheckup.errors import UsageError
from gradcheckup.records import Finding, LayerRecord, Role, Step
from gradcheckup.report import Report

Pair = tuple[float | None, float | None]
_Layers = dict[tuple[str, int], LayerRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """The figures that a report comes down to, each at the first and at the last measured step.

    Attributes:
        model: Class name of the model.
        optimizer: How the optimizer is configured.
        steps: Number of measured steps.
        healthy: Whether no critical finding stands.
        gradient_ratio: End-to-end gradient ratio.
        signal_ratio: End-to-end signal ratio.
        saturation: Share of saturated units in the hidden activation that has the most of them.
        update_ratio: The smallest update ratio of a weight layer.
        loss: The loss before the step's update.
    """

    model: str
    optimizer: str
    steps: int
    healthy: bool
    gradient_ratio: Pair
    signal_ratio: Pair
    saturation: Pair
    update_ratio: Pair
    loss: Pair

    @classmethod
    def of(cls, report: Report) -> Vitals:
        """Those of a report."""

        def course(figure: Callable[[Step], float | None]) -> Pair:
            return figure(report.steps[0]), figure(report.steps[-1])

        return cls(
            model=report.recording.model,
            optimizer=report.recording.optimizer,
            steps=len(report.steps),
            healthy=report.healthy,
            gradient_ratio=course(lambda step: step.end_to_end_ratio),
            signal_ratio=course(lambda step: step.end_to_end_signal),
            saturation=course(lambda step: step.worst_saturation),
            update_ratio=course(lambda step: step.smallest_update_ratio),
            loss=course(lambda step: step.loss),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """A weight layer that both nets have, before and after, at the last measured step of each.

    Attributes:
        name: Its qualified name.
        call: Its call index.
        gradient_ratio: Before and after.
        signal_ratio: Before and after.
        update_ratio: Before and after.
    """

    name: str
    call: int
    gradient_ratio: Pair
    signal_ratio: Pair
    update_ratio: Pair

    @property
    def factor(self) -> float:
        """By how much the figure that changed most did, up or down; 1 where none changed.

        Infinite where one became or was 0, infinite or NaN; what was not measured on both sides
        counts as unchanged.
        """
        return max(map(_factor, (self.gradient_ratio, self.signal_ratio, self.update_ratio)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two reports side by side. `str(comparison)` is the table.

    Findings are matched by their codes, those folded under others included; layers by their names
    and calls. A layer that was put into a container, ``fc1`` into ``fc1.0``, is still the same.

    Attributes:
        before: The figures of the first report.
        after: Those of the second.
        gone: Findings of the first report whose code the second has not.
        new: Findings of the second report whose code the first has not.
        remaining: Findings of the second report whose code both have.
        layers: Weight layers that both nets have, the most changed first.
        added: Names of layers that only the second net has, in execution order.
        removed: Names of layers that only the first net has, in execution order.
        replaced: Layers that kept their name and became of another kind, as (name, before, after).
    """

    before: Vitals
    after: Vitals
    gone: tuple[Finding, ...]
    new: tuple[Finding, ...]
    remaining: tuple[Finding, ...]
    layers: tuple[LayerChange, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[tuple[str, str, str], ...]

    @property
    def worse(self) -> bool:
        """Whether the verdict turned from healthy to unhealthy."""
        return self.before.healthy and not self.after.healthy

    @property
    def better(self) -> bool:
        """Whether the verdict turned from unhealthy to healthy."""
        return self.after.healthy and not self.before.healthy

    def to_json(self, path: str | Path | None = None) -> str:
        """The comparison as JSON text, also written to `path` when one is given.

        Raises:
            ReportError: The file cannot be written.
        """
        from gradcheckup.serialization import dump_comparison

        return dump_comparison(self, path)

    def __str__(self) -> str:
        from gradcheckup.reports.contrast import render

        return render(self)


def compare(before: Report, after: Report) -> Comparison:
    """Puts two reports side by side: of a net and its treated copy, of two commits, of two nets.

    Args:
        before: The report to hold the other against.
        after: The other.

    Returns:
        Verdicts and figures of both, findings that are gone, new or still there, and what became
        of the layers.

    Raises:
        UsageError: One of them is no report.
    """
    given: tuple[Any, ...] = (before, after)
    for each in given:
        if not isinstance(each, Report):
            raise UsageError(
                f"expected two reports of diagnose or load_report, got {type(each).__name__}"
            )
    found, left = _findings(before), _findings(after)
    codes, left_codes = {each.code for each in found}, {each.code for each in left}
    old, new = _layers(before), _layers(after)
    new = _under_old_names(old, new)
    shared = [key for key in new if key in old]
    changes = [_change(key, old[key], new[key]) for key in shared if new[key].role is Role.WEIGHT]
    return Comparison(
        before=Vitals.of(before),
        after=Vitals.of(after),
        gone=tuple(each for each in found if each.code not in left_codes),
        new=tuple(each for each in left if each.code not in codes),
        remaining=tuple(each for each in left if each.code in codes),
        layers=tuple(sorted(changes, key=lambda change: -change.factor)),
        added=_only(new, old),
        removed=_only(old, new),
        replaced=tuple(
            (key[0], old[key].kind, new[key].kind)
            for key in shared
            if old[key].kind != new[key].kind
        ),
    )


def _findings(report: Report) -> list[Finding]:
    """Causes and their consequences."""
    return [each for finding in report.findings for each in finding.walk()]


def _layers(report: Report) -> _Layers:
    return {layer.key: layer for layer in report.steps[-1].layers}


def _under_old_names(old: _Layers, new: _Layers) -> _Layers:
    """The layers of the second net; those that a container took in keep the names they had."""
    moved = {}
    for name, call in old:
        if any(name == each for each, _ in new):
            continue
        inside = [
            key
            for key, layer in new.items()
            if key[0].startswith(f"{name}.")
            and (layer.kind, key[1]) == (old[name, call].kind, call)
        ]
        if len(inside) == 1:
            moved[inside[0]] = (name, call)
    return {moved.get(key, key): layer for key, layer in new.items()}


def _only(one: _Layers, other: _Layers) -> tuple[str, ...]:
    """Names that only the first has; another call of a layer is no other layer."""
    known = {name for name, _ in other}
    return tuple(dict.fromkeys(name for name, _ in one if name not in known))


def _change(key: tuple[str, int], old: LayerRecord, new: LayerRecord) -> LayerChange:
    return LayerChange(
        name=key[0],
        call=key[1],
        gradient_ratio=(old.gradient_ratio, new.gradient_ratio),
        signal_ratio=(old.signal_ratio, new.signal_ratio),
        update_ratio=(old.update_ratio, new.update_ratio),
    )


def _factor(pair: Pair) -> float:
    before, after = pair
    if before is None or after is None or before == after:
        return 1.0
    if math.isnan(before) and math.isnan(after):
        return 1.0
    if not (before > 0 and after > 0 and math.isfinite(before) and math.isfinite(after)):
        return math.inf
    return math.exp(min(abs(math.log(after) - math.log(before)), 700.0))
