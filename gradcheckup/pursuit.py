"""How far a probe goes: until what flows has settled, and to what becomes of the net then.

Some nets look sound at first and are spoilt after twenty or fifty steps: the loss runs away, or
units die and signals collapse one by one until it stands still. Others look bad and learn all the
same. So small nets are followed further. Where the loss is not finite any more, or nothing has been
learnt by then, the steps that led there are made again and measured; and where nothing has been
learnt, once more after some patience. What has been learnt may acquit a net.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from gradcheckup.errors import GradcheckupError
from gradcheckup.records import Finding, Recording, Severity, Step
from gradcheckup.rules import RULES, query
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

_ACQUITTED = {rule.code for rule in RULES if rule.yields} | {"GC302"}
"""What a longer course may acquit."""

_PATIENCE = 4
"""A net that knows nothing by the horizon is followed to this many times as far."""

_FOR_GOOD = {"GC202"}
"""What does not come back as a plateau ends: dead units."""

_STILL = 0.005
"""By how much of the loss the last quarters of a plateau may differ."""
_PARTS = 4
_RUNAWAY = 1e3

Judge = Callable[[Recording], tuple[Finding, ...]]


def pursue(
    probe: Probe, *, steps: int, follow: int | None, judge: Judge, limits: Thresholds
) -> Recording:
    """Measures some steps, and more where that does not decide.

    Args:
        probe: Without a step yet.
        steps: How many to measure.
        follow: To how many in all the loss is followed; None for `HORIZON` where the net is small.
            To `_PATIENCE` times as many where nothing is learnt by then.
        judge: What the rules find.
        limits: That they judge by.
    """
    early = probe.look(steps, settled_from=steps // 2)
    recording = probe.recording(early)
    if query.is_fading(recording, limits) and not _critical(recording, judge):
        recording = probe.recording((*early, *probe.look(steps)))
    horizon = _horizon(recording) if follow is None else follow
    if horizon <= probe.made or not _is_open(recording, judge):
        return recording
    try:
        return _Trail(probe, early, judge, limits).follow(recording, horizon)
    except GradcheckupError:  # what trains for some steps and no more is judged by those
        return recording


@dataclass(frozen=True, slots=True)
class _Trail:
    """Where a probe leads to after its first steps."""

    probe: Probe
    early: Sequence[Step]
    judge: Judge
    limits: Thresholds

    def follow(self, recording: Recording, horizon: int) -> Recording:
        """What is known at the horizon, or after more patience where nothing is learnt by then."""
        outlook = self.probe.foresee(horizon - self.probe.made)
        course = (*(step.loss for step in recording.steps), *outlook.losses)
        followed = replace(recording, course=course, unlearnt=outlook.unlearnt)
        if _critical(followed, self.judge):  # nothing that follows changes the verdict
            return recording
        broken = _runs_away(course)
        if not (broken or query.knows_nothing(followed)):
            return followed
        self.probe.train(max(len(outlook.losses) - len(self.early), 0), again=True)
        found = replace(self._look(), course=course)
        if broken:
            return found if _critical(found, self.judge) else followed
        pace = query.pace(found)
        return followed if pace is None else self._wait(followed, pace)

    def _look(self) -> Recording:
        """Of as many early steps as late ones, so that the second half is the late ones."""
        return self.probe.recording((*self.early, *self.probe.look(len(self.early))))

    def _wait(self, recording: Recording, before: float) -> Recording:
        """What has become of a net that knew nothing, and learnt at some pace."""
        ahead = (_PATIENCE - 1) * len(recording.course)
        losses = self.probe.train(ahead - len(self.early))
        found = self._look()
        late = tuple(step.loss for step in found.settled)
        course = (*recording.course, *losses, *late)
        if _runs_away(course):  # after so long it is judged by where it stood before
            return recording
        left, pace = self.probe.ignorance(), query.pace(found)
        paces = () if pace is None else (before, pace)
        found = replace(found, course=course, unlearnt=left, paces=paces)
        # On a plateau from which nets learn in the end, many look bad.
        stuck = query.knows_nothing(found) and query.is_stalled(found, self.limits)
        if stuck and lasts(found, _critical(found, self.judge), self.limits):
            return found
        return replace(recording, course=course, unlearnt=left)


def lasts(found: Recording, critical: Sequence[Finding], limits: Thresholds) -> bool:
    """Whether anything critical stands at each late step of a plateau that does not end soon.

    Args:
        found: Its settled steps are the late ones.
        critical: What the rules find there.
        limits: For when a plateau ends soon.
    """
    *_, before, last = _quarters(found.course)
    if abs(last - before) > _STILL * abs(before):
        return False
    late = {step.index for step in found.settled}
    lasting = {each.code for each in critical if late <= set(each.steps)}
    ends = query.plateau_left(found) <= limits.stalled_steps
    return bool(lasting & _FOR_GOOD if ends else lasting)


def _quarters(losses: Sequence[float]) -> list[float]:
    """Means of the last four quarters."""
    size = len(losses) // _PARTS
    return [fmean(losses[-k * size :][:size]) for k in range(_PARTS, 0, -1)]


def _runs_away(losses: Sequence[float]) -> bool:
    """Whether a loss is not finite at last, or far above where it began and rising."""
    if not math.isfinite(losses[-1]):
        return True
    if len(losses) < _PARTS:
        return False
    *before, last = _quarters(losses)
    return last > max(*before, _RUNAWAY * abs(losses[0]))


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
