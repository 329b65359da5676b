"""GC504: units that share one weight vector and will never differ."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, ParameterRecord, Recording, Severity, Step
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags weight matrices whose rows are equal and stay equal over the probe."""
    # Where something reaches the output in spite of an all-zero matrix, the matrix is a factor of a
    # branch (LoRA) and no layer of symmetric units.
    whole = any(layer.output and layer.signal for layer in recording.steps[0].layers)

    def equal(step: Step) -> list[ParameterRecord]:
        return [
            each
            for each in query.updated(step)
            if each.row_spread is not None
            and each.row_spread <= thresholds.symmetric_spread
            and each.gradient_norm is not None
            and not (whole and each.weight_norm == 0)
        ]

    always = set.intersection(*({each.name for each in equal(step)} for step in recording.steps))
    symmetric = [each for each in equal(recording.steps[0]) if each.name in always]
    if not symmetric or len(recording.steps) == 1:
        return
    worst = max(symmetric, key=lambda each: each.row_spread or 0.0)
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL,
        layers=tuple(dict.fromkeys(each.layer for each in symmetric)),
        culprit=symmetric[0].layer,
        observed=worst.row_spread,
        limit=thresholds.symmetric_spread,
        steps=tuple(step.index for step in recording.steps),
        cause="constant-initialisation",
        evidence=(
            ("parameters", len(symmetric)),
            ("total", sum(each.row_spread is not None for each in recording.steps[0].parameters)),
        ),
    )


RULE = Rule(
    code="GC504",
    name="symmetric-weights",
    summary="units that share one weight vector and will never differ",
    formula=(
        "||W - mean of its rows|| / ||W|| at most symmetric_spread (0 for an all-zero matrix), at "
        "every step: the units of the layer compute the same thing and receive the same gradient."
    ),
    default="symmetric_spread = 1e-5; float32 rounding leaves 1e-7, random weights 1.",
    false_alarms=(
        "A zero-initialised head or LoRA factor differs after one step, and is not flagged."
    ),
    remedy="Initialise weights at random; only biases and scales may be constant.",
    check=check,
)
