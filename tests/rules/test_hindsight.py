"""What becomes of findings where a net learns all the same, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gradcheckup.records import Finding, Generalization, Recording
from gradcheckup.rules import RULES, judge
from gradcheckup.thresholds import Thresholds

LIMITS = Thresholds(unlearnt_loss=0.25, unexplained_variance=0.75, schooled_steps=2000)
Judged = Callable[..., Finding]


@pytest.fixture
def judged(
    finding: Callable[..., Finding],
    step: Callable[..., Any],
    recording: Callable[..., Recording],
) -> Judged:
    """One finding of a rule, as it comes out of the judgement on a recording of two steps."""

    def make(code: str, severity: str, **values: Any) -> Finding:
        (rule,) = (each for each in RULES if each.code == code)
        rule = replace(rule, check=lambda _, __: iter([finding(code, severity)]))
        (found,) = judge(recording([step(0), step(1)], **values), LIMITS, [rule])
        return found

    return make


@pytest.mark.parametrize(
    ("code", "severity", "values", "expected"),
    [
        ("GC102", "critical", {}, "warning"),
        ("GC203", "critical", {}, "warning"),
        ("GC105", "critical", {}, "warning"),
        ("GC202", "critical", {"batches": 4}, "warning"),
        ("GC101", "information", {}, "information"),
        ("GC103", "critical", {}, "critical"),  # a cut graph stays cut
        ("GC401", "critical", {}, "critical"),
        ("GC102", "critical", {"unlearnt": 0.25}, "critical"),
        ("GC102", "critical", {"unlearnt": None}, "critical"),
        ("GC102", "critical", {"batches": 3}, "critical"),
    ],
)
def test_acquitted_by_its_batches(
    judged: Judged,
    finding: Callable[..., Finding],
    code: str,
    severity: str,
    values: dict[str, Any],
    expected: str,
) -> None:
    values = {"unlearnt": 0.24, "batches": 8, "course": (2.3,) * 64, **values}
    found = judged(code, severity, **values)
    assert found.severity.value == expected
    said = {"unlearnt": 0.24, "followed": 64} if expected != severity else {}
    assert dict(found.evidence) == {**dict(finding(code, severity).evidence), **said}


@pytest.mark.parametrize(
    ("code", "left", "expected"),
    [
        ("GC102", 0.24, "warning"),
        ("GC102", 0.25, "critical"),
        ("GC103", 0.0, "critical"),
    ],
)
def test_acquitted_by_new_batches(judged: Judged, code: str, left: float, expected: str) -> None:
    """However few batches it was probed on."""
    known = Generalization(steps=256, batches=20, unlearnt=left)
    found = judged(code, "critical", generalization=known, unlearnt=0.9, batches=2)
    assert found.severity.value == expected
    if expected == "warning":
        assert found.fact("unlearnt") == left
        assert found.fact("followed") == 256


@pytest.mark.parametrize(
    ("code", "severity", "values", "expected"),
    [
        ("GC105", "warning", {}, "critical"),
        ("GC101", "warning", {}, "critical"),
        ("GC102", "warning", {}, "critical"),
        ("GC203", "warning", {}, "critical"),
        ("GC202", "warning", {}, "warning"),  # half of its units is not why
        ("GC301", "warning", {}, "warning"),
        ("GC101", "information", {}, "information"),
        ("GC101", "warning", {"unlearnt": 0.9}, "warning"),
        ("GC101", "warning", {"regression": 0.75}, "warning"),  # nothing to be learnt
        ("GC101", "warning", {"regression": None}, "warning"),
        ("GC101", "warning", {"rate_share": 0.5}, "warning"),  # in the middle of a warm-up
    ],
)
def test_convicted(
    judged: Judged, code: str, severity: str, values: dict[str, Any], expected: str
) -> None:
    share = {key: values.pop(key) for key in ["rate_share"] if key in values}
    known = Generalization(
        **{"steps": 2048, "batches": 20, "unlearnt": 0.91, "regression": 0.74, **values}
    )
    found = judged(code, severity, generalization=known, **share)
    assert found.severity.value == expected
    assert found.fact("schooled") == (2048 if expected != severity else None)
