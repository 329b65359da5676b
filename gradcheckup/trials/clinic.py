"""A clinic, where treatments are tried on copies of one model, all under the same conditions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from torch import nn
from torch.optim import Optimizer

from gradcheckup.errors import TreatmentError
from gradcheckup.prescription import Outcome, Prescription, Trial, ranked
from gradcheckup.probe.subject import OptimizerSource
from gradcheckup.report import Report
from gradcheckup.tracebacks import one_line
from gradcheckup.treating import run
from gradcheckup.treatments.course import Dose, Treated, administer, parse
from gradcheckup.treatments.editing.naming import renamed
from gradcheckup.trials.candidates import drawn, in_any_case
from gradcheckup.trials.training import Course, measure, train

OnTrial = Callable[[str, int, int], None]
"""Called with what is being tried, the number of finished steps, and of all steps."""

_FEWEST_STEPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Clinic:
    """What all trials are made with.

    Attributes:
        model: The model, which no trial changes.
        source: Its optimizer, or what makes one.
        course: Batches, objective and budget of every training.
        probe: Diagnoses a treated model with its optimizer.
        before: The report on the model as it is.
        seeds: Each treatment is tried under all of them.
        names: The user's names for what snippets speak of.
    """

    model: nn.Module
    source: OptimizerSource
    course: Course
    probe: Callable[[nn.Module, Optimizer], Report]
    before: Report
    seeds: Sequence[int]
    names: Mapping[str, str]

    def prescribe(self, texts: Sequence[str], on_trial: OnTrial | None) -> Prescription:
        """Makes all trials, and the two controls."""
        each = self.course.budget * len(self.seeds)
        progress = _Progress(on_trial, total=each * (len(texts) + 2 if texts else 1))
        clinic = replace(self, course=replace(self.course, on_step=progress.step))
        first = measure(self.treat((), self.seeds[0]).model, self.course, self.seeds[0])
        progress.start("doing nothing", 0)
        nothing = clinic.trial("do nothing", ())
        untreated = Prescription(
            before=self.before,
            nothing=nothing,
            budget=self.course.budget,
            held_out=self.course.aside,
            first_loss=first.loss,
        )
        if not texts:
            if untreated.learns:
                return untreated
            texts = in_any_case()
            progress.total = each * (len(texts) + 2)
        trials: list[Trial] = []
        refused: list[tuple[str, str]] = []
        for index, text in enumerate(texts, 1):
            progress.start(text, index * each)
            try:
                trials.append(clinic.trial(text, parse(text)))
            except TreatmentError as error:
                refused.append((text, str(error)))
        progress.start("a random treatment", (len(texts) + 1) * each)
        return replace(
            untreated,
            trials=ranked(trials, nothing),
            random=clinic.random(),
            refused=tuple(refused),
        )

    def treat(self, doses: Sequence[Dose], seed: int) -> Treated:
        """A fresh copy of the model, treated."""
        loss = run(self.course.training[0], self.course.objective)
        return administer(self.model, self.source, doses, loss, seed)

    def trial(self, text: str, doses: Sequence[Dose]) -> Trial:
        """A treatment, tried with every seed.

        Raises:
            TreatmentError: It does not apply, or the model cannot be trained with it.
        """
        reports: list[Report] = [] if doses else [self.before]
        outcomes: list[Outcome] = []
        untrained: Treated | None = None
        for seed in self.seeds:
            treated = self.treat(doses, seed)
            if untrained is None:
                snippet = renamed(treated.snippet, self.names)
                untrained = replace(treated.copy(), snippet=snippet)

            def look(optimizer: Optimizer, model: nn.Module = treated.model) -> None:
                if not reports:
                    reports.append(self.probe(model, optimizer))

            try:
                outcomes.append(train(treated, self.course, seed, look))
            except Exception as error:
                if not doses:
                    raise
                raise TreatmentError(
                    f"{text} does not apply: training with it failed: {one_line(error)}"
                ) from error
        return Trial(
            treatment=text,
            before=self.before,
            after=reports[0],
            treated=untrained,
            outcomes=tuple(outcomes),
            acts_on=_acts_on(doses),
        )

    def random(self) -> Trial | None:
        """The first treatment that applies of all in random order."""
        for text in drawn(self.seeds[0]):
            with suppress(TreatmentError):
                return self.trial(text, parse(text))
        return None

    def within(self, seconds: float, trials: int) -> Clinic:
        """With as many steps as some trials can make in a time, by the pace of a few steps."""
        started = time.perf_counter()
        self.trial("do nothing", ())
        pace = (time.perf_counter() - started) / self.course.budget
        steps = int(seconds / pace / trials / len(self.seeds))
        return replace(self, course=replace(self.course, budget=max(_FEWEST_STEPS, steps)))


class _Progress:
    """Tells how far all trials have come."""

    def __init__(self, report: OnTrial | None, total: int) -> None:
        self.report = report
        self.total = total
        self.label = ""
        self.done = 0

    def start(self, label: str, done: int) -> None:
        self.label, self.done = label, done
        self._tell()

    def step(self) -> None:
        self.done += 1
        self._tell()

    def _tell(self) -> None:
        if self.report:
            self.report(self.label, self.done, self.total)


def _acts_on(doses: Sequence[Dose]) -> str:
    """What the first treatment that changes more than updates works on."""
    kinds = [dose.treatment.acts_on for dose in doses]
    return next((kind for kind in kinds if kind != "updates"), "updates" if kinds else "flow")
