"""The reference page of the rules, in Markdown: the same text that `gradcheckup explain` prints."""

from __future__ import annotations

from dataclasses import fields

from gradcheckup.rules import RULES, Rule
from gradcheckup.thresholds import Thresholds

_HEAD = """# Rules

What gradcheckup looks for. This page is written by `gradcheckup rules --markdown > docs/rules.md`;
`gradcheckup explain CODE` prints the same text.

Severities are information, warning and critical; a report is healthy exactly when nothing critical
stands. One cause is one finding: what another finding explains is folded under it, and shown as
"also:".

To silence a rule: `--ignore CODE` on the command line, `ignore = ["CODE"]` under
`[tool.gradcheckup]` in `pyproject.toml`, or `diagnose(..., ignore=["CODE"])`. To move a limit:
`--threshold name=value`, a `[tool.gradcheckup.thresholds]` table, or
`diagnose(..., thresholds={"name": value})`. The limits and their defaults are at the end.
"""


def rules_page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *map(_section, RULES), _limits()])


def _section(rule: Rule) -> str:
    return (
        f"## {rule.code} {rule.name}\n\n"
        f"{rule.summary[0].upper()}{rule.summary[1:]}.\n\n"
        f"- **Measured**: {rule.measured}\n"
        f"- **Limits**: {rule.default}\n"
        f"- **False alarms**: {rule.false_alarms}\n"
        f"- **What helps**: {rule.remedy}\n"
    )


def _limits() -> str:
    rows = [f"| `{field.name}` | {field.default:g} |" for field in fields(Thresholds)]
    return "\n".join(["## Limits", "", "| name | default |", "|---|---|", *rows, ""])
