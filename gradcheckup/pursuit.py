"""How far a probe goes: until what flows has settled, and to where a loss that gets nowhere is.

Some nets look sound at first and are spoilt after twenty or fifty steps: the loss runs away, or
units die and signals collapse one by one until it stands still. Where small nets show nothing
critical, the loss is followed further. One that falls needs no second look. Where it has stopped
falling, or is not finite any more, the steps that led there are made again and measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING

from gradcheckup.records import Finding, Recording, Severity, Step
from gradcheckup.rules import query
from gradcheckup.thresholds import Thresholds

if TYPE_CHECKING:
    from gradcheckup.probe.run import Probe

HORIZON = 64
"""Steps in all to which a net is followed. Of 44 MLPs that fail or blow up and show nothing in 8
steps, 21 are spoilt by then."""

_LIGHT = 5e8
"""Numbers (outputs and weights) that all these steps may touch: some seconds on one core."""

_NOTICEABLE = 0.05
_PARTS = 4
_KNOWS_NOTHING = 0.9

Judge = Callable[[Recording], tuple[Finding, ...]]


def pursue(
    probe: Probe, *, steps: int, follow: int | None, judge: Judge, limits: Thresholds
) -> Recording:
    """Measures some steps, and more where that does not decide.

    Args:
        probe: Without a step yet.
        steps: How many to measure.
        follow: To how many in all the loss is followed; None for `HORIZON` where the net is small.
        judge: What the rules find.
        limits: That they judge by.
    """
    early = probe.look(steps, settled_from=steps // 2)
    recording = probe.recording(early)
    if query.is_fading(recording, limits) and _is_open(recording, judge):
        recording = probe.recording((*early, *probe.look(steps)))
    ahead = (_horizon(recording) if follow is None else follow) - probe.made
    if ahead <= 0 or not _is_open(recording, judge):
        return recording
    try:
        losses = probe.foresee(ahead)
    except Exception:  # noqa: BLE001 - what trains for some steps and no more: judged by those
        return recording
    course = (*(step.loss for step in recording.steps), *losses)
    recording = replace(recording, course=course)
    if not gets_nowhere(course):
        return recording
    return _looked_again(probe, recording, early, judge) or recording


def gets_nowhere(losses: Sequence[float]) -> bool:
    """Whether a loss is not finite at last, or in its last quarter no lower than it was before.

    Lower by a twentieth, that is, than in the best of the other quarters.

    Args:
        losses: Of all steps, in order.
    """
    if not math.isfinite(losses[-1]):
        return True
    size = len(losses) // _PARTS
    if not size:
        return False
    *before, last = (fmean(losses[-k * size :][:size]) for k in range(_PARTS, 0, -1))
    return last > min(before) - _NOTICEABLE * abs(min(before))


def _looked_again(
    probe: Probe, recording: Recording, early: Sequence[Step], judge: Judge
) -> Recording | None:
    """What the last steps of a course look like, where they confirm that it leads nowhere."""
    probe.train(max(len(recording.course) - len(early) - probe.made, 0))
    late = probe.look(len(early))
    broken = not math.isfinite(late[-1].loss)
    # Of as many early steps as late ones, the second half is the late ones.
    found = probe.recording((*(early if broken else early[: len(late)]), *late))
    found = replace(found, course=recording.course)
    if not broken and (probe.ignorance() or 0.0) < _KNOWS_NOTHING:
        return None
    confirmed = any(broken or _lasts(each, late) for each in _critical(found, judge))
    return found if confirmed else None


def _lasts(finding: Finding, steps: Sequence[Step]) -> bool:
    return {step.index for step in steps} <= set(finding.steps)


def _is_open(recording: Recording, judge: Judge) -> bool:
    """Whether the loss is finite, and nothing critical stands."""
    return math.isfinite(recording.steps[-1].loss) and not _critical(recording, judge)


def _critical(recording: Recording, judge: Judge) -> list[Finding]:
    return [each for each in judge(recording) if each.severity is Severity.CRITICAL]


def _horizon(recording: Recording) -> int:
    """As far as a net is followed where nobody says: not at all where steps are heavy."""
    step = recording.steps[0]
    shapes = chain((each.shape for each in step.layers), (each.shape for each in step.parameters))
    return HORIZON if HORIZON * sum(map(math.prod, shapes)) <= _LIGHT else 0
