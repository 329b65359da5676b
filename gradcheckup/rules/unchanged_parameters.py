"""GC303: parameters receive a gradient and do not move."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, ParameterRecord, Recording, Severity
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags them by cause: unknown to the optimizer or the model, at rate 0, lost in rounding."""
    typical = query.median(each.gradient_norm for each in recording.steps[0].parameters)
    found: dict[str, list[ParameterRecord]] = {}
    for records in query.by_name(recording).values():
        cause = _cause(records, recording, thresholds.unseen_fraction * (typical or 0.0))
        if cause == "underflow" and query.has_learnt(recording, thresholds):
            continue
        if cause:
            found.setdefault(cause, []).append(records[0])
    if recording.unregistered:
        found["not-registered"] = list(recording.unregistered)
    for cause, parameters in found.items():
        # A learning rate of 0 was asked for; what is in no group, or rounded away, was not.
        asked = (
            cause == "zero-learning-rate"
            or not any(map(query.is_matrix, parameters))
            or query.left_out_on_purpose(recording, parameters)
            # Of a net that `compute_loss` trains another may be kept beside it.
            or (cause == "not-registered" and recording.objective == "compute_loss")
        )
        yield Finding(
            code=RULE.code,
            rule=RULE.name,
            severity=Severity.WARNING if asked else Severity.CRITICAL,
            layers=tuple(each.name for each in parameters),
            culprit=parameters[0].name,
            observed=0.0,
            steps=tuple(step.index for step in recording.steps),
            cause=cause,
            evidence=(
                ("parameters", len(parameters)),
                ("total", len(recording.steps[0].parameters) + len(recording.unregistered)),
                ("optimizer", recording.optimizer),
            ),
        )


def _cause(records: list[ParameterRecord], recording: Recording, unseen: float) -> str | None:
    if not all(each.trainable and (each.gradient_norm or 0.0) > unseen for each in records):
        return None
    moves = any(each.update_norm != 0 for each in records)
    if all(each.learning_rate is None for each in records):
        # A watched loop may update its weights without an optimizer.
        return None if moves and not recording.optimizer else "not-in-optimizer"
    if moves:
        return None
    if not all(each.learning_rate for each in records):
        return "zero-learning-rate"
    # A scale that starts at 1 swallows small updates in float32 too, and stays a good scale.
    return "underflow" if query.is_matrix(records[0]) else None


RULE = Rule(
    code="GC303",
    name="unchanged-parameters",
    summary="parameters receive a gradient and do not move",
    formula=(
        "A trainable parameter with a gradient at every step of the probe that is in no parameter "
        "group (also one that the model keeps in a plain list, tuple or dict, or as a plain "
        "tensor, where model.parameters() does not look), or whose value is bitwise unchanged "
        "after every step (of vectors, only at a learning rate of 0: a scale of 1 rounds "
        "small updates away and does no harm). Rounding is no fault in a net that has learnt its "
        "batches: the loss is below unexplained_loss times what it is where the samples of a batch "
        "exchange the model's outputs."
    ),
    default=(
        "No limit on the change; gradients below unseen_fraction = 1e-6 of the median parameter's "
        "are left out, since theory says 0 there. unexplained_loss = 0.001: fits to the last digit "
        "are below 1e-8."
    ),
    false_alarms=(
        "Only a head is meant to train: freeze the rest with requires_grad_(False), which also "
        "saves its backward pass. With compute_loss, a whole top-level part left out is a warning: "
        "in a GAN each net has its own optimizer. A net that is kept in a list to help with the "
        "loss: freeze it, or put it in eval mode."
    ),
    remedy=(
        "Create the optimizer from all parameters, after the model is complete; keep layers in "
        "nn.ModuleList, tensors as nn.Parameter. For weights in "
        "bfloat16 or float16 keep a float32 copy: small updates are rounded away."
    ),
    check=check,
)
