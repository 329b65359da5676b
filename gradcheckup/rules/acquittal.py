"""What is no fault where a net learns all the same: shares of gradient and signal, and units.

They say that a net will have it hard. One that was followed, and by then knows what its batches
ask for, has got over it. A cut graph or a NaN is a fault whatever becomes of the loss.
"""

from __future__ import annotations

from dataclasses import replace

from gradcheckup.records import Finding, Recording, Severity
from gradcheckup.thresholds import Thresholds

_ENOUGH = 4
"""Batches from which on they are learnt, and not known by heart."""


def acquitted(finding: Finding, recording: Recording, thresholds: Thresholds) -> Finding:
    """What is left of a finding of a rule that yields: a warning, where most has been learnt.

    Args:
        finding: As its rule left it.
        recording: Says what is left to learn, where the net was followed.
        thresholds: For how much may be left.
    """
    left = recording.unlearnt
    if finding.severity is not Severity.CRITICAL or recording.batches < _ENOUGH:
        return finding
    if left is None or not left < thresholds.unlearnt_loss:
        return finding
    evidence = (*finding.evidence, ("unlearnt", left), ("followed", len(recording.course)))
    return replace(finding, severity=Severity.WARNING, evidence=evidence)
