"""GC106: a gradient many times its usual size throws a training run back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from gradcheckup.history import History, Sample
from gradcheckup.records import Finding, Recording, Severity
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds

_BEFORE = 20
_FEWEST = 10
_AFTER = 5
_NOTICEABLE = 0.1


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags spikes of the gradient behind which the loss stands higher than before."""
    history = recording.history
    if history is None:
        return
    spikes = list(_spikes(history, thresholds))
    if not spikes:
        return
    samples = history.samples
    worst = max(spikes, key=lambda position: _growth(samples, position))
    before, after = _losses(samples, worst)
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.WARNING,
        observed=_growth(samples, worst),
        limit=thresholds.spike_growth,
        steps=tuple(samples[position].index for position in spikes),
        cause="oversized-step",
        evidence=(
            ("step", samples[worst].index),
            ("loss_first", before),
            ("loss_last", after),
            ("optimizer", recording.optimizer),
        ),
    )


def _spikes(history: History, thresholds: Thresholds) -> Iterator[int]:
    """Positions of the samples, of several in a row the first."""
    samples = history.samples
    start = median(_known(samples[:_AFTER])) if _known(samples[:_AFTER]) else 0.0
    free = 0
    for position in range(_FEWEST, len(samples) - _AFTER):
        if position < free or not _growth(samples, position) > thresholds.spike_growth:
            continue
        before, after = _losses(samples, position)
        risen = after - before
        grown = risen > (thresholds.loss_growth - 1) * abs(before)
        if grown and risen > _NOTICEABLE * abs(start):
            yield position
            free = position + _AFTER


def _growth(samples: Sequence[Sample], position: int) -> float:
    """The gradient of a sample over the median of those before; 0 where it cannot be told."""
    before = [each.gradient_norm for each in _run_up(samples, position)]
    usual = median([norm for norm in before if norm is not None] or [0.0])
    here = samples[position].gradient_norm
    return here / usual if usual > 0 and here is not None and math.isfinite(here) else 0.0


def _run_up(samples: Sequence[Sample], position: int) -> Sequence[Sample]:
    return samples[max(0, position - _BEFORE) : position]


def _losses(samples: Sequence[Sample], position: int) -> tuple[float, float]:
    """Median loss before a sample and behind it; NaN where it is not known."""
    behind = samples[position + 1 : position + 1 + _AFTER]
    found = [_known(part) for part in (_run_up(samples, position), behind)]
    before, after = (median(losses) if losses else math.nan for losses in found)
    return before, after


def _known(samples: Sequence[Sample]) -> list[float]:
    return [each.loss for each in samples if each.loss is not None and math.isfinite(each.loss)]


RULE = Rule(
    code="GC106",
    name="gradient-spike",
    summary="a gradient many times its usual size has thrown the run back",
    formula=(
        "In a run that is watched: the norm of the gradient of all weight matrices at a sampled "
        "step, as the optimizer got it, over its median at up to 20 sampled steps before, above "
        "spike_growth; and the median loss of "
        "the 5 sampled steps behind above loss_growth times that before, by a tenth of the loss at "
        "the start of the run at least."
    ),
    default=(
        "spike_growth = 10. Single batches make gradients of ten times the median and more in nets "
        "that have learnt nearly all: without a loss that stays higher nothing is wrong."
    ),
    false_alarms=(
        "A change of the data or of the loss in the middle of a run (a curriculum, the second net "
        "of a GAN) raises both."
    ),
    remedy="Clip the gradient, lengthen the warm-up, or take a smaller learning rate.",
    check=check,
)
