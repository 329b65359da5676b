"""The set of rules, and choosing among them."""

from __future__ import annotations

import re

import pytest

from gradcheckup.errors import UsageError
from gradcheckup.rules import RULES, choose_rules

# design.md's table, without the rules that measure attention and half precision.
EXPECTED = {
    "GC101": "vanishing-gradient",
    "GC102": "exploding-gradient",
    "GC103": "severed-gradient",
    "GC104": "zero-gradient",
    "GC105": "vanishing-through-time",
    "GC106": "gradient-spike",
    "GC201": "saturated-activation",
    "GC202": "dead-units",
    "GC203": "collapsed-signal",
    "GC204": "saturated-attention",
    "GC301": "starved-layer",
    "GC302": "oversized-update",
    "GC303": "unchanged-parameters",
    "GC304": "accumulating-gradient",
    "GC305": "stalled-training",
    "GC306": "no-generalization",
    "GC401": "non-finite-activation",
    "GC402": "non-finite-gradient",
    "GC403": "underflowing-gradient",
    "GC501": "unused-parameters",
    "GC502": "frozen-parameters",
    "GC503": "misspelt-requires-grad",
    "GC504": "symmetric-weights",
}


def _codes(**wanted: list[str]) -> list[str]:
    return [rule.code for rule in choose_rules(wanted.get("select"), wanted.get("ignore"))]


def test_codes_and_names_are_stable() -> None:
    names = {rule.code: rule.name for rule in RULES}
    assert EXPECTED.items() <= names.items()


def test_codes_are_unique_and_sorted() -> None:
    codes = [rule.code for rule in RULES]
    assert codes == sorted(set(codes))
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_explains_itself(rule: object) -> None:
    for text in ("summary", "formula", "default", "false_alarms", "remedy"):
        said = getattr(rule, text)
        assert len(said) > 5, text
        assert said == said.strip(), text
    assert re.fullmatch(r"GC\d{3}", getattr(rule, "code", ""))


def test_nothing_chosen_means_all() -> None:
    every = [rule.code for rule in RULES]
    assert _codes() == every
    assert _codes(select=[], ignore=[]) == every


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (["GC101"], ["GC101"]),
        (["gc101"], ["GC101"]),
        (["vanishing-gradient"], ["GC101"]),
        (["GC102", "GC101"], ["GC101", "GC102"]),
        (["GC101", "vanishing-gradient"], ["GC101"]),
    ],
)
def test_selecting_by_code_and_name(select: list[str], expected: list[str]) -> None:
    assert _codes(select=select) == expected


def test_selecting_and_ignoring_by_the_beginning_of_a_code() -> None:
    assert _codes(select=["GC4"]) == [rule.code for rule in RULES if rule.code.startswith("GC4")]
    assert "GC401" not in _codes(ignore=["GC4"])
    assert _codes(select=["GC1"], ignore=["GC101", "severed-gradient"])[:2] == ["GC102", "GC104"]
    with pytest.raises(UsageError, match="everything selected is ignored"):
        choose_rules(["GC101"], ["GC1"])


@pytest.mark.parametrize(
    ("typo", "suggestion"),
    [("vanishing-gradiant", "vanishing-gradient"), ("GC1O1", "GC101"), ("dead-unit", "dead-units")],
)
def test_a_typo_gets_a_suggestion(typo: str, suggestion: str) -> None:
    for arguments in ([[typo], None], [None, [typo]]):
        with pytest.raises(UsageError, match=f"did you mean {suggestion}"):
            choose_rules(*arguments)


@pytest.mark.parametrize("nonsense", ["", "xyzzy", "GC9"])
def test_what_matches_nothing_is_an_error(nonsense: str) -> None:
    with pytest.raises(UsageError):
        choose_rules([nonsense], None)
