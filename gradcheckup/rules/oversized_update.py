"""GC302: steps that replace the weights instead of improving them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradcheckup.records import Finding, LayerRecord, Recording, Role, Severity, Step
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags updates as large as the weights that last, or after which the loss diverged."""
    limit = thresholds.oversized_update
    # Weights that start at zero grow by more than their size, and biases beside them.
    start = recording.steps[0].parameters
    empty = {each.layer for each in start if query.is_matrix(each) and each.weight_norm == 0}
    large = [step for step in recording.steps if any(_above(step, limit, empty))]
    if not large:
        return
    first, last = recording.steps[0].loss, recording.last_loss
    highest = max((s.loss for s in recording.steps), key=lambda loss: (math.isnan(loss), loss))
    diverged = not highest <= first + (thresholds.loss_growth - 1) * abs(first)
    lasting = all(step in large for step in recording.settled)
    # A step that is too long lengthens weights in front of a norm, which shortens every later one
    # (Arora, Li & Lyu 2019): there one peak is no more than another initialisation.
    invariant = {name for name, _ in query.in_front_of_norms(recording.steps[0])}
    wrecking = any(any(_above(step, limit, empty | invariant)) for step in large)
    followed = last < first and not query.knows_nothing(recording)
    learnt = query.generalizes(recording, thresholds)
    got_over = recording.steps[-1].loss < first or followed or learnt
    if got_over or not (lasting or (diverged and wrecking)):
        return
    layers = list(_above(large[-1], limit, empty))
    worst = max(layers, key=lambda layer: layer.update_ratio or 0.0)
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL,
        layers=query.names(layers),
        culprit=worst.name,
        observed=worst.update_ratio,
        limit=limit,
        steps=tuple(step.index for step in large),
        cause="learning-rate",
        evidence=(
            ("worst", worst.name),
            ("loss_first", first),
            ("loss_last", last),
            ("optimizer", recording.optimizer),
        ),
    )


def _above(step: Step, limit: float, empty: set[str]) -> Iterator[LayerRecord]:
    """Hidden weight layers whose update was larger than allowed; NaN has rules of its own."""
    for layer in query.hidden(step, Role.WEIGHT) or step.layers:
        ratio = layer.update_ratio
        if ratio is not None and ratio > limit and layer.name not in empty:
            yield layer


RULE = Rule(
    code="GC302",
    name="oversized-update",
    summary="steps that replace the weights instead of improving them",
    formula=(
        "Update ratio ||dW|| / ||W|| of a hidden weight layer above oversized_update, while the "
        "loss does not end below where it began (after 64 steps, where the net was followed; what "
        "then knows nothing of its batches has only come back to chance, and what knows others by "
        "step 256 has got over it) and either diverged on the way (not finite, or above "
        "loss_growth times its first value), or such updates last over the second half of the "
        "probe. In front of a norm only those that last count: there an update that is too large "
        "lengthens the weights, and shortens the next ones."
    ),
    default=(
        "oversized_update = 1.0, loss_growth = 2: usual updates are 1e-3 of the weights; "
        "ResNet-50 peaks at 2.2 in its first step with SGD, its loss rises from 2.6 to 14 in seven "
        "steps, and it learns, so one peak in front of a norm is not flagged."
    ),
    false_alarms="Weights that start close to zero; an exact zero is left out.",
    remedy="A smaller learning rate, warm-up, gradient clipping.",
    check=check,
)
