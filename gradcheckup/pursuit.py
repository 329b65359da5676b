"""How far a probe goes: until what flows has settled, and to what becomes of the net then.

Some nets look sound at first and are spoilt after twenty or fifty steps: the loss runs away, or
units die and signals collapse one by one until it stands still. Others look bad and learn all the
same. So small nets are followed further. Where the loss is not finite any more, or nothing has been
learnt by then, the steps that led there are made again and measured; and where nothing has been
learnt, once more after some patience. Then a light one is schooled on more batches, and asked what
it knows of others. That may acquit it, or convict it.
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

_YIELDING = {rule.code for rule in RULES if rule.yields}
_ACQUITTED = _YIELDING | {"GC302"}
"""What a longer course may acquit."""

_PATIENCE = 4
"""A net that knows nothing by the horizon, or that is to be condemned, is followed to this many
times as far."""
_SCHOOLING = 32
"""A light one, to this many at most."""
_SCHOOLED = 5e7
"""What is light: multiply-adds of a forward pass, of which two thousand steps take some seconds."""
_KNOWS = 0.5
"""Who keeps no more than this share of the loss knows something."""
_KNOWS_MOST = 0.05
"""Who keeps no more than this is done,"""
_KNOWS_ALL = 0.03
"""and with a warning, no more than this."""

_FORECAST = "GC305"
"""What says of a plateau that it goes on: time tells."""
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
            To `_PATIENCE` times as many where nothing is learnt by then, and a light one to
            `_SCHOOLING` times as many at most.
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
        """What is known at the horizon, or after more patience and schooling."""
        outlook = self.probe.foresee(horizon - self.probe.made)
        course = (*self.probe.losses, *outlook.losses)
        followed = replace(recording, course=course, unlearnt=outlook.unlearnt)
        condemned = self._condemns(followed)
        if _runs_away(course):
            return recording if condemned else self._spoilt(followed)
        if condemned:
            followed = self._school(followed, _PATIENCE * horizon, self.limits.unlearnt_loss)
            if self._condemns(followed):
                return recording
        elif query.knows_nothing(followed):
            followed = self._wait(followed)
        if self._condemns(followed, but=_FORECAST):
            return followed
        return self._compare(followed, _SCHOOLING * horizon)

    def _condemns(self, recording: Recording, *, but: str = "") -> bool:
        return any(each.code != but for each in _critical(recording, self.judge))

    def _doubts(self, recording: Recording) -> bool:
        """Whether there is a warning that more steps settle."""
        return any(
            each.code in _YIELDING and each.severity is Severity.WARNING
            for finding in self.judge(recording)
            for each in finding.walk()
        )

    def _spoilt(self, followed: Recording) -> Recording:
        """What a look at the end of the course finds of why the loss has run away."""
        self._reach(len(followed.course) - len(self.early))
        found = replace(self._look(), course=followed.course)
        return found if self._condemns(found) else followed

    def _reach(self, step: int) -> None:
        """Makes the steps up to there, most of them again."""
        self.probe.train(max(step - self.probe.made, 0), again=True)

    def _look(self) -> Recording:
        """Of as many early steps as late ones, so that the second half is the late ones."""
        return self.probe.recording((*self.early, *self.probe.look(len(self.early))))

    def _wait(self, followed: Recording) -> Recording:
        """What becomes of a net that knows nothing, and learns at some pace."""
        probe, late = self.probe, len(self.early)
        self._reach(len(followed.course) - late)
        before = query.pace(self._look())
        if before is None:
            return followed
        if probe.has_more():
            probe.widen()
        put_back = self._train_twice((_PATIENCE - 1) * len(followed.course) - late)
        found = self._look() if math.isfinite(probe.losses[-1]) else followed
        course = tuple(probe.losses)
        if _runs_away(course):
            put_back()
            return self._spoilt(replace(followed, course=course))
        left, pace = probe.ignorance(), query.pace(found)
        paces = () if pace is None else (before, pace)
        found = replace(found, course=course, unlearnt=left, paces=paces)
        # On a plateau from which nets learn in the end, many look bad.
        stuck = query.knows_nothing(found) and query.is_stalled(found, self.limits)
        if stuck and lasts(found, _critical(found, self.judge), self.limits):
            return found
        return replace(followed, course=course, unlearnt=left)

    def _train_twice(self, steps: int) -> Callable[[], None]:
        """Makes some steps, and others in their place where their loss runs away.

        Returns:
            What takes them back.
        """
        probe = self.probe
        put_back = probe.mark()
        probe.train(steps)
        if _runs_away(probe.losses) and probe.has_more():
            put_back()
            put_back = probe.mark()
            probe.reorder()
            probe.train(steps)
        return put_back

    def _compare(self, followed: Recording, until: int) -> Recording:
        """What becomes of a light net that is trained on; twice, where one that learns is flagged.

        That it gets stuck, or loses what it has learnt, may be the chance of one order.
        """
        if _work(followed) > _SCHOOLED or until < self.limits.schooled_steps:
            return followed
        put_back = self.probe.mark()
        found = self._taught(followed, until)
        if not (self._learns(found) and self._condemns(found, but=_FORECAST)):
            return found
        put_back()
        self.probe.reorder()
        again = self._taught(followed, until)
        return found if self._condemns(again, but=_FORECAST) else again

    def _learns(self, found: Recording) -> bool:
        """Whether it knew something when it was asked, or its loss has run away."""
        if found.generalization is None:
            return _runs_away(found.course)
        return min(self.probe.asked) < query.NOTHING

    def _taught(self, followed: Recording, until: int) -> Recording:
        """What a net knows at last of batches on which regression knows something."""
        doubtful = self._doubts(followed)
        enough = _KNOWS_ALL if doubtful else _KNOWS_MOST
        now = self._school(followed, 0, enough)
        known = now.generalization
        if known is None or known.unlearnt < enough:
            return now
        left = self.probe.regression()
        told = left is not None and left <= self.limits.unexplained_variance
        if not told and known.unlearnt >= _KNOWS:
            return followed  # it may be the data
        if not told and not doubtful:
            return now
        schooled = self._school(now, until, enough)
        known = schooled.generalization
        if known is None or known.unlearnt < enough or not told:
            return schooled
        known = replace(known, regression=left, readout=self.probe.readout())
        return replace(schooled, generalization=known)

    def _school(self, recording: Recording, until: int, enough: float) -> Recording:
        """What a net knows of batches that it is not trained on, by this step or when enough."""
        probe = self.probe
        if not probe.has_more():
            return recording
        put_back = probe.mark()
        probe.widen()
        self._reach(len(recording.course))
        while True:
            course = tuple(probe.losses)
            if _runs_away(course):
                put_back()
                return self._spoilt(replace(recording, course=course))
            known = probe.generalization()
            if known is None or known.unlearnt < enough or probe.made >= until:
                return replace(recording, generalization=known)
            put_back = probe.mark()
            probe.train(min(2 * probe.made, until) - probe.made)


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
    calls = len(recording.steps[0].layers)
    return HORIZON if _work(recording) <= _LIGHT and calls <= _FEW_CALLS else 0


def _work(recording: Recording) -> float:
    """Multiply-adds of a forward pass, with what the update of the weights counts as."""
    step = recording.steps[0]
    inputs: dict[str, int] = {}
    for each in step.parameters:
        inputs[each.layer] = inputs.get(each.layer, 0) + math.prod(each.shape[1:])
    weights = _PER_WEIGHT * sum(math.prod(each.shape) for each in step.parameters)
    return weights + sum(math.prod(each.shape) * inputs.get(each.name, 1) for each in step.layers)
