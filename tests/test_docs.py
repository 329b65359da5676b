"""Pages that are made from the code say what the code says."""

from __future__ import annotations

from pathlib import Path

from gradcheckup.reports.reference import rules_page
from gradcheckup.rules import RULES

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_of_rules_is_up_to_date() -> None:
    page = (DOCS / "rules.md").read_text("utf-8")
    assert page == rules_page(), "run: gradcheckup rules --markdown > docs/rules.md"


def test_the_page_of_rules_has_every_rule() -> None:
    page = (DOCS / "rules.md").read_text("utf-8")
    for rule in RULES:
        assert f"## {rule.code} {rule.name}\n" in page
