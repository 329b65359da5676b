"""GC502: parameters with requires_grad=False, as information."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, Recording, Severity
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Lists them, so that one frozen by accident is seen."""
    del thresholds
    last = recording.steps[-1]
    parameters = last.parameters
    frozen = [each for each in parameters if not each.trainable]
    if not frozen:
        return
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.INFORMATION,
        layers=tuple(each.name for each in frozen),
        steps=(last.index,),
        evidence=(("parameters", len(frozen)), ("total", len(parameters))),
    )


RULE = Rule(
    code="GC502",
    name="frozen-parameters",
    summary="parameters with requires_grad=False (information)",
    formula="requires_grad is False.",
    default="No limit.",
    false_alarms="None: freezing is usually meant, so this is information and never a failure.",
    remedy="If it was not meant: model.requires_grad_(True).",
    check=check,
)
