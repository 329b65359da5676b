"""How far a probe goes: until what flows has settled, and to where a loss that gets nowhere is.

Some nets look sound at first and are spoilt after twenty or fifty steps: the loss runs away, or
units die and signals collapse one by one until it stands still. Where small nets show nothing
critical, the loss is followed further. One that falls needs no second look. Where it has stopped
falling, or is not finite any more, the steps that led there are made again and measured. And a
first step that was too large is no fault where the loss is lower in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from gradcheckup.errors import GradcheckupError
from gradcheckup.records import Finding, Recording, Severity, Step
from gradcheckup.rules import query
from gradcheckup.thresholds import Thresholds

if TYPE_CHECKING:
    from gradcheckup.probe.run import Probe

HORIZON = 64
"""Steps in all to which a net is followed. Of 56 MLPs that fail or blow up and show nothing in 8
steps, 28 are found by then: the first 1000 of benchmarks/verdicts.py."""

_LIGHT = 3e8
"""Multiply-adds of a forward pass: 56 steps of a net this heavy take some seconds on one core."""
_PER_WEIGHT = 16
"""What the update of a weight counts as."""
_FEW_CALLS = 400
"""Calls of layers in a forward pass: where Python loops over a sequence, they take the time."""

_ACQUITTED = frozenset({"GC302"})
"""What a longer course may acquit."""

_NOTICEABLE = 0.05
_PARTS = 4
_RUNAWAY = 1e3
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
        course = (*(step.loss for step in recording.steps), *losses)
        recording = replace(recording, course=course)
        if not gets_nowhere(course):
            return recording
        return _looked_again(probe, recording, early, judge, limits) or recording
    except GradcheckupError:  # what trains for some steps and no more is judged by those
        return replace(recording, course=())


def gets_nowhere(losses: Sequence[float]) -> bool:
    """Whether a loss is not finite at last, or in its last quarter no lower than it was before.

    Lower by a twentieth, that is, than in the best of the other quarters.

    Args:
        losses: Of all steps, in order.
    """
    if not math.isfinite(losses[-1]):
        return True
    if len(losses) < _PARTS:
        return False
    *before, last = _quarters(losses)
    return last > min(before) - _NOTICEABLE * abs(min(before))


def _quarters(losses: Sequence[float]) -> list[float]:
    """Means of the last four quarters."""
    size = len(losses) // _PARTS
    return [fmean(losses[-k * size :][:size]) for k in range(_PARTS, 0, -1)]


def _runs_away(losses: Sequence[float]) -> bool:
    """Whether a loss is not finite at last, or far above where it began and rising."""
    if not math.isfinite(losses[-1]):
        return True
    *before, last = _quarters(losses)
    return last > max(*before, _RUNAWAY * abs(losses[0]))


def _looked_again(
    probe: Probe,
    recording: Recording,
    early: Sequence[Step],
    judge: Judge,
    limits: Thresholds,
) -> Recording | None:
    """What the last steps of a course look like, where they confirm that it leads nowhere."""
    between = len(recording.course) - len(early) - probe.made
    probe.train(max(between, 0), again=True)
    late = probe.look(len(early))
    broken = _runs_away(recording.course)
    # Of as many early steps as late ones, the second half is the late ones.
    found = probe.recording((*(early if broken else early[: len(late)]), *late))
    found = replace(found, course=recording.course)
    if not broken and not _is_stuck(probe, found, limits):
        return None
    confirmed = any(broken or _lasts(each, late) for each in _critical(found, judge))
    return found if confirmed else None


def _is_stuck(probe: Probe, recording: Recording, limits: Thresholds) -> bool:
    """Whether the net knows nothing of its batches, and no step teaches it.

    On a plateau from which nets learn in the end, many look bad.
    """
    return query.is_stalled(recording, limits) and (probe.ignorance() or 0.0) > _KNOWS_NOTHING


def _lasts(finding: Finding, steps: Sequence[Step]) -> bool:
    return {step.index for step in steps} <= set(finding.steps)


def _is_open(recording: Recording, judge: Judge) -> bool:
    """Whether the loss is finite, and nothing critical stands that more steps could not acquit."""
    standing = {each.code for each in _critical(recording, judge)}
    return math.isfinite(recording.steps[-1].loss) and standing <= _ACQUITTED


def _critical(recording: Recording, judge: Judge) -> list[Finding]:
    return [each for each in judge(recording) if each.severity is Severity.CRITICAL]


def _horizon(recording: Recording) -> int:
    """As far as a net is followed where nobody says: not at all where steps are heavy."""
    step = recording.steps[0]
    inputs: dict[str, int] = {}
    for each in step.parameters:
        inputs[each.layer] = inputs.get(each.layer, 0) + math.prod(each.shape[1:])
    work = _PER_WEIGHT * sum(math.prod(each.shape) for each in step.parameters)
    work += sum(math.prod(each.shape) * inputs.get(each.name, 1) for each in step.layers)
    return HORIZON if work <= _LIGHT and len(step.layers) <= _FEW_CALLS else 0
