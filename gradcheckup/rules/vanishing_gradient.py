"""GC101: the first layers receive far less gradient than the last."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, Recording, Role, Severity, Step
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds

_SQUASHING = frozenset({"sigmoid", "tanh", "softsign", "hardsigmoid", "hardtanh"})


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags an end-to-end gradient ratio that stays below the limit."""
    low = thresholds.gradient_ratio_low

    severity, limit = Severity.CRITICAL, query.fading_limit(recording, thresholds)
    steps = query.persistent(recording, lambda step: _vanishes(step, limit, thresholds))
    if not steps:
        severity, limit = Severity.WARNING, low
        steps = query.persistent(recording, lambda step: _vanishes(step, low, thresholds))
    if not steps or _climbs(recording):
        return
    step = recording.at(steps[0])
    weights = query.hidden(step, Role.WEIGHT)
    starved = [
        layer
        for layer in weights
        if layer.gradient_ratio is not None and layer.gradient_ratio < low
    ]
    mean = query.per_layer(step)
    culprit = query.first_outside(weights, lambda gain: gain < (mean[0] ** 0.5 if mean else low))
    culprit = culprit or step.first
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=severity,
        layers=query.names(starved),
        culprit=culprit.name if culprit else None,
        observed=step.end_to_end_ratio,
        limit=limit,
        steps=steps,
        cause=_cause(step) if step.index == 0 or _was_low(recording, low) else "learning-rate",
        evidence=tuple(_evidence(recording, step, query.blindness(recording, thresholds))),
    )


def _was_low(recording: Recording, low: float) -> bool:
    """Whether the gradient faded before any update."""
    ratio = recording.steps[0].end_to_end_ratio
    return ratio is not None and ratio < low


def _climbs(recording: Recording) -> bool:
    """Whether the gradient comes back by itself, or holds while the signal does."""
    ratios = [step.end_to_end_ratio for step in recording.steps]
    signals = [step.end_to_end_signal for step in recording.steps]
    holds = (ratios[-1] or 0.0) >= (ratios[0] or 0.0)
    return query.recovers(ratios) or (holds and query.recovers(signals))


def _vanishes(step: Step, limit: float, thresholds: Thresholds) -> bool:
    """Whether the gradient is lost; or fades, while the signal on its way forward is lost."""
    low, signal = thresholds.gradient_ratio_low, step.end_to_end_signal
    ratio = _ratio(step, thresholds.underflow_critical)
    if ratio is None or not ratio < low or not _fades(step, low):
        return False
    return ratio < limit or (signal is not None and signal < limit)


def _ratio(step: Step, gone: float) -> float | None:
    """The end-to-end ratio; of what float16 has taken for 0, how far it had faded before."""
    lost = {
        each.layer
        for each in step.parameters
        if each.gradient_lost is not None and each.gradient_lost >= gone and query.is_matrix(each)
    }
    if step.first is None or step.first.name not in lost:
        return step.end_to_end_ratio
    kept = [layer for layer in query.hidden(step, Role.WEIGHT) if layer.name not in lost]
    return min((layer.gradient_ratio for layer in kept if layer.gradient_ratio), default=None)


def _fades(step: Step, low: float) -> bool:
    """Whether the gradient fades out; one that is cut to an exact zero at once is GC104's."""
    first = step.first
    if first is None or first.gradient_norm:
        return True
    ratios = [layer.gradient_ratio for layer in query.hidden(step, Role.WEIGHT)]
    return any(ratio is not None and 0 < ratio < low for ratio in ratios)


def _activations(step: Step) -> list[str]:
    return [
        layer.kind
        for layer in query.hidden(step, Role.ACTIVATION)
        if not layer.gate and "softm" not in layer.kind
    ]


def _cause(step: Step) -> str:
    shares = query.shares(step)
    squashing = any(kind in _SQUASHING for kind in _activations(step))
    if squashing and (shares is None or shares[0] <= shares[1]):
        return "squashing-activation"
    return "small-weights" if shares is None or shares[1] < 1 else "depth"


