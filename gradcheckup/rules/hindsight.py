"""What becomes of a net decides over what looks bad in it.

Shares of gradient and signal say that a net will have it hard. One that was followed, and by then
knows what its batches ask for, has got over it; of one that was trained on and knows nothing still,
what was a warning is the reason. A cut graph or a NaN is a fault whatever becomes of the loss.
"""

from __future__ import annotations

from dataclasses import replace

from gradcheckup.records import Finding, Recording, Severity
from gradcheckup.rules import query
from gradcheckup.thresholds import Thresholds

_ENOUGH = 4
"""Batches from which on they are learnt, and not known by heart."""

Evidence = tuple[tuple[str, float | int | str], ...]


def acquitted(finding: Finding, recording: Recording, thresholds: Thresholds) -> Finding:
    """What is left of a finding of a rule that yields, where most has been learnt: a warning.

    Args:
        finding: As its rule left it.
        recording: Says what is left to learn, where the net was followed.
        thresholds: For how much may be left.
    """
    if finding.severity is Severity.INFORMATION or query.learns_nothing(recording, thresholds):
        return finding
    left, known = recording.unlearnt, recording.generalization
    if known and query.generalizes(recording, thresholds):
        learnt: Evidence = (("unlearnt", known.unlearnt), ("followed", known.steps), ("new", "yes"))
    elif left is not None and left < thresholds.unlearnt_loss and recording.batches >= _ENOUGH:
        learnt = (("unlearnt", left), ("followed", len(recording.course)))
    else:
        return finding
    return replace(finding, severity=Severity.WARNING, evidence=(*finding.evidence, *learnt))


def convicted(finding: Finding, recording: Recording, thresholds: Thresholds) -> Finding:
    """What becomes of a warning of a rule that says why: critical, where nothing is learnt.

    Args:
        finding: As its rule left it.
        recording: Says what the net knows in the end, where it was trained on.
        thresholds: For what counts as nothing.
    """
    known = recording.generalization
    if known is None or known.regression is None or finding.severity is not Severity.WARNING:
        return finding
    if not query.learns_nothing(recording, thresholds):
        return finding
    seen: Evidence = (("schooled", known.steps), ("regression", known.regression))
    return replace(finding, severity=Severity.CRITICAL, evidence=(*finding.evidence, *seen))
