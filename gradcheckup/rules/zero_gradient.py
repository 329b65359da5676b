"""GC104: gradients that are exactly zero at every step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from gradcheckup.records import Finding, ParameterRecord, Recording, Role, Severity
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags weights with an exact zero gradient; names vectors that are zero by structure."""
    recording = query.lasting(recording, _silent)
    if not math.isfinite(recording.steps[0].loss):
        return  # what comes back from NaN says nothing of the way
    records = query.by_name(recording)
    trained = _trained(recording)
    zero = _silent(recording)
    weights = [name for name in zero if query.is_matrix(records[name][0])]
    met = query.has_learnt(recording, thresholds) and query.asks_for_nothing(recording)
    if weights and not met:
        yield _zero(recording, [records[name][0] for name in weights], len(trained))
    tiny = [
        name
        for name, each in trained.items()
        if not query.is_matrix(each[0])
        and not weights
        and _cancelled(each, records, thresholds.unseen_fraction)
    ]
    if tiny:
        yield _structural(recording, [records[name][0] for name in tiny])


def _trained(recording: Recording) -> dict[str, list[ParameterRecord]]:
    return {
        name: each
        for name, each in query.by_name(recording).items()
        if all(step.trainable and step.learning_rate for step in each)
    }


def _silent(recording: Recording) -> list[str]:
    return [name for name, each in _trained(recording).items() if all(map(_is_zero, each))]


def _is_zero(parameter: ParameterRecord) -> bool:
    """Whether its gradient is 0, and not only too small for its format, which is GC403's."""
    return parameter.gradient_norm == 0 and parameter.gradient_lost is None


def _zero(recording: Recording, zero: list[ParameterRecord], total: int) -> Finding:
    owners = {each.layer for each in zero}
    step = recording.steps[0]
    concerned = [layer for layer in step.layers if layer.name in owners]
    # A layer that can be bypassed and receives nothing (an expert nobody routes to) costs the net
    # a part of itself; everything else stops training.
    spared = concerned and all(
        layer.bottleneck is False and layer.gradient_norm == 0 for layer in concerned
    )
    # Nor does one matrix of a layer whose others train: the backward direction of an LSTM of which
    # only the last output is used.
    partly = all(
        any(
            other.layer == owner and query.is_matrix(other) and other.gradient_norm
            for other in step.parameters
        )
        for owner in owners
    )
    single = next(
        (layer for layer in step.layers if _single_unit_softmax(layer.kind, layer.shape)), None
    )
    constant = all(each.row_spread == 0 for each in zero if each.row_spread is not None)
    cause = None
    if single:
        cause = "single-unit-softmax"
    elif constant and any(each.weight_norm == 0 for each in zero):
        whole = any(layer.output and layer.signal for layer in step.layers)
        cause = "zero-factors" if whole else "constant-initialisation"
    return Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.WARNING if spared or partly else Severity.CRITICAL,
        layers=query.names(concerned) or tuple(each.name for each in zero),
        culprit=single.name if single else (concerned[-1].name if concerned else None),
        observed=0.0,
        steps=tuple(each.index for each in recording.steps),
        cause=cause,
        evidence=(("parameters", len(zero)), ("total", total)),
    )


def _single_unit_softmax(kind: str, shape: tuple[int, ...]) -> bool:
    return "softmax" in kind and len(shape) > 1 and shape[-1] == 1


def _cancelled(
    each: list[ParameterRecord], records: dict[str, list[ParameterRecord]], fraction: float
) -> bool:
    """Whether a vector's gradient is zero, or rounding beside the weights' of its own layer."""
    for index, here in enumerate(each):
        beside = [
            other[index].gradient_norm or 0.0
            for other in records.values()
            if other[0].layer == here.layer and query.is_matrix(other[0])
        ]
        if here.gradient_norm is None or not beside or max(beside) == 0:
            return False
        if not here.gradient_norm <= fraction * max(beside):
            return False
    return True


def _structural(recording: Recording, cancelled: list[ParameterRecord]) -> Finding:
    step = recording.steps[0]
    owners = {each.layer for each in cancelled}
    flow = [layer for layer in step.layers if layer.role is not Role.CONTAINER]
    normalised = all(
        after.role is Role.NORM for layer, after in itertools.pairwise(flow) if layer.name in owners
    )
    return Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.INFORMATION,
        layers=tuple(each.name for each in cancelled),
        observed=0.0,
        steps=tuple(each.index for each in recording.steps),
        cause="bias-before-normalisation" if normalised else "shift-invariance",
    )


RULE = Rule(
    code="GC104",
    name="zero-gradient",
    summary="gradients that are exactly zero at every step",
    formula=(
        "A weight matrix in the optimizer whose gradient is exactly 0 at every step of the probe, "
        "and with a scaled loss too where float16 may be the reason (see GC403). "
        "Critical unless its layer can be bypassed and receives no gradient itself (an unrouted "
        "expert), or has other matrices that train (an LSTM's backward direction, of which only "
        "the last output is used): a warning then. No fault in a net that has learnt its batches: "
        "the gradient is 0 at the outputs as well, as that of a hinge loss that is met, and the "
        "loss is below unexplained_loss times what it is where the samples of a batch exchange "
        "their outputs. A bias whose gradient is rounding beside its weight's is zero by structure "
        "(in front of BatchNorm, an attention key bias) and reported as information."
    ),
    default=(
        "unseen_fraction = 1e-6 for biases: rounding leaves 1e-9 and less of the weight's "
        "gradient where theory says 0. unexplained_loss = 0.001."
    ),
    false_alarms="A layer whose inputs are all zero in every batch of the probe.",
    remedy=(
        "Look for a softmax over a single unit, two factors that both start at zero (LoRA needs "
        "one of them random), or weights that are all zero."
    ),
    check=check,
)
