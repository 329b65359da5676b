"""What came of trying treatments: trials, ranked by what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradcheckup.report import Report

_SAME_ACCURACY = 0.02
_SAME_LOSS = 0.05
_ERRORS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a model after the budget, with one seed.

    Attributes:
        seed: Of the weights that a treatment draws, and of the training.
        loss: On the batches that were set aside (on the training batches where there are fewer
            than five); NaN or infinite where training broke.
        accuracy: Share of right classes on them; None where it is no classification.
        samples: How many classes were asked for; 0 where it is no classification.
        chance: Share of the most frequent class among them, which a constant answer reaches.
    """

    seed: int
    loss: float
    accuracy: float | None = None
    samples: int = 0
    chance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A treatment, tried on a copy of the model.

    Attributes:
        treatment: What was tried, as `gradcheckup.treat` takes it: ``normalization + optimizer``.
        before: The report of the untreated model.
        after: The report of the treated one, at the start of its training; of a training plan, at
            the start of its last stage.
        treated: The treated copy (`Treated`), not yet trained: model, optimizer, plan, what was
            changed, and the change to make in the user's code.
        outcomes: What became of it, one a seed.
        acts_on: What the treatment works on: ``flow``, ``updates`` or ``training``.
    """

    treatment: str
    before: Report
    after: Report
    treated: Any
    outcomes: tuple[Outcome, ...]
    acts_on: str = "flow"

    @property
    def loss(self) -> float:
        """Mean over seeds."""
        return sum(each.loss for each in self.outcomes) / len(self.outcomes)

    @property
    def accuracy(self) -> float | None:
        """Mean over seeds."""
        found = [each.accuracy for each in self.outcomes if each.accuracy is not None]
        return sum(found) / len(found) if found else None

    def beats(self, other: Trial) -> bool:
        """Whether it ended better by more than chance gives.

        By .02 of accuracy and three standard errors of the difference, of which a dozen trials
        exceed hardly one by chance; where accuracies are closer than that, by 5% of the loss.
        """
        if self.accuracy is not None and other.accuracy is not None:
            gained = self.accuracy - other.accuracy
            if abs(gained) > max(_SAME_ACCURACY, _ERRORS * _standard_error(self, other)):
                return gained > 0
        return _is_lower(self.loss, other.loss)

    def is_as_good_as(self, other: Trial) -> bool:
        """Whether it ended within .02 of another one's accuracy, or 5% of its loss."""
        if self.accuracy is not None and other.accuracy is not None:
            return self.accuracy >= other.accuracy - _SAME_ACCURACY
        return self.loss <= other.loss + _SAME_LOSS * abs(other.loss)


def _is_lower(loss: float, other: float) -> bool:
    """Whether a finite loss is lower by 5% of the size of the other one, which may be negative."""
    return loss < math.inf and (not other < math.inf or other - loss > _SAME_LOSS * abs(other))


def _standard_error(one: Trial, other: Trial) -> float:
    """Of the difference of two accuracies, by the binomial distribution."""
    variance = 0.0
    for trial in (one, other):
        share, count = trial.accuracy or 0.0, sum(each.samples for each in trial.outcomes)
        variance += share * (1 - share) / count if count else 0.0
    return math.sqrt(variance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prescription:
    """What helps a model, tried on copies of it. `str(prescription)` is the text report.

    Attributes:
        before: The report of the untreated model.
        trials: Every treatment that was tried, best first.
        nothing: The untreated model, trained alike; None where no treatment helps against what
            was found.
        random: A treatment drawn at random, trained alike; None where nothing was tried.
        refused: Treatments that do not apply, and why.
        budget: Training steps of each trial.
        held_out: How many batches were set aside to measure the outcome on; 0 where it was
            measured on the training batches.
        first_loss: Loss of the untreated model before training.
    """

    before: Report
    trials: tuple[Trial, ...] = ()
    nothing: Trial | None = None
    random: Trial | None = None
    refused: tuple[tuple[str, str], ...] = field(default_factory=tuple)
    budget: int = 0
    held_out: int = 0
    first_loss: float | None = None

    @property
    def needed(self) -> bool:
        """Whether there is something to cure: a critical finding, or that it does not learn."""
        return not self.before.healthy or self.learns is False

    @property
    def learns(self) -> bool | None:
        """Whether the untreated model learnt something; None where that was not tried.

        Its accuracy is above that of a constant answer by more than chance gives; where it is no
        classification, it took 5% off the loss.
        """
        if self.nothing is None:
            return None
        chances = [each.chance for each in self.nothing.outcomes if each.chance is not None]
        if not chances or self.nothing.accuracy is None:
            return self.first_loss is None or _is_lower(self.nothing.loss, self.first_loss)
        count = sum(each.samples for each in self.nothing.outcomes)
        chance = sum(chances) / len(chances)
        error = math.sqrt(chance * (1 - chance) / count)
        return self.nothing.accuracy > chance + max(_SAME_ACCURACY, _ERRORS * error)

    @property
    def best(self) -> Trial | None:
        """The first trial, where it beats doing nothing; None where nothing tried helps."""
        first = self.trials[0] if self.trials else None
        if first is None or self.nothing is None or not first.beats(self.nothing):
            return None
        return first

    def to_json(self, path: str | Path | None = None) -> str:
        """The prescription as JSON text, also written to `path` when one is given.

        Raises:
            ReportError: The file cannot be written.
        """
        from gradcheckup.serialization import dump_prescription

        return dump_prescription(self, path)

    def __str__(self) -> str:
        from gradcheckup.reports.prescription import render_prescription

        return render_prescription(self)


def ranked(trials: list[Trial], nothing: Trial) -> tuple[Trial, ...]:
    """Trials, best first: by outcome, among those that are healthy and beat doing nothing.

    Then come those that learnt in spite of a finding, then the rest. Of two that end within .02 of
    each other's accuracy (5% of the loss) the simpler one goes first.
    """
    order = sorted(trials, key=lambda trial: (_group(trial, nothing), *_outcome(trial)))
    for index, trial in enumerate(order):
        # The simplest of those that are as good as the first of their group.
        if index and _group(trial, nothing) == _group(order[0], nothing):
            simpler = trial.treatment.count("+") < order[0].treatment.count("+")
            if simpler and trial.is_as_good_as(order[0]):
                return (trial, *order[:index], *order[index + 1 :])
    return tuple(order)


def _group(trial: Trial, nothing: Trial) -> int:
    if trial.beats(nothing):
        return 0 if trial.after.healthy else 1
    return 2 if trial.after.healthy else 3


def _outcome(trial: Trial) -> tuple[float, float]:
    loss = min(math.inf, trial.loss)
    return -(trial.accuracy or 0.0), loss
