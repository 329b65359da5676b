"""GC306 on recordings made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gradcheckup.records import Finding, Generalization, Recording
from gradcheckup.rules import judge, no_generalization
from gradcheckup.rules.folding import fold
from gradcheckup.thresholds import Thresholds

Make = Callable[..., Any]
LIMITS = Thresholds(unexplained_variance=0.75, schooled_steps=2000)


@pytest.mark.parametrize(
    ("known", "values", "flagged"),
    [
        ({}, {}, True),
        ({"unlearnt": 0.9}, {}, False),
        ({"unlearnt": 1.3}, {}, True),  # sure, and wrong
        ({"regression": 0.75}, {}, False),
        ({"regression": 1.1}, {}, False),  # targets at random
        ({"regression": None}, {}, False),  # it was not asked
        ({"steps": 1999}, {}, False),
        # Of what regression explains, .26, the outputs explain less than two fifths.
        ({"unlearnt": 0.6, "readout": 0.90}, {}, True),
        ({"unlearnt": 0.2, "readout": 1.2}, {}, True),
        ({"unlearnt": 0.6, "readout": 0.89}, {}, False),
        ({"unlearnt": 0.6, "readout": 1.2, "regression": 0.75}, {}, False),
        ({"unlearnt": 0.6, "readout": 1.2, "steps": 1999}, {}, False),
        ({"readout": 0.88}, {}, True),
        ({"readout": 0.86}, {}, False),  # more than half of .26: it begins
        ({}, {"rate_share": 0.99}, False),  # in a warm-up
    ],
)
def test_a_net_that_learns_nothing(
    step: Make,
    recording: Callable[..., Recording],
    known: dict[str, Any],
    values: dict[str, Any],
    flagged: bool,
) -> None:
    schooled = Generalization(
        **{"steps": 2048, "batches": 20, "unlearnt": 0.91, "regression": 0.74, **known}
    )
    made = recording([step(0), step(1)], generalization=schooled, **values)
    found = list(no_generalization.check(made, LIMITS))
    assert [each.severity.value for each in found] == ["critical"] * flagged


def test_a_net_that_was_not_trained_on(step: Make, recording: Callable[..., Recording]) -> None:
    assert not list(no_generalization.check(recording([step(0), step(1)]), LIMITS))


def test_what_it_says(step: Make, recording: Callable[..., Recording]) -> None:
    schooled = Generalization(steps=2048, batches=20, unlearnt=0.99, regression=0.1)
    made = recording([step(0), step(1)], generalization=schooled)
    (found,) = (each for each in judge(made, LIMITS) if each.code == "GC306")
    assert found.prescriptions[0] == "optimizer"
    assert found.observed == 0.99
    assert found.fact("schooled") == 2048
    assert found.fact("regression") == 0.1


@pytest.mark.parametrize(
    ("code", "severity", "lead"),
    [
        ("GC105", "critical", "GC105"),
        ("GC101", "critical", "GC101"),
        ("GC202", "critical", "GC202"),
        ("GC202", "warning", "GC306"),
        ("GC204", "warning", "GC306"),
    ],
)
def test_it_gives_way_to_a_cause_that_is_as_bad(
    finding: Callable[..., Finding], code: str, severity: str, lead: str
) -> None:
    (found,) = fold([finding("GC306"), finding(code, severity)])
    assert found.code == lead
    assert len(found.consequences) == 1


def test_all_that_nothing_is_learnt_has_one_cause(finding: Callable[..., Finding]) -> None:
    (found,) = fold([finding("GC305"), finding("GC306"), finding("GC105")])
    assert found.code == "GC105"
    (found,) = fold([finding("GC305"), finding("GC306")])
    assert found.code == "GC306"
