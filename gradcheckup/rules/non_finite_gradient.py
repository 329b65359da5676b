"""GC402: the forward pass is finite and a gradient is not."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradcheckup.records import Finding, Recording, Role, Severity
from gradcheckup.rules import not_finite, query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Names where it arose first: the backward pass runs from the loss, so the last layer."""
    del thresholds
    for step in recording.steps:
        if not math.isfinite(step.loss) or any(layer.finite is False for layer in step.layers):
            return
        broken = [
            layer
            for layer in step.layers
            if layer.role is not Role.CONTAINER and not _finite(layer.gradient_norm)
        ]
        parameters = [each for each in step.parameters if not _finite(each.gradient_norm)]
        if not broken and not parameters:
            continue
        culprit = broken[-1].name if broken else parameters[-1].name
        position = step.layers.index(broken[-1]) if broken else -1
        behind = (each.gradient_norm for each in reversed(step.layers[position + 1 :]))
        cause, growth = not_finite.broken_by(recording, step, behind, "in-gradient")
        yield Finding(
            code=RULE.code,
            rule=RULE.name,
            severity=Severity.CRITICAL if parameters else Severity.WARNING,
            layers=query.names(broken) or tuple(each.name for each in parameters),
            culprit=culprit,
            steps=(step.index,),
            cause=cause,
            evidence=(
                ("parameters", len(parameters)),
                ("total", len(step.parameters)),
                *growth,
                *not_finite.on_ranks(recording),
            ),
        )
        return


def _finite(norm: float | None) -> bool:
    return norm is None or math.isfinite(norm)


RULE = Rule(
    code="GC402",
    name="non-finite-gradient",
    summary="the forward pass is finite and a gradient is not",
    formula=(
        "The last layer in execution order, hence the first in the backward pass, whose dL/dy "
        "holds a NaN or Inf while all outputs and the loss are finite. Critical when it reaches a "
        "parameter; a warning where something masks it (the Inf of sqrt at 0 behind a ReLU). Where "
        "the gradient grew a millionfold on its way there, it overflowed, by weights too large."
    ),
    default="No limit.",
    false_alarms="float16 with a loss scale that is still being searched overflows at first.",
    remedy=(
        "Look at what follows the named layer: sqrt, norm or pow at 0, a division by a small "
        "number, torch.where around an undefined branch (both branches are differentiated)."
    ),
    check=check,
)
