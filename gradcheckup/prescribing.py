"""`prescribe`: diagnoses a model, tries treatments on copies of it, and ranks what came of them."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from gradcheckup.checkup import diagnose
from gradcheckup.errors import UsageError
from gradcheckup.prescription import Prescription
from gradcheckup.probe.arguments import check_arguments
from gradcheckup.probe.batches import take
from gradcheckup.probe.objective import ComputeLoss, Criterion, Objective
from gradcheckup.probe.safekeeping import random_state
from gradcheckup.probe.subject import OptimizerSource, default_optimizer
from gradcheckup.report import Report
from gradcheckup.thresholds import Thresholds
from gradcheckup.treatments import TREATMENTS
from gradcheckup.treatments.course import parse
from gradcheckup.trials import Clinic, Course, OnTrial, candidates, divided, in_any_case

_MOST_BYTES = 2**29
"""Batches are taken until they hold this much together."""

_MOST_BATCHES = 1000
_TIMED_STEPS = 5


def prescribe(
    model: nn.Module,
    data: Any,
    criterion: Criterion | None = None,
    *,
    optimizer: OptimizerSource | None = None,
    compute_loss: ComputeLoss | None = None,
    treatments: str | Iterable[str] | None = None,
    budget: int | str = 200,
    seeds: int = 1,
    steps: int = 8,
    batches: int | None = None,
    follow: int | None = None,
    seed: int = 0,
    thresholds: Thresholds | Mapping[str, float] | None = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    on_trial: OnTrial | None = None,
    subject: str = "",
    assumptions: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
) -> Prescription:
    """Diagnoses a model, tries treatments on copies of it, and ranks them by what they did.

    Each treatment gets the same data, seeds and number of training steps, and so do two controls:
    doing nothing, and a treatment drawn at random. The model itself stays as it is.

    Args:
        model: Any `nn.Module`, in the state from which training is to start.
        data: As for `diagnose`. A fifth of five or more batches is set aside to measure on; of
            fewer, the training batches are measured.
        criterion: As for `diagnose`.
        optimizer: As for `diagnose`.
        compute_loss: As for `diagnose`; accuracy is not measured with it.
        treatments: What to try, as ``["normalization", "activation:gelu + optimizer"]``, or
            ``"all"``. When left out: what the findings call for; for a healthy model that learns,
            nothing; for one that learns nothing all the same, what mends nearly any net.
        budget: Training steps of each trial, or a time for all of them together: ``"60s"``,
            ``"5m"``.
        seeds: How often each trial is made, with seeds from `seed` on.
        steps: Steps of each probe.
        batches: Of each probe, as for `diagnose`.
        follow: Of each probe, likewise.
        seed: The first one.
        thresholds: As for `diagnose`.
        select: As for `diagnose`.
        ignore: As for `diagnose`.
        on_trial: Called with what is tried, and the numbers of finished and of all steps.
        subject: What to call the model in the reports.
        assumptions: Lines to add to what the reports say was assumed.
        names: What snippets are to call `model`, `optimizer`, `criterion` and `data`, as
            ``{"model": "net"}``; these words for those that are left out.

    Returns:
        The trials, best first, beside the two controls.

    Raises:
        UsageError: An argument makes no sense.
        DataError, ModelError, LossError: As `diagnose`.
    """
    check_arguments(model=model, criterion=criterion, compute_loss=compute_loss, seed=seed)
    asked = _asked(treatments)
    _check(budget, seeds)
    with random_state(seed):
        taken, notes = take(data, _needed(budget), _MOST_BYTES)
    examine = partial(
        diagnose,
        data=taken,
        criterion=criterion,
        compute_loss=compute_loss,
        steps=steps,
        batches=batches,
        follow=follow,
        seed=seed,
        thresholds=thresholds,
        select=select,
        ignore=ignore,
        subject=subject,
        assumptions=(*assumptions, *notes),
    )
    before = examine(model, optimizer=optimizer)
    texts = candidates(before) if asked is None else asked
    if not texts and not before.healthy:
        return Prescription(before=before)
    loss = copy.deepcopy(criterion) if isinstance(criterion, nn.Module) else criterion
    training, held_out = divided(taken)
    # What a treated net learns is told by its trial, and asked of it twice only where the verdict
    # on the untreated one depends on that.
    first = batches or steps
    again = examine if _is_schooled(before, first) else partial(examine, batches=first)
    clinic = Clinic(
        model=model,
        source=optimizer or default_optimizer,
        course=Course(
            objective=Objective(loss, compute_loss),
            training=training,
            held_out=held_out,
            budget=budget if isinstance(budget, int) else _TIMED_STEPS,
        ),
        probe=lambda treated, optimizer: again(treated, optimizer=optimizer),
        before=before,
        seeds=tuple(range(seed, seed + seeds)),
        names=names or {},
    )
    if isinstance(budget, str):
        clinic = clinic.within(_seconds(budget), trials=len(texts or in_any_case()) + 2)
    return clinic.prescribe(texts, on_trial)


def _is_schooled(report: Report, first: int) -> bool:
    """Whether a net is unhealthy for what became of it on more than the first batches."""
    found = (each for finding in report.at_least("critical") for each in finding.walk())
    last = report.recording
    lost = last.batches > first and not math.isfinite(last.last_loss)
    return lost or any(each.fact("schooled") for each in found)


def _asked(treatments: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """The treatments that the caller names, all known; None to go by the findings."""
    if treatments is None:
        return None
    if treatments == "all":
        return tuple(each.key for each in TREATMENTS)
    given: Any = [treatments] if isinstance(treatments, str) else treatments
    if not isinstance(given, Iterable) or not all(isinstance(each, str) for each in given):
        raise UsageError(f"expected treatments to be names of treatments, got {treatments!r}")
    texts = tuple(given)
    for text in texts:
        parse(text)
    if not texts:
        raise UsageError(
            "expected at least one treatment, got none: leave them out to go by the findings"
        )
    return texts


def _check(budget: int | str, seeds: int) -> None:
    if isinstance(budget, str):
        _seconds(budget)
    elif type(budget) is not int or budget < 1:
        raise UsageError(
            f'expected budget to be a number of steps of at least 1, or a time as "60s", '
            f"got {budget!r}"
        )
    if type(seeds) is not int or seeds < 1:
        raise UsageError(f"expected seeds to be a whole number of at least 1, got {seeds!r}")


def _seconds(text: str) -> float:
    """`"90s"`, `"5m"`, `"1h"` in seconds."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", text)
    if not found or not float(found[1]):
        raise UsageError(f'expected a budget as 200, "60s" or "5m", got {text!r}')
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def _needed(budget: int | str) -> int:
    """How many batches the trials can use; a fifth of them is set aside."""
    steps = budget if isinstance(budget, int) else _MOST_BATCHES
    return min(steps + steps // 4 + 1, _MOST_BATCHES)
