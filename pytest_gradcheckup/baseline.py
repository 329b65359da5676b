"""What gradients and signals were when somebody looked, as a small file beside the tests.

A baseline has a line a layer that can be read and reviewed in a diff:

    {"layer": "stem.conv", "kind": "conv2d", "weight": [16, 3, 3, 3], "gradient": 0.63, "signal": 1}

Both numbers are medians over steps and seeds of what the report calls `gradient_ratio` and
`signal_ratio`: free of the loss scale, the batch size and the widths.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from statistics import median_low
from typing import Any

from gradcheckup import LayerRecord, Report, ReportError, Role
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

VERSION = 1
_DIGITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLine:
    """One layer of a baseline.

    Attributes:
        layer: Its name.
        kind: ``linear``, ``conv2d`` ...
        weight: Shape of its first parameter; tells a renamed layer from another one.
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
    """All layers with weights, and what they were measured with.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What became of a net since its baseline.

    Attributes:
        moved: (name now, ``gradient`` or ``signal``, value then, value now) beyond the tolerance.
        renamed: (name then, name now) of layers that are the same but for their names.
        added: Names of layers that are new.
        removed: Names of layers that are gone.
        setup: What else is different: the model's class, the optimizer, the steps.
    """

    moved: tuple[tuple[str, str, float | None, float | None], ...]
    renamed: tuple[tuple[str, str], ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    setup: tuple[str, ...]

    @property
    def broken(self) -> bool:
        """True where gradients or signals moved, or layers came or went; names are but names."""
        return bool(self.moved or self.added or self.removed)


def measured(reports: Sequence[Report]) -> Baseline:
    """The baseline of a model that was probed with one or more seeds."""
    first = reports[0]
    layers = []
    for record in first.layers:
        if record.role is Role.WEIGHT and record.call == 0:
            calls = [list(_calls(report, record.name)) for report in reports]
            layers.append(
                LayerLine(
                    layer=record.name,
                    kind=record.kind,
                    weight=_weight(first, record.name),
                    gradient=_median(_total(each) for steps in calls for each in steps),
                    signal=_median(each[0].signal_ratio for steps in calls for each in steps),
                )
            )
    return Baseline(
        model=first.recording.model,
        optimizer=first.recording.optimizer,
        steps=len(first.steps),
        layers=tuple(layers),
    )


def compared(before: Baseline, now: Baseline, tolerance: float) -> Difference:
    """Layer by layer, in log scale.

    Args:
        before: The baseline.
        now: What was measured.
        tolerance: By which factor a value may be smaller or larger.
    """
    pairs, added, removed = _matched(before.layers, now.layers)
    moved = [
        (new.layer, name, then, value)
        for old, new in pairs
        for name, then, value in (
            ("gradient", old.gradient, new.gradient),
            ("signal", old.signal, new.signal),
        )
        if _distance(then, value) > math.log(tolerance)
    ]
    setup = [
        f"{name} was {then}, is {value}"
        for name, then, value in (
            ("the model", before.model, now.model),
            ("the optimizer", before.optimizer, now.optimizer),
            ("the number of steps", before.steps, now.steps),
        )
        if then != value
    ]
    return Difference(
        moved=tuple(moved),
        renamed=tuple((old.layer, new.layer) for old, new in pairs if old.layer != new.layer),
        added=tuple(line.layer for line in added),
        removed=tuple(line.layer for line in removed),
        setup=tuple(setup),
    )


def dumped(baseline: Baseline) -> str:
    """As JSON text with one line a layer."""
    head = {
        "gradcheckup_baseline": VERSION,
        "model": baseline.model,
        "optimizer": baseline.optimizer,
        "steps": baseline.steps,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    layers = [
        json.dumps(
            {
                "layer": line.layer,
                "kind": line.kind,
                "weight": line.weight,
                "gradient": line.gradient,
                "signal": line.signal,
            }
        )
        for line in baseline.layers
    ]
    rows = ",\n".join(f"    {layer}" for layer in layers)
    return "\n".join(["{", *lines, '  "layers": [', rows, "  ]", "}"]) + "\n"


def loaded(text: str, where: str) -> Baseline:
    """A baseline from its text.

    Raises:
        ReportError: It is none, or of a later version.
    """
    try:
        document = json.loads(text)
        version = document["gradcheckup_baseline"]
        if version != VERSION:
            raise ReportError(
                f"{where} is a baseline of version {version!r}, expected {VERSION}: "
                "write it anew with --gradcheckup-update"
            )
        return Baseline(
            model=_text(document["model"]),
            optimizer=_text(document["optimizer"]),
            steps=int(document["steps"]),
            layers=tuple(_line(each) for each in document["layers"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(
            f"{where} is no baseline ({type(error).__name__}: {error}): restore it from version "
            "control, or write it anew with --gradcheckup-update"
        ) from None


def _line(values: dict[str, Any]) -> LayerLine:
    return LayerLine(
        layer=_text(values["layer"]),
        kind=_text(values["kind"]),
        weight=tuple(int(size) for size in values["weight"]),
        gradient=None if values["gradient"] is None else float(values["gradient"]),
        signal=None if values["signal"] is None else float(values["signal"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


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
    """Rounded, so that a diff of two files shows what changed; None where most are None."""
    everything = list(values)
    known = [value for value in everything if value is not None]
    if 2 * len(known) <= len(everything):
        return None
    return float(f"{median_low(known):.{_DIGITS}g}")


def _distance(then: float | None, now: float | None) -> float:
    """|log(now / then)|; infinite where one of them is none, zero or not finite and differs."""
    if then is None or now is None:
        return 0.0 if then is now else math.inf
    if then > 0 and now > 0 and math.isfinite(then) and math.isfinite(now):
        return abs(math.log(now / then))
    same = then == now or (math.isnan(then) and math.isnan(now))
    return 0.0 if same else math.inf


def _matched(
    before: Sequence[LayerLine], now: Sequence[LayerLine]
) -> tuple[list[tuple[LayerLine, LayerLine]], list[LayerLine], list[LayerLine]]:
    """Pairs of the same layer, layers that are new, and layers that are gone.

    The same name is the same layer. Of the rest, in order, those of the same kind with weights of
    the same shape are taken for renamed.
    """
    names = {line.layer: line for line in before}
    pairs = [(names[line.layer], line) for line in now if line.layer in names]
    kept = {new.layer for _, new in pairs}
    gone = [line for line in before if line.layer not in kept]
    novel = [line for line in now if line.layer not in kept]
    matcher = SequenceMatcher(
        None,
        [(line.kind, line.weight) for line in gone],
        [(line.kind, line.weight) for line in novel],
        autojunk=False,
    )
    renamed = [
        (gone[block.a + offset], novel[block.b + offset])
        for block in matcher.get_matching_blocks()
        for offset in range(block.size)
    ]
    added = [line for line in novel if all(line is not new for _, new in renamed)]
    removed = [line for line in gone if all(line is not old for old, _ in renamed)]
    order = {line.layer: place for place, line in enumerate(now)}
    return sorted([*pairs, *renamed], key=lambda pair: order[pair[1].layer]), added, removed
