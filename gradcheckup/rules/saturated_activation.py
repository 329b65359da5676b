"""GC201: activations sit where their derivative is close to zero."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, LayerRecord, Recording, Role, Severity, Step
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags hidden activations whose share of saturated units stays above a limit."""
    # A layer that can be bypassed does not cut the net off.
    critical = [
        layer
        for layer in _saturated(recording, thresholds.saturation_critical)
        if layer.bottleneck is not False
    ]
    mild = _saturated(recording, thresholds.saturation_warning)
    layers, severity, limit = (
        (critical, Severity.CRITICAL, thresholds.saturation_critical)
        if critical
        else (mild, Severity.WARNING, thresholds.saturation_warning)
    )
    if not layers:
        return
    worst = max(layers, key=lambda layer: layer.saturation or 0.0)
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=severity,
        layers=query.names(layers),
        culprit=layers[0].name,
        observed=worst.saturation,
        limit=limit,
        steps=tuple(step.index for step in recording.settled),
        cause="large-weights",
        evidence=(
            ("worst", worst.name),
            ("activation", worst.kind),
            ("activations", len(_candidates(recording.settled[-1]))),
            ("slope", thresholds.saturation_slope),
        ),
    )


def _candidates(step: Step) -> list[LayerRecord]:
    return [
        layer
        for layer in query.hidden(step, Role.ACTIVATION)
        if layer.saturation is not None and not layer.gate
    ]


def _saturated(recording: Recording, limit: float) -> list[LayerRecord]:
    """Layers of the last step that were above the limit at every settled step."""
    above = [
        {layer.key for layer in _candidates(step) if (layer.saturation or 0.0) >= limit}
        for step in recording.settled
    ]
    always = set.intersection(*above)
    return [layer for layer in _candidates(recording.settled[-1]) if layer.key in always]


RULE = Rule(
    code="GC201",
    name="saturated-activation",
    summary="activations sit where their derivative is close to zero",
    formula=(
        "Share of pre-activations z with |phi'(z)| < saturation_slope x max |phi'|, per kind: "
        "|z| > 3.64 for sigmoid, |z| > 1.82 for tanh, z < -2.30 for ELU and SELU, outside the "
        "linear part for hardtanh. Hidden activations only; gates (an output that only multiplies "
        "something else) and activations at the loss end are left out. Must hold at every step of "
        "the second half of the probe. A warning where a path leads around the layer."
    ),
    default=(
        "saturation_warning = 0.5, saturation_critical = 0.9. A 7-layer sigmoid net with N(0, 1) "
        "weights has 61% saturated and learns (accuracy .82); with N(0, 10^2) it has 96% and does "
        "not (.10). A residual net of 30 sigmoid layers has over 90% in some branches and learns "
        "(.92)."
    ),
    false_alarms="A layer that is meant to make hard decisions, as a binary code.",
    remedy="Smaller initial weights, normalisation before the activation, another activation.",
    check=check,
    yields=True,
)
