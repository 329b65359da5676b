"""GC102: the gradient grows towards the first layers, or from step to step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import mean

from gradcheckup.records import Finding, Recording, Role, Severity, Step
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds

_STEP_GROWTH = 1e3
_LARGE_UPDATE = 0.1
_FALL = 0.95


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags an end-to-end ratio that stays above the limit, or a gradient that runs away."""
    limit = upper_limit(recording, thresholds)

    def explodes(step: Step) -> bool:
        ratio = _ratio(step)
        return ratio is not None and ratio > limit

    steps = query.persistent(recording, explodes)
    if steps:
        yield _across_layers(recording, recording.at(steps[0]), steps, limit)
    else:
        yield from _across_steps(recording, thresholds)


def _ratio(step: Step) -> float | None:
    """The end-to-end ratio, or the one behind the norm that follows the first layer if it is less.

    A norm undoes whatever size its input has, and divides the gradient by it on the way back: in
    front of it a small first layer has a large gradient without any growth through the net.
    """
    ratio, first = step.end_to_end_ratio, step.first
    if ratio is None or first is None:
        return ratio
    behind = query.in_front_of_norms(step).get(first.key, first).gradient_ratio
    return ratio if behind is None else min(ratio, behind)


def upper_limit(recording: Recording, thresholds: Thresholds) -> float:
    """The highest healthy end-to-end ratio, raised by growth that keeps no net from learning."""
    norms = len(query.hidden(recording.steps[0], Role.NORM))
    expected = min(norms * math.log(thresholds.norm_growth), math.log(thresholds.norm_growth_cap))
    limit = max(thresholds.gradient_ratio_high, math.exp(expected))
    if query.is_adaptive(recording) and _gets_through(recording):
        limit *= _signal_growth(recording, thresholds.signal_growth_cap)
    return limit


def _signal_growth(recording: Recording, cap: float) -> float:
    """By how much the signal grows between the two layers, as the gradient does on its way back.

    Where both grow alike the net is only scaled, to which steps of a size of their own are blind.
    """
    references = [step.layer(step.reference) for step in recording.settled]
    growth = query.median(layer.signal_ratio for layer in references if layer)
    return min(max(growth or 1.0, 1.0), cap)


