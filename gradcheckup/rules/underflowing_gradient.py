"""GC403: gradients below the range of float16."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, Recording, Severity, Step
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags weights whose gradient is rounded away, and would be there if the loss were scaled."""
    measured = [_measured(step) for step in recording.settled]
    matrices = {name for shares in measured for name in shares}
    lost = _always(measured, thresholds.underflow_critical)
    faint = _always(measured, thresholds.underflow_warning)
    if not faint:
        return
    # SGD in proportion to what is left still trains the last layers, and the net with them.
    share = thresholds.underflow_share if query.is_adaptive(recording) else 1.0
    critical = len(lost) >= share * len(matrices)
    concerned = lost if critical else faint
    limit = thresholds.underflow_critical if critical else thresholds.underflow_warning
    last = recording.steps[-1]
    owners = {each.layer for each in last.parameters if each.name in concerned}
    layers = query.names(layer for layer in last.layers if layer.name in owners)
    worst = max(
        (each for each in last.parameters if each.name in concerned),
        key=lambda each: each.gradient_lost or 0.0,
    )
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        layers=layers or tuple(sorted(concerned)),
        culprit=worst.layer,
        observed=worst.gradient_lost,
        limit=limit,
        steps=tuple(step.index for step in recording.settled),
        cause="float16-range",
        evidence=(
            ("parameters", len(concerned)),
            ("total", len(matrices)),
            ("optimizer", recording.optimizer),
        ),
    )


def _measured(step: Step) -> dict[str, float]:
    """What the weights that train lose of their gradient, by name."""
    return {
        each.name: each.gradient_lost
        for each in step.parameters
        if query.is_matrix(each) and each.learning_rate and each.gradient_lost is not None
    }


def _always(measured: list[dict[str, float]], limit: float) -> set[str]:
    """Names whose share reaches a limit at each step."""
    return set.intersection(
        *({name for name, share in shares.items() if share >= limit} for shares in measured)
    )


RULE = Rule(
    code="GC403",
    name="underflowing-gradient",
    summary="gradients that float16 takes for 0",
    formula=(
        "float16 has no number between 0 and 6.0e-8, and few up to 6.1e-5. Where more than half of "
        "a layer's non-zero dL/dy lies below 6.1e-5, the loss of the batch is differentiated twice "
        "more, as it is and times a power of two: g and g'. The share of a weight's gradient that "
        "is lost is 1 - <g, g'> / ||g'||^2; zeros that a ReLU, dropout or padding made are in "
        "both. Flagged above underflow_warning at every step of the second half of the probe; "
        "critical when as many weights as underflow_share lose underflow_critical, of all that "
        "train, or every one of them where steps follow the size of the gradient (SGD)."
    ),
    default=(
        "underflow_warning = 0.1, underflow_critical = 0.9, underflow_share = 0.6. Set on nets "
        "under torch.autocast with smaller and smaller losses, which all learn in float32: with "
        "Adam, of the nets in which 60% and more of the weights lost .9 none learnt; those that "
        "lost .1 to .4 did, three to ten times as slowly, or diverged later, as the loss fell. "
        "With SGD, a residual net of which the head alone kept its gradient learnt."
    ),
    false_alarms=(
        "A loss scale that is still being searched. A scaled loss and bfloat16, which reaches as "
        "far down as float32, are not flagged."
    ),
    remedy=(
        "torch.amp.GradScaler (scale the loss, unscale the gradients in front of the step), "
        "bfloat16 in place of float16, or float32 for the layers at the loss; or take out the "
        "small factor in front of the loss."
    ),
    check=check,
)
