"""GC503: an attribute that was meant to be `requires_grad` and does nothing."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, Recording, Severity
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Lists such attributes."""
    del thresholds
    if recording.misspelt:
        yield Finding(
            code=RULE.code,
            rule=RULE.name,
            severity=Severity.WARNING,
            layers=recording.misspelt,
            culprit=recording.misspelt[0],
            steps=(0,),
            evidence=(("parameters", len(recording.misspelt)),),
        )


RULE = Rule(
    code="GC503",
    name="misspelt-requires-grad",
    summary="an attribute that was meant to be requires_grad and does nothing",
    formula=(
        "An attribute of a parameter whose name resembles requires_grad (p.require_grad = False), "
        "or a boolean of that name on a module (layer.requires_grad = False): Python accepts both "
        "and torch ignores them."
    ),
    default="Similarity of the names above 0.85 (difflib).",
    false_alarms="A flag of your own with a similar name: ignore GC503 then.",
    remedy="parameter.requires_grad = False, or module.requires_grad_(False).",
    check=check,
)
