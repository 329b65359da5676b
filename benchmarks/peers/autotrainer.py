"""The rules of AUTOTRAINER (Zhang et al., ICSE 2021), written anew from its formulas and defaults.

Its original watches whole trainings of Keras models, epoch by epoch; here a step is an epoch, and
the probe's eight are the training. Problems of the gradient only count in a net that has not
learnt, as in the original.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.peers.opinion import Opinion, excess, worst
from benchmarks.peers.record import Moment, begin, moments

VANISHING_RATIO = 1e-3
"""beta_1: first over last weight gradient below which it vanishes, if also ..."""
VANISHING_NORM = 1e-4
"""beta_2: ... the first one is below this norm."""
EXPLODING_RATIO = 70.0
"""beta_3: first over last weight gradient above which it explodes."""
DEAD_SHARE = 0.7
"""gamma: share of gradient elements that are exactly zero from which ReLUs are dying."""
SWING, SWINGS = 0.03, 0.2
"""zeta, eta: falls of the accuracy that count, and how many of them per epoch oscillate."""
SLOW_GAIN = 0.01
"""delta: a largest gain in accuracy below this is slow convergence."""
EXPLODED_LOSS = 1e5
"""A held-out loss from this on counts as an explosion, like one that is not finite."""
SATISFIED = 0.7
"""Theta: accuracy from which a net has converged."""


@dataclass(slots=True)
class _Watch:
    """What was seen so far: accuracies, and excesses over the limits of the gradient."""

    train: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    excesses: dict[str, float] = field(default_factory=dict)
    broken: bool = False

    def see(self, case: Case, moment: Moment) -> None:
        """Reads one step."""
        task = case.task
        rows = slice(len(task.held_inputs))  # as many as are held out: a batch's score is noise
        outputs, held = (_outputs(moment, each) for each in (task.inputs[rows], task.held_inputs))
        self.train.append(task.score(outputs, task.targets[rows]))
        self.held.append(task.score(held, task.held_targets))
        held_loss = float(task.criterion()(held, task.held_targets))
        gradients = list(moment.gradients().values())
        kernels = [float(each.double().norm()) for each in gradients if each.dim() > 1]
        finite = all(bool(each.isfinite().all()) for each in gradients)
        if not finite or not math.isfinite(moment.loss) or not held_loss < EXPLODED_LOSS:
            self.broken = True
            return
        size = sum(each.numel() for each in gradients)
        zero = sum(int((each == 0).sum()) for each in gradients)
        self._add("relu", excess(zero / size, DEAD_SHARE))
        if kernels and kernels[-1]:
            ratio = kernels[0] / kernels[-1]
            self._add("explode", excess(ratio, EXPLODING_RATIO))
            relative = excess(ratio, VANISHING_RATIO, above=False)
            absolute = excess(kernels[0], VANISHING_NORM, above=False)
            self._add("vanish", min(relative, absolute))

    def _add(self, problem: str, by: float) -> None:
        self.excesses[problem] = max(by, self.excesses.get(problem, by))


def judge(case: Case, seed: int) -> Opinion:
    """Applies the rules to the first steps of a training.

    The score is the largest excess over the limits of the gradient, in decades.
    """
    watch = _Watch()
    model, optimizer = begin(case, seed)
    for moment in moments(case, seed, model, optimizer):
        watch.see(case, moment)
    if watch.broken or not all(bool(each.isfinite().all()) for each in model.parameters()):
        return Opinion(unhealthy=True, score=worst([math.inf]), findings=["explode"])
    found = _issues(watch)
    score = worst(list(watch.excesses.values()))
    return Opinion(unhealthy=bool(found), score=score, findings=found)


def _issues(watch: _Watch) -> list[str]:
    slow = max(map(_largest_gain, (watch.train, watch.held))) < SLOW_GAIN
    if slow or min(max(watch.train), max(watch.held)) < SATISFIED:
        for problem in ("relu", "explode", "vanish"):
            if watch.excesses.get(problem, -1.0) >= 0:
                return [problem]
        return ["not_converge"] if slow else []
    return ["unstable"] if _oscillates(watch.train) else []


def _outputs(moment: Moment, inputs: Tensor) -> Tensor:
    moment.model.eval()
    with torch.no_grad():
        outputs: Tensor = moment.model(inputs)
    moment.model.train()
    return outputs


def _largest_gain(scores: Sequence[float]) -> float:
    return max((after - before for before, after in itertools.pairwise(scores)), default=0.0)


def _oscillates(scores: Sequence[float]) -> bool:
    """Whether the accuracy falls from a local maximum to a local minimum too often."""
    triples = list(zip(scores, scores[1:], scores[2:], strict=False))
    tops = [here for before, here, after in triples if before <= here >= after]
    bottoms = [here for before, here, after in triples if before >= here <= after]
    falls = sum(top - bottom >= SWING for top, bottom in zip(tops, bottoms, strict=False))
    return falls >= SWINGS * len(scores)
