"""``gradcheckup rules`` and ``gradcheckup explain``: what is looked for, and why."""

from __future__ import annotations

import sys

import click

from gradcheckup.cli.console import print_out, width_of, wrapped
from gradcheckup.cli.failures import traceback_option
from gradcheckup.errors import UsageError
from gradcheckup.reports.reference import rules_page
from gradcheckup.rules import RULES, Rule
from gradcheckup.suggestions import did_you_mean

_RULES_EPILOG = """\b
examples
  gradcheckup rules
  gradcheckup diagnose model.py --select GC1,dead-units
"""
_EXPLAIN_EPILOG = """\b
examples
  gradcheckup explain GC101
  gradcheckup explain vanishing-gradient
"""


@click.command(epilog=_RULES_EPILOG)
@click.option("--markdown", is_flag=True, help="The whole reference page, as in docs/rules.md.")
@traceback_option
def rules(markdown: bool) -> int:
    """List all rules."""
    if markdown:
        print_out(rules_page().rstrip())
        return 0
    width = width_of(sys.stdout)
    longest = max(len(rule.name) for rule in RULES)
    for rule in RULES:
        head = f"{rule.code}  {rule.name:<{longest}}  "
        print_out(wrapped(rule.summary, width, first=head, other=" " * len(head)))
    print_out("\nmore on one of them: gradcheckup explain CODE")
    return 0


@click.command(epilog=_EXPLAIN_EPILOG)
@click.argument("code")
@traceback_option
def explain(code: str) -> int:
    """Say what a rule measures, where its limits come from, and what helps.

    CODE is a code or a name, in any case.
    """
    print_out(_explanation(_find(code), width_of(sys.stdout)))
    return 0


def _find(word: str) -> Rule:
    plain = word.strip().lower().replace("_", "-").replace(" ", "-")
    for rule in RULES:
        if plain in {rule.code.lower(), rule.name}:
            return rule
    names = [name for rule in RULES for name in (rule.code, rule.name)]
    family = [rule.code for rule in RULES if rule.code.lower().startswith(plain)] if plain else []
    hint = f"; there are {', '.join(family)}" if family else did_you_mean(plain, names)
    hint = hint or "; gradcheckup rules lists them"
    raise UsageError(f"no rule {word!r}{hint}")


def _explanation(rule: Rule, width: int) -> str:
    parts = [f"{rule.code} {rule.name}", _paragraph(rule.summary, width)]
    for heading, text in (
        ("measured", rule.measured),
        ("limits", rule.default),
        ("false alarms", rule.false_alarms),
        ("what helps", rule.remedy),
    ):
        parts += ["", heading, _paragraph(text, width)]
    return "\n".join(parts)


def _paragraph(text: str, width: int) -> str:
    return wrapped(" ".join(text.split()), width, first="  ", other="  ")
