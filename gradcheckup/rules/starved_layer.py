"""GC301: a layer moves far less than the others."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, LayerRecord, Recording, Role, Severity, Step
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags layers whose update ratio stays below a share of the median layer's."""
    starved = [set(_starved(step, thresholds.starved_update)) for step in recording.settled]
    always = set.intersection(*starved)
    step = recording.settled[-1]
    layers = [
        layer
        for layer in _updated(step)
        if layer.key in always and not query.recovers(_updates(recording, layer))
    ]
    middle = query.median(layer.update_ratio for layer in _updated(step))
    if not layers or not middle:
        return
    worst = min(layers, key=lambda layer: layer.update_ratio or 0.0)
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.WARNING,
        layers=query.names(layers),
        culprit=worst.name,
        observed=worst.update_ratio,
        limit=thresholds.starved_update * middle,
        steps=tuple(each.index for each in recording.settled),
        evidence=(("median", middle), ("worst", worst.name), ("optimizer", recording.optimizer)),
    )


def _updates(recording: Recording, layer: LayerRecord) -> list[float | None]:
    found = (step.layer(layer.key) for step in recording.steps)
    return [each.update_ratio if each else None for each in found]


def _updated(step: Step) -> list[LayerRecord]:
    """Weight layers that moved. Of an embedding only the rows in the batch do."""
    layers = {
        layer.name: layer
        for layer in step.layers
        if layer.role is Role.WEIGHT and layer.update_ratio and "embedding" not in layer.kind
    }
    return list(layers.values())


def _starved(step: Step, share: float) -> Iterator[tuple[str, int]]:
    layers = _updated(step)
    middle = query.median(layer.update_ratio for layer in layers)
    for layer in layers:
        if middle and (layer.update_ratio or 0.0) < share * middle:
            yield layer.key


RULE = Rule(
    code="GC301",
    name="starved-layer",
    summary="a layer moves far less than the others",
    formula=(
        "Update ratio ||dW|| / ||W|| of what the optimizer really did, per layer; flagged below "
        "starved_update times the median layer's at every step of the second half of the probe."
    ),
    default=(
        "starved_update = 1e-4: the layers of nets that learn stay within a factor of 1000 of one "
        "another, a deep sigmoid net's first layer is a million times slower than its last."
    ),
    false_alarms="A parameter group that is meant to be slow, in fine-tuning: a warning only.",
    remedy="What helps against GC101; or a learning rate of its own; or Adam.",
    check=check,
)
