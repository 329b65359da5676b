"""The composition root: from a model and its data to a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from gradcheckup import rules
from gradcheckup.errors import UnhealthyError, UsageError
from gradcheckup.probe import OnStep, probe
from gradcheckup.probe.arguments import check_arguments
from gradcheckup.probe.flags import misspelt_flags
from gradcheckup.probe.objective import ComputeLoss, Criterion, Objective
from gradcheckup.probe.subject import OptimizerSource, rehearsal, unwrap
from gradcheckup.probe.supply import Supply
from gradcheckup.pursuit import pursue
from gradcheckup.report import Report
from gradcheckup.suggestions import did_you_mean
from gradcheckup.thresholds import Thresholds


def diagnose(
    model: nn.Module,
    data: Any,
    criterion: Criterion | None = None,
    *,
    optimizer: OptimizerSource | None = None,
    compute_loss: ComputeLoss | None = None,
    steps: int = 8,
    batches: int | None = None,
    follow: int | None = None,
    seed: int = 0,
    thresholds: Thresholds | Mapping[str, float] | None = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    on_step: OnStep | None = None,
    subject: str = "",
    assumptions: Iterable[str] = (),
) -> Report:
    """Trains a copy of a model for a few steps, measures every layer, and judges what it saw.

    The model, the optimizer, a criterion that is a module, and all random states are afterwards
    as they were.

    Args:
        model: Any `nn.Module`, in the state in which it is to be judged.
        data: One batch `(inputs, targets)`, a mapping of keyword arguments, an iterable of batches
            (a DataLoader) or a Dataset.
        criterion: `criterion(outputs, targets)`. Left out where the model's output carries
            `.loss`; inferred from outputs and targets otherwise, which the report says.
        optimizer: An optimizer of the model's parameters, an optimizer class (or partial), or a
            function from the model to an optimizer. SGD(lr=0.01, momentum=0.9) when left out.
        compute_loss: `compute_loss(model, batch)` returning a scalar, for everything else.
        steps: Optimizer steps of the probe. One look at initialisation is not enough: only what
            persists is critical. Where gradient and signal are fading as they end, it makes as
            many again.
        batches: How many batches of the data these steps go through in turn, at most `steps`; as
            many as there are steps when left out, and more where a net is trained on (`follow`).
            Data that has fewer is gone through again.
        follow: The loss is followed to this step, and to four times as many where nothing is
            learnt by then. Where nothing is, or it is not finite any more, the last steps are
            measured as well; where the net learns in spite of what was found, that is a warning.
            A light one is trained on to 32 times as many at most, on more batches where the data
            has them: its loss must not run away, and it has to know something of others. 0: not at
            all. 64 when left out, for nets small enough that this takes some seconds at most.
        seed: Seed of the probe's random numbers.
        thresholds: Limits to judge by, or a mapping of the ones to change.
        select: Codes, beginnings of codes or names of the rules to apply; None for all.
        ignore: The same, for rules to leave out.
        on_step: Called with the number of finished steps and of all steps.
        subject: What to call the model in the report.
        assumptions: Lines to add to what the report says was assumed.

    Returns:
        The report.

    Raises:
        UsageError: An argument makes no sense.
        DataError: There is no usable batch.
        ModelError: The model cannot be trained, or failed to run.
        LossError: The loss is not a scalar that requires grad.
    """
    check_arguments(model=model, criterion=criterion, compute_loss=compute_loss, seed=seed)
    most = _most_batches(steps, batches)
    if follow is not None and (type(follow) is not int or follow < 0):
        raise UsageError(f"expected follow to be a whole number of at least 0, got {follow!r}")
    limits = limits_of(thresholds)
    chosen = rules.choose_rules(select, ignore)
    with rehearsal(model, optimizer, criterion, seed) as patient:
        supply = Supply(data, most, has_more=batches is None)
        objective = Objective(patient.criterion, compute_loss)
        recording = pursue(
            probe(patient, objective, supply, limits, on_step),
            steps=steps,
            follow=follow,
            judge=partial(rules.judge, thresholds=limits, rules=chosen),
            limits=limits,
        )
        inferred = (*supply.notes, *objective.assumptions, *patient.assumptions)
    recording = replace(recording, misspelt=misspelt_flags(unwrap(model)))
    return Report(
        recording=recording,
        findings=rules.judge(recording, limits, chosen),
        thresholds=limits,
        assumptions=(*assumptions, *inferred),
        subject=subject,
    )


def assert_healthy(report: Report) -> None:
    """Raises `UnhealthyError`, an AssertionError with the text report, on critical findings."""
    __tracebackhide__ = True  # pytest shows the line that asserts
    given: Any = report
    if not isinstance(given, Report):
        raise UsageError(f"expected a report of diagnose, got {type(given).__name__}")
    if not report.healthy:
        raise UnhealthyError(str(report))


def _most_batches(steps: int, batches: int | None) -> int:
    for name, value in (("steps", steps), ("batches", steps if batches is None else batches)):
        if type(value) is not int or value < 1:
            raise UsageError(f"expected {name} to be a whole number of at least 1, got {value!r}")
    if batches is not None and batches > steps:
        raise UsageError(
            f"expected at most as many batches as steps, {steps}, since each step takes one; "
            f"got batches={batches}: give steps={batches} as well"
        )
    return steps if batches is None else batches


def limits_of(thresholds: Thresholds | Mapping[str, float] | None) -> Thresholds:
    """The limits to judge by, where a mapping changes some of them.

    Raises:
        UsageError: It is no mapping, or names a limit that there is not.
    """
    if thresholds is None:
        return Thresholds()
    if isinstance(thresholds, Thresholds):
        return thresholds
    given: Any = thresholds
    if not isinstance(given, Mapping):
        raise UsageError(f"expected thresholds to be a mapping, got {type(given).__name__}")
    for name in given:
        if name not in Thresholds.__dataclass_fields__:
            hint = did_you_mean(str(name), Thresholds.__dataclass_fields__)
            raise UsageError(f"unknown threshold {name!r}{hint or '; docs/rules.md lists them'}")
    return Thresholds(**given)
