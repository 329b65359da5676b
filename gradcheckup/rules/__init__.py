"""Rules: pure functions from a `Recording` and `Thresholds` to `Finding`s, one file each.

`RULES` is the whole set, in the order of their codes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from gradcheckup.errors import UsageError
from gradcheckup.indications import indicated
from gradcheckup.records import Finding, Recording
from gradcheckup.rules import (
    accumulating_gradient,
    collapsed_signal,
    dead_units,
    exploding_gradient,
    frozen_parameters,
    gradient_spike,
    misspelt_requires_grad,
    no_generalization,
    non_finite_activation,
    non_finite_gradient,
    oversized_update,
    saturated_activation,
    saturated_attention,
    severed_gradient,
    stalled_training,
    starved_layer,
    symmetric_weights,
    through_time,
    unchanged_parameters,
    underflowing_gradient,
    unused_parameters,
    vanishing_gradient,
    zero_gradient,
)
from gradcheckup.rules.folding import fold
from gradcheckup.rules.hindsight import acquitted, convicted
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds

RULES: tuple[Rule, ...] = (
    vanishing_gradient.RULE,
    exploding_gradient.RULE,
    severed_gradient.RULE,
    zero_gradient.RULE,
    through_time.RULE,
    gradient_spike.RULE,
    saturated_activation.RULE,
    dead_units.RULE,
    collapsed_signal.RULE,
    saturated_attention.RULE,
    starved_layer.RULE,
    oversized_update.RULE,
    unchanged_parameters.RULE,
    accumulating_gradient.RULE,
    stalled_training.RULE,
    no_generalization.RULE,
    non_finite_activation.RULE,
    non_finite_gradient.RULE,
    underflowing_gradient.RULE,
    unused_parameters.RULE,
    frozen_parameters.RULE,
    misspelt_requires_grad.RULE,
    symmetric_weights.RULE,
)


def choose_rules(select: Iterable[str] | None, ignore: Iterable[str] | None) -> tuple[Rule, ...]:
    """The rules that are selected and not ignored.

    Args:
        select: Codes, beginnings of codes (`GC1`) or names; None or empty for all.
        ignore: The same, to leave out.

    Raises:
        UsageError: Something matches no rule.
    """
    # Read once: they may be generators.
    select, ignore = (_words(given) for given in (select, ignore))
    chosen = _matching(select) if select else RULES
    left_out = _matching(ignore) if ignore else ()
    left = tuple(rule for rule in chosen if rule not in left_out)
    if not left:
        raise UsageError("expected a rule to judge by, but everything selected is ignored as well")
    return left


def judge(
    recording: Recording, thresholds: Thresholds, rules: Iterable[Rule] = RULES
) -> tuple[Finding, ...]:
    """What the rules find in a recording: folded, with prescriptions, worst first."""
    found = [
        _reconsidered(finding, rule, recording, thresholds)
        for rule in rules
        for finding in rule.check(recording, thresholds)
    ]
    return tuple(map(indicated, fold(found)))


def _reconsidered(
    finding: Finding, rule: Rule, recording: Recording, thresholds: Thresholds
) -> Finding:
    """The finding in the light of what became of the net."""
    if rule.yields:
        finding = acquitted(finding, recording, thresholds)
    return convicted(finding, recording, thresholds) if rule.convicts else finding


def _words(given: Any) -> list[str]:
    words = [given] if isinstance(given, str) else given
    if words is None:
        return []
    if isinstance(words, Iterable):
        words = list(words)
        if all(isinstance(word, str) for word in words):
            return words
    raise UsageError(f"expected rule codes or names, got {given!r}")


def _matching(words: list[str]) -> tuple[Rule, ...]:
    for word in words:
        if not any(_matches(rule, word) for rule in RULES):
            known = [each for rule in RULES for each in (rule.code, rule.name)]
            close = difflib.get_close_matches(
                word, [*known, *map(str.lower, known)], n=1, cutoff=0.75
            )
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(
                f"expected a rule code, the beginning of one or a name, got {word!r}: {hint}"
                "`gradcheckup rules` lists them"
            )
    return tuple(rule for rule in RULES if any(_matches(rule, word) for word in words))


def _matches(rule: Rule, word: str) -> bool:
    word = word.strip().lower()
    return bool(word) and (rule.code.lower().startswith(word) or rule.name == word)


__all__ = ["RULES", "Rule", "choose_rules", "judge"]
