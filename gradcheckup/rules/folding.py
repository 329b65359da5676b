"""One cause, one finding: what another finding explains is folded under it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gradcheckup.records import Finding, Severity

_WRECKED = frozenset({"GC101", "GC104", "GC202", "GC203"})
"""What large steps leave behind; theirs only where it was not there before them."""
_AT_SCORES = frozenset({"GC104", "GC301"})
"""What becomes of the layers that make queries and keys; elsewhere it has another cause."""
_WRONG = frozenset({"GC401", "GC402"})
"""NaN and Inf."""
_IDLE = frozenset({"GC305", "GC306"})
"""That nothing is learnt."""

_EXPLAINS: tuple[tuple[str, frozenset[str]], ...] = (
    # One weight vector for all units: no gradient or no signal can come of it.
    ("GC504", frozenset({"GC104", "GC202", "GC302", "GC101", "GC203", "GC301"}) | _IDLE),
    # A softmax that picks one key: large logits make large gradients, or none for queries and keys.
    ("GC204", frozenset({"GC102", "GC104", "GC301", "GC302", "GC303"}) | _WRONG),
    # Values that grow, then overflow.
    ("GC102", frozenset({"GC302", "GC201", "GC202", "GC306"}) | _WRONG),
    ("GC302", frozenset({"GC201"}) | _WRECKED | _WRONG | _IDLE),
    # What is too small for its format is no gradient any more.
    ("GC403", frozenset({"GC301", "GC303"})),
    # A layer through which nothing passes in time starves what is in front of it, or floods it.
    ("GC105", frozenset({"GC101", "GC102", "GC203", "GC301", "GC302", "GC303"}) | _WRONG | _IDLE),
    # A NaN or Inf that spreads: the earlier step tells which of the two came first.
    ("GC402", frozenset({"GC401"})),
    ("GC401", frozenset({"GC402"})),
    # Nothing fires, or nothing has a slope: signal and gradient end there.
    ("GC202", frozenset({"GC201", "GC101", "GC203", "GC104", "GC301"}) | _IDLE),
    ("GC201", frozenset({"GC101", "GC203", "GC104", "GC301"}) | _IDLE),
    # A gradient that fades: signal, updates and float resolution go with it.
    ("GC101", frozenset({"GC203", "GC301", "GC303", "GC201", "GC202", "GC403"}) | _IDLE),
    ("GC203", frozenset({"GC101", "GC301", "GC201", "GC202"}) | _IDLE),
    # Where none of these is critical, that nothing is learnt is what counts.
    ("GC104", _IDLE),
    ("GC305", frozenset({"GC101", "GC105", "GC203", "GC204", "GC201", "GC202", "GC301"})),
    ("GC306", frozenset({"GC204", "GC201", "GC202", "GC301", "GC305"})),
)
"""Causes, the deepest first, and what each explains."""


def fold(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Puts findings under their causes; worst first, then in the order of their codes.

    A finding is only folded under one that is at least as severe, so that no critical one hides
    behind a warning; information is never a consequence.
    """
    left = list(findings)
    for code, explained in _EXPLAINS:
        lead = next((each for each in left if each.code == code), None)
        if lead is None:
            continue
        follow = [each for each in left if each.code in explained and _follows(each, lead)]
        if follow:
            left = [each for each in left if each is not lead and each not in follow]
            left.append(replace(lead, consequences=(*lead.consequences, *follow)))
    return tuple(sorted(left, key=lambda each: (-each.severity.rank, each.code)))


def _follows(finding: Finding, lead: Finding) -> bool:
    ranks = (finding.severity.rank, lead.severity.rank)
    if Severity.INFORMATION.rank in ranks or ranks[0] > ranks[1]:
        return False
    if finding.code == "GC303":  # updates lost in rounding, where the gradient all but vanished
        return finding.cause == "underflow"
    if lead.code == "GC204" and finding.code in _AT_SCORES:
        return _beside(finding, lead)
    if lead.code == "GC302" and finding.code in _WRECKED:
        return 0 not in finding.steps
    if {finding.code, lead.code} == {"GC401", "GC402"}:
        return lead.steps <= finding.steps
    return True


def _beside(finding: Finding, lead: Finding) -> bool:
    """Whether all layers of a finding stand in the same modules as those of its lead."""
    modules = {name.rpartition(".")[0] for name in lead.layers}
    inside = (
        *(f"{name}." for name in lead.layers),
        *(f"{name}." if name else "" for name in modules),
    )
    return bool(finding.layers) and all(
        name in lead.layers or name.startswith(inside) for name in finding.layers
    )
