"""GC103: layers ran, but no gradient comes back to them."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, Recording, Role, Severity
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags layers whose trainable parameters and output both have no gradient at any step.

    And a criterion whose gradient knows nothing of what it is computed from.
    """
    if recording.accounted is not None and recording.accounted < thresholds.accounted_slope:
        yield _of_the_criterion(recording, thresholds.accounted_slope)
    recording = query.lasting(recording, _without)
    step = recording.steps[0]
    idle = {*recording.never_called, *recording.without_effect}
    without = _without(recording)
    owners = {each.layer for each in step.parameters if each.name in without} - idle
    reached = {
        layer.name
        for each in recording.steps
        for layer in each.layers
        if layer.gradient_norm is not None
    }
    severed = [layer for layer in step.layers if layer.name in owners and layer.name not in reached]
    if not severed:
        return
    position = step.layers.index(severed[-1])
    # Call by call: a function of one name may run on both sides of the cut.
    behind = next(
        (
            layer.name
            for layer in step.layers[position + 1 :]
            if layer.gradient_norm is not None and layer.role is not Role.CONTAINER
        ),
        None,
    )
    lost = [each for each in step.parameters if each.layer in owners - reached]
    evidence: list[tuple[str, float | int | str]] = [
        ("parameters", len(lost)),
        ("total", len(step.parameters)),
    ]
    if behind:
        evidence.append(("behind", behind))
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.WARNING
        if query.left_out_on_purpose(recording, lost)
        else Severity.CRITICAL,
        layers=query.names(severed),
        culprit=severed[-1].name,
        steps=tuple(each.index for each in recording.steps),
        cause="detached",
        evidence=tuple(evidence),
    )


def _of_the_criterion(recording: Recording, limit: float) -> Finding:
    outputs = query.names(each for each in recording.steps[-1].layers if each.output)
    return Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL,
        layers=outputs,
        culprit=outputs[-1] if outputs else None,
        observed=recording.accounted,
        limit=limit,
        steps=(recording.steps[-1].index,),
        cause="detached-loss",
    )


def _without(recording: Recording) -> set[str]:
    """Names of parameters that are meant to train and never have a gradient."""
    return {
        name
        for name, records in query.by_name(recording).items()
        if all(
            each.trainable and each.learning_rate is not None and each.gradient_norm is None
            for each in records
        )
    }


RULE = Rule(
    code="GC103",
    name="severed-gradient",
    summary="layers ran, but no gradient comes back to them",
    formula=(
        "The module ran, its parameters require grad and are in the optimizer, and after every "
        "backward of the probe both dL/dy of its output and the gradients of its parameters are "
        "None (not 0), while changing its output changes the loss. The cut lies between the last "
        "such layer and the next one with a gradient. In a run that is watched: after every one in "
        "the later half of the looks. Of a criterion that is not torch's own, also: the derivative "
        "along a random direction of the outputs by autograd, over that by central differences, as "
        "a median over three directions, below accounted_slope (detached-loss)."
    ),
    default=(
        "A gradient is there or not; accounted_slope = 0.01: a penalty of 1e-4 to 1e-2 beside a "
        "detached loss leaves 1e-5 to 6e-3, criteria that detach a weight or a half .3 and more."
    ),
    false_alarms=(
        "A teacher or target network that is meant to stay fixed: set requires_grad_(False) on "
        "it, or keep it out of the optimizer. With compute_loss, a whole top-level part is a "
        "warning."
    ),
    remedy=(
        "Look between the named layers for .detach(), .data, .item(), torch.no_grad(), argmax or "
        "round, torch.tensor(...) of a tensor, or a conversion to numpy; within the criterion, "
        "where that is named."
    ),
    check=check,
)
