"""Pages that are made from the code say what the code says."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from gradcheckup.cli import main
from gradcheckup.reports.reference import rules_page
from gradcheckup.rules import RULES

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_of_rules_is_up_to_date() -> None:
    page = (DOCS / "rules.md").read_text("utf-8")
    assert page == rules_page(), "run: gradcheckup rules --markdown > docs/rules.md"


def test_the_page_of_treatments_is_up_to_date() -> None:
    written = CliRunner().invoke(main, ["treatments", "--markdown"]).stdout
    page = (DOCS / "treatments.md").read_text("utf-8")
    assert page == written, "run: gradcheckup treatments --markdown > docs/treatments.md"


def test_the_page_of_rules_has_every_rule() -> None:
    page = (DOCS / "rules.md").read_text("utf-8")
    for rule in RULES:
        assert f"## {rule.code} {rule.name}\n" in page
