"""One cause, one finding: what another finding explains is folded under it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gradcheckup.records import Finding, Severity

# Each row is one story, told by its first code that was found: what comes later follows from it.
_STORIES: tuple[tuple[str, ...], ...] = (
    # One weight vector for all units: no gradient or no signal can come of it.
    ("GC504", "GC104", "GC202", "GC302", "GC101", "GC203", "GC301"),
    # Values that grow, then overflow.
    ("GC102", "GC302", "GC401", "GC402", "GC201", "GC202"),
    # A NaN or Inf that spreads: the earlier step tells which of the two came first.
    ("GC402", "GC401"),
    ("GC401", "GC402"),
    # Nothing fires, or nothing has a slope: signal and gradient end there.
    ("GC202", "GC201", "GC101", "GC203", "GC104", "GC301"),
    # A gradient that fades: signal, updates and float resolution go with it.
    ("GC101", "GC203", "GC301", "GC201", "GC202"),
    ("GC203", "GC202", "GC201", "GC301"),
)
# What large steps leave behind, where it was not there before them.
_WRECKED = frozenset({"GC101", "GC104", "GC202", "GC203"})
_WEAK = (Severity.INFORMATION,)


def fold(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Puts findings under their causes; worst first, then in the order of their codes.

    A finding is only folded under one that is at least as severe, so that no critical one hides
    behind a warning; information is never a consequence.
    """
    left = list(findings)
    for story in _STORIES:
        for rank, code in enumerate(story):
            lead = next((each for each in left if each.code == code and _leads(each)), None)
            if lead is None:
                continue
            follow = [
                each
                for each in left
                if each is not lead
                and each.severity not in _WEAK
                and each.severity.rank <= lead.severity.rank
                and _follows(each, lead, story[rank + 1 :])
            ]
            if follow:
                left = [each for each in left if each is not lead and each not in follow]
                merged = (*lead.consequences, *follow)
                left.append(replace(lead, consequences=merged))
            break
    return tuple(sorted(left, key=lambda each: (-each.severity.rank, each.code)))


def _leads(finding: Finding) -> bool:
    return finding.severity not in _WEAK


def _follows(finding: Finding, lead: Finding, later: tuple[str, ...]) -> bool:
    if lead.code == "GC302" and finding.code in _WRECKED and 0 not in finding.steps:
        return True
    if finding.code == "GC303":  # updates lost in rounding, where the gradient all but vanished
        return finding.cause == "underflow" and lead.code == "GC101"
    if {finding.code, lead.code} == {"GC401", "GC402"}:
        return lead.steps <= finding.steps
    return finding.code in later
