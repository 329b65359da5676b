"""GC202: units that never fire."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, LayerRecord, Recording, Role, Severity
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds

_FEW_UNITS = 8
_IMAGE_DIMS = 4


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags rectifiers of which many units fired for no sample of the second half of the probe."""
    step = recording.steps[-1]
    rectifiers = [
        layer
        for layer in step.layers
        if layer.role is Role.ACTIVATION and layer.dead_fraction is not None and not layer.output
    ]
    # A layer that can be bypassed does not cut the net off.
    critical = [
        layer
        for layer in rectifiers
        if _dead(layer, thresholds.dead_critical) and layer.bottleneck is not False
    ]
    # Of a handful of units (a squeeze-excite branch) half are dead by chance.
    mild = [
        layer
        for layer in rectifiers
        if _dead(layer, thresholds.dead_warning) and _units(layer) >= _FEW_UNITS
    ]
    layers = critical or mild
    if not layers:
        return
    worst = max(layers, key=lambda layer: layer.dead_fraction or 0.0)
    limit = thresholds.dead_critical if critical else thresholds.dead_warning
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        layers=query.names(layers),
        culprit=layers[0].name,
        observed=worst.dead_fraction,
        limit=limit,
        steps=tuple(
            each.index
            for each in recording.settled
            if any(_dead(layer, limit) for layer in each.layers if layer.key == worst.key)
        ),
        cause="dead-units",
        evidence=(
            ("worst", worst.name),
            ("activation", worst.kind),
            ("activations", len(rectifiers)),
        ),
    )


def _units(layer: LayerRecord) -> int:
    """Channels of images, features of everything else."""
    if not layer.shape:
        return 0
    return layer.shape[1] if len(layer.shape) == _IMAGE_DIMS else layer.shape[-1]


def _dead(layer: LayerRecord, limit: float) -> bool:
    return layer.dead_fraction is not None and layer.dead_fraction >= limit


RULE = Rule(
    code="GC202",
    name="dead-units",
    summary="units that never fire",
    formula=(
        "Share of units (channels after a convolution, features elsewhere) whose pre-activation "
        "never rose above the dead zone (0 for ReLU) for any sample of any step of the second half "
        "of the probe. Counted exactly, not sampled."
    ),
    default=(
        "dead_warning = 0.5, dead_critical = 0.9 of a layer that no path bypasses. Deep plain ReLU "
        "nets have up to half of their units dead at initialisation, because all inputs look "
        "alike in depth, and learn all the same. Layers of fewer than 8 units are only judged by "
        "the upper limit."
    ),
    false_alarms=(
        "Few samples: with 8 steps of 4 samples a sparse unit may have had no chance. Use larger "
        "batches or more steps."
    ),
    remedy=(
        "He initialisation with zero or slightly positive biases, a smaller learning rate, "
        "normalisation, Leaky ReLU or GELU."
    ),
    check=check,
    yields=True,
)
