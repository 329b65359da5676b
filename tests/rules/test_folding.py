"""One cause, one finding; nothing lost, nothing hidden."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from gradcheckup.rules import RULES
from gradcheckup.rules.folding import fold

Make = Callable[..., Any]
CODES = tuple(rule.code for rule in RULES)


@pytest.mark.parametrize(
    ("lead", "consequence"),
    [
        ("GC101", "GC203"),  # a signal fades with its gradient
        ("GC101", "GC301"),  # and so do the updates
        ("GC102", "GC302"),  # a large gradient makes a large step
        ("GC102", "GC401"),  # that ends in NaN
        ("GC302", "GC401"),
        ("GC202", "GC104"),  # a dead layer passes an exact zero
        ("GC101", "GC403"),  # a gradient that vanishes leaves the range of float16
        ("GC403", "GC301"),  # what has left it moves nothing
        ("GC504", "GC104"),  # all-zero weights pass none either
    ],
)
def test_a_consequence_goes_under_its_cause(finding: Make, lead: str, consequence: str) -> None:
    for given in itertools.permutations([finding(lead), finding(consequence)]):
        (told,) = fold(given)
        assert told.code == lead
        assert [each.code for each in told.consequences] == [consequence]


def test_a_critical_finding_never_hides_under_a_milder_one(finding: Make) -> None:
    for lead, other in itertools.permutations(CODES, 2):
        top = fold([finding(lead, "warning"), finding(other, "critical")])
        assert any(each.code == other and each.severity.value == "critical" for each in top)


def test_information_is_never_folded_and_never_leads(finding: Make) -> None:
    for told, other in itertools.permutations(CODES, 2):
        top = fold([finding(told, "information"), finding(other, "critical")])
        assert {each.code for each in top} == {told, other}


@pytest.mark.parametrize("severity", ["warning", "critical"])
def test_every_finding_is_kept_somewhere(finding: Make, severity: str) -> None:
    for given in itertools.combinations(CODES, 3):
        top = fold(finding(code, severity) for code in given)
        kept = [each.code for lead in top for each in lead.walk()]
        assert sorted(kept) == sorted(given)


def test_all_at_once_are_kept(finding: Make) -> None:
    top = fold(finding(code) for code in CODES)
    assert sorted(each.code for lead in top for each in lead.walk()) == sorted(CODES)


def test_order_of_input_does_not_matter(finding: Make) -> None:
    given = [finding(code) for code in ("GC101", "GC203", "GC301", "GC502", "GC103")]
    expected = fold(given)
    for order in itertools.permutations(given):
        assert [each.code for each in fold(order)] == [each.code for each in expected]


def test_worst_first_then_by_code(finding: Make) -> None:
    given = [
        finding("GC502", "information"),
        finding("GC501", "warning"),
        finding("GC304"),
        finding("GC103"),
    ]
    assert [each.code for each in fold(given)] == ["GC103", "GC304", "GC501", "GC502"]


def test_unrelated_findings_stand_beside_each_other(finding: Make) -> None:
    assert len(fold([finding("GC103"), finding("GC304"), finding("GC503", "warning")])) == 3


def test_nothing_in_nothing_out() -> None:
    assert fold([]) == ()
