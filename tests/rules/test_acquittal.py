"""What a net that learns all the same is acquitted of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gradcheckup.records import Finding, Recording
from gradcheckup.rules import RULES, judge
from gradcheckup.thresholds import Thresholds

LIMITS = Thresholds(unlearnt_loss=0.25)


@pytest.mark.parametrize(
    ("code", "severity", "values", "expected"),
    [
        ("GC102", "critical", {}, "warning"),
        ("GC203", "critical", {}, "warning"),
        ("GC202", "critical", {"batches": 4}, "warning"),
        ("GC101", "information", {}, "information"),
        ("GC103", "critical", {}, "critical"),  # a cut graph stays cut
        ("GC401", "critical", {}, "critical"),
        ("GC102", "critical", {"unlearnt": 0.25}, "critical"),
        ("GC102", "critical", {"unlearnt": None}, "critical"),
        ("GC102", "critical", {"batches": 3}, "critical"),
    ],
)
def test_acquitted(
    finding: Callable[..., Finding],
    step: Callable[..., Any],
    recording: Callable[..., Recording],
    code: str,
    severity: str,
    values: dict[str, Any],
    expected: str,
) -> None:
    values = {"unlearnt": 0.24, "batches": 8, "course": (2.3,) * 64, **values}
    made = finding(code, severity)
    (rule,) = (each for each in RULES if each.code == code)
    rule = replace(rule, check=lambda _, __: iter([made]))
    (found,) = judge(recording([step(0), step(1)], **values), LIMITS, [rule])
    assert found.severity.value == expected
    said = {"unlearnt": 0.24, "followed": 64} if expected != severity else {}
    assert dict(found.evidence) == {**dict(made.evidence), **said}
