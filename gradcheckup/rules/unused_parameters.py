"""GC501: trainable parameters that take no part in the loss."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, Recording, Severity
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags parameters without a gradient whose module did not run, or ran and left them out."""
    del thresholds
    idle = {*recording.never_called, *recording.without_effect}
    reached = {
        layer.name
        for step in recording.steps
        for layer in step.layers
        if layer.gradient_norm is not None
    }
    unused = [
        records[0]
        for records in query.by_name(recording).values()
        if all(
            # What moves had a gradient, also where the loop has let go of it before the step ends.
            each.trainable and each.gradient_norm is None and not each.update_norm
            for each in records
        )
        and (records[0].layer in idle or records[0].layer in reached)
    ]
    if not unused:
        return
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.WARNING,
        layers=tuple(each.name for each in unused),
        culprit=unused[0].layer,
        steps=tuple(step.index for step in recording.steps),
        evidence=(("parameters", len(unused)), ("total", len(recording.steps[0].parameters))),
    )


RULE = Rule(
    code="GC501",
    name="unused-parameters",
    summary="trainable parameters that take no part in the loss",
    formula=(
        "A trainable parameter whose gradient is None at every step of the probe, and whose module "
        "never ran, or ran and passed a gradient on without using it, or ran without any effect on "
        "the loss (found by changing its output)."
    ),
    default="No limit.",
    false_alarms=(
        "Experts or branches that no batch of the probe was routed to; auxiliary heads that the "
        "criterion leaves out."
    ),
    remedy=(
        "Call the module in forward, or remove it. DistributedDataParallel needs "
        "find_unused_parameters=True for such a model."
    ),
    check=check,
)
