"""GC401: where the first NaN or Inf arose in the forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradcheckup.records import Finding, Recording, Severity, Step
from gradcheckup.rules import not_finite, query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Names the first layer, in execution order, whose output is not finite; else the loss."""
    del thresholds
    for step in recording.steps:
        broken = [layer for layer in step.layers if layer.finite is False]
        if not broken and math.isfinite(step.loss):
            continue
        position = step.layers.index(broken[0]) if broken else len(step.layers)
        before = step.layers[position - 1].name if position else "the input"
        signals = (layer.signal for layer in step.layers[:position])
        cause, growth = not_finite.broken_by(
            recording, step, signals, "in-forward" if broken else "in-loss"
        )
        yield Finding(
            code=RULE.code,
            rule=RULE.name,
            severity=Severity.CRITICAL if _spreads(step) else Severity.WARNING,
            layers=query.names(broken) or ("loss",),
            culprit=broken[0].name if broken else "loss",
            observed=step.loss,
            steps=(step.index,),
            cause=cause,
            evidence=(
                ("before", before),
                ("optimizer", recording.optimizer),
                *growth,
                *not_finite.on_ranks(recording),
            ),
        )
        return


def _spreads(step: Step) -> bool:
    """Whether it reaches the loss or a parameter; a mask of -inf reaches neither."""
    norms = (each.gradient_norm for each in step.parameters)
    return not math.isfinite(step.loss) or any(
        norm is not None and not math.isfinite(norm) for norm in norms
    )


RULE = Rule(
    code="GC401",
    name="non-finite-activation",
    summary="where the first NaN or Inf arose in the forward pass",
    formula=(
        "The first layer in execution order whose output holds a NaN or Inf, or the loss. Critical "
        "when the loss or a parameter's gradient of that step is not finite either; or a warning. "
        "Where the signal grew a millionfold on its way there, it overflowed: the weights are too "
        "large."
    ),
    default="No limit.",
    false_alarms="A layer that returns -inf on purpose, as a mask, is a warning.",
    remedy=(
        "Look at the named layer: exp, log or a division without a lower bound, a square root at "
        "0, float16 overflow. If it happens after some steps: a smaller learning rate or clipping."
    ),
    check=check,
)