def _gets_through(recording: Recording) -> bool:
    """Whether steps tell in the loss, or it is no larger than the outputs differ within a batch.

    So it is in a net that was trained before. Where the outputs are large and say nothing, the
    loss is a multiple of how they differ, and stays that.
    """
    early = [step.loss for step in recording.steps[: len(recording.steps) // 2]]
    late = [step.loss for step in recording.settled]
    if not early or not all(map(math.isfinite, (*early, *late))):
        return True
    falls = mean(late) <= _FALL ** (len(recording.steps) / 2) * mean(early)
    return falls or any(
        layer.signal and step.loss <= layer.signal
        for step in recording.steps[-1:]
        for layer in step.layers
        if layer.output
    )


def _across_layers(
    recording: Recording, step: Step, steps: tuple[int, ...], limit: float
) -> Finding:
    weights = query.hidden(step, Role.WEIGHT)
    mean = query.per_layer(step)
    culprit = query.first_outside(weights, lambda gain: gain > (mean[0] ** 0.5 if mean else 1))
    evidence: list[tuple[str, float | int | str]] = []
    if mean:
        evidence += [("per_layer", mean[0]), ("depth", mean[1])]
    if step.first:
        evidence.append(("worst", step.first.name))
    if step.reference:
        evidence.append(("reference", step.reference[0]))
    evidence += query.updates_at_both_ends(step)
    if step.end_to_end_signal is not None:
        evidence.append(("signal_ratio", step.end_to_end_signal))
    shares = query.shares(step)
    if shares:
        evidence += [("slope_share", shares[0]), ("weight_share", shares[1])]
    evidence.append(("optimizer", recording.optimizer))
    return Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL,
        layers=query.names(
            layer for layer in weights if layer.gradient_ratio and layer.gradient_ratio > limit
        ),
        culprit=culprit.name if culprit else (step.first.name if step.first else None),
        observed=step.end_to_end_ratio,
        limit=limit,
        steps=steps,
        cause="normalisation-growth" if query.hidden(step, Role.NORM) else "large-weights",
        evidence=tuple(evidence),
    )


def _across_steps(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """A gradient that grows a thousandfold within the probe while the loss diverges."""
    start = _total(recording.steps[0])
    if not math.isfinite(start):
        return  # it was not finite before anything grew: GC402's
    for position, step in enumerate(recording.steps[1:], start=1):
        total = _total(step)
        diverged = not step.loss <= thresholds.loss_growth * abs(recording.steps[0].loss)
        jumped = any(map(_large_update, recording.steps[:position]))
        if diverged and jumped and start and not total <= _STEP_GROWTH * start:
            yield Finding(
                code=RULE.code,
                rule=RULE.name,
                severity=Severity.CRITICAL,
                layers=query.names(query.hidden(step, Role.WEIGHT)),
                observed=total / start,
                limit=_STEP_GROWTH,
                steps=(step.index,),
                cause="learning-rate",
                evidence=(
                    ("loss_first", recording.steps[0].loss),
                    ("loss_last", step.loss),
                    ("optimizer", recording.optimizer),
                ),
            )
            return


def _large_update(step: Step) -> bool:
    """Whether a weight layer moved by more than a tenth: else it is the data that changed."""
    return any(
        layer.update_ratio is not None and not layer.update_ratio <= _LARGE_UPDATE
        for layer in step.layers
        if layer.role is Role.WEIGHT
    )


def _total(step: Step) -> float:
    return math.hypot(*(each.gradient_norm or 0.0 for each in step.parameters))


RULE = Rule(
    code="GC102",
    name="exploding-gradient",
    summary="the gradient grows towards the first layers, or from step to step",
    formula=(
        "The end-to-end gradient ratio (see GC101; behind the norm that follows the first layer, "
        "if it is less there) above the limit at every step of the second half of the probe; or a "
        "norm over all parameter gradients that grows a thousandfold within the probe, after an "
        "update of more than a tenth of a layer's weights, while the loss rises above loss_growth "
        "times its first value. Of a net that was followed further, the eight steps are measured "
        "up to which its loss leaves the finite numbers."
    ),
    default=(
        "gradient_ratio_high = 100: see benchmarks/verdicts.md for what becomes of nets above it. "
        "Normalised nets grow by sqrt(pi / (pi - 1)) = 1.21 per normalisation layer and learn, so "
        "the limit follows that growth (norm_growth), up to norm_growth_cap = 1e4. Under "
        "optimizers that scale every parameter's step (Adam) it is multiplied by the growth of the "
        "signal, up to signal_growth_cap = 1e4, as long as the loss falls by a twentieth a step or "
        "is no larger than the standard deviation of the outputs: ReLU, GELU and residual ELU nets "
        "of N(0, 1) weights and 512 units, where gradient and signal both grow 200 to 4500 times, "
        "learn, and their loss falls by a seventh a step, by a fourteenth where one layer alone is "
        "10,000 times too large; of 16 or 32 units it falls by 3%, and they fail. So do tanh nets "
        "of N(0, 10^2), where the gradient alone grows 3000 times, and all that grow by 1e7 and "
        "more."
    ),
    false_alarms=(
        "Residual BatchNorm nets start high (2500 for ResNet-152) and settle within a few steps: "
        "only what persists is flagged. A net that learns and runs away on the batches of the "
        "probe may get through on others: its learning rate is at the edge."
    ),
    remedy="Smaller initial weights, normalisation, gradient clipping, a smaller learning rate.",
    check=check,
    yields=True,
    convicts=True,
)