def _evidence(
    recording: Recording, step: Step, blindness: float | None
) -> Iterator[tuple[str, float | int | str]]:
    mean = query.per_layer(step)
    if mean:
        yield "per_layer", mean[0]
        yield "depth", mean[1]
    reference = step.layer(step.reference)
    first = step.first
    if first:
        yield "worst", first.name
    if reference:
        yield "reference", reference.name
    yield from query.updates_at_both_ends(step)
    if step.end_to_end_signal is not None:
        yield "signal_ratio", step.end_to_end_signal
    if blindness is not None:
        yield "blindness", blindness
    shares = query.shares(step)
    if shares:
        yield "slope_share", shares[0]
        yield "weight_share", shares[1]
    kinds = _activations(step)
    if kinds:
        kind = max(set(kinds), key=kinds.count)
        yield "activation", kind
        yield "activations", kinds.count(kind)
    yield "optimizer", recording.optimizer


RULE = Rule(
    code="GC101",
    name="vanishing-gradient",
    summary="the first layers receive far less gradient than the last",
    formula=(
        "End-to-end gradient ratio: the L2 norm of dL/dy over the batch at the first weight layer, "
        "over that at the reference layer (the last hidden weight layer; the output layer where a "
        "path leads around it, as in a residual net). Flagged when it is below the limit at every "
        "step of the second half of the probe, neither it nor (while it holds) the signal climbs, "
        "and it fades out instead of being cut to an exact zero. The limit is "
        "gradient_ratio_critical, or gradient_ratio_critical_moving where the first layer moves "
        "all the same: the optimizer scales every parameter's step (Adam; told from its updates), "
        "or the learning rate is large enough for an update ratio of moving_update. It is a "
        "warning below gradient_ratio_low, and critical there where updates do not see the input: "
        "run again, the same batch shows how the outputs moved, together (their mean over the "
        "batch) and apart (the deviations from it); each over the norm of the same part of dL/df, "
        "the first is more than blind_condition times the second, and by moving apart a step wins "
        "less than blind_progress of the loss. The quotient is the condition number of the neural "
        "tangent kernel (Xiao et al. 2020). Under Adam this alone decides what is critical. "
        "Where it was in order before the first update, the learning rate is the likely cause. "
        "Where the "
        "ratio is below gradient_ratio_low, a signal (GC203) below the critical limit counts as "
        "well: the larger loss of the two decides."
    ),
    default=(
        "gradient_ratio_low = 0.02, gradient_ratio_critical = 0.004, "
        "gradient_ratio_critical_moving = 5e-4, moving_update = 1e-4. Set on nets that were then "
        "trained: with SGD a "
        "plain tanh net of 10 layers at 0.005 still learns, a ReLU net of 8 layers at 0.0024 does "
        "not; with Adam 4 sigmoid layers at 0.0027 learn, and 9 narrow ones at 1.5e-4 do not; with "
        "SGD at a learning rate of 0.1 a ReLU net at 0.004 whose first layer moves by 1.8e-4 a "
        "step learns. blind_condition = 1e4, blind_progress = 1e-6: with Adam no net above it "
        "learnt, and plain nets below it did with ratios of 4e-5. How "
        "often they are right is measured by benchmarks/verdicts.py and kept in "
        "benchmarks/verdicts.md. The ratio is free of the loss scale, the batch size and the layer "
        "widths."
    ),
    false_alarms=(
        "A zero-initialised head or residual branch reads as vanished at step 0 and recovers: only "
        "what persists over the probe is flagged, so do not set --steps to 1. A much larger "
        "learning rate or budget can carry a net over the limit."
    ),
    remedy=(
        "An initialisation that fits the activation, normalisation before the activation, skip "
        "connections, or ReLU-like activations in place of sigmoid and tanh."
    ),
    check=check,
    yields=True,
    convicts=True,
)
