"""GC304: gradients of earlier steps are still there when a step begins."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, ParameterRecord, Recording, Severity, Step
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags parameters that begin a step with a gradient, after `zero_grad` had its chance."""

    def carried(step: Step) -> list[ParameterRecord]:
        return [
            each
            for each in query.updated(step)
            if (each.carried_norm or 0.0)
            > thresholds.carried_gradient * (each.gradient_norm or 0.0)
            and each.carried_norm
        ]

    steps = query.persistent(recording, lambda step: bool(carried(step)))
    if not steps:
        return
    parameters = carried(recording.at(steps[-1]))
    worst = max(parameters, key=_share)
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL,
        layers=tuple(each.name for each in parameters),
        culprit=worst.name,
        observed=_share(worst),
        limit=thresholds.carried_gradient,
        steps=steps,
        evidence=(
            ("parameters", len(parameters)),
            ("total", len(recording.steps[0].parameters)),
        ),
    )


def _share(parameter: ParameterRecord) -> float:
    return (parameter.carried_norm or 0.0) / (parameter.gradient_norm or 1.0)


RULE = Rule(
    code="GC304",
    name="accumulating-gradient",
    summary="gradients of earlier steps are still there when a step begins",
    formula=(
        "Norm of .grad after zero_grad and before the forward, over its norm after the backward, "
        "above carried_gradient at every step of the second half of the probe."
    ),
    default="carried_gradient = 1e-3: after zero_grad it is exactly 0.",
    false_alarms="Accumulation on purpose counts per optimizer step, and is not flagged.",
    remedy="Call optimizer.zero_grad() once for every optimizer.step().",
    check=check,
)
