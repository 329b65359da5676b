"""The beginning of a watch: what is asked is checked, and a `Monitor` set to it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradcheckup import rules
from gradcheckup.capture import can_be_eager
from gradcheckup.checkup import limits_of
from gradcheckup.errors import UsageError
from gradcheckup.probe.subject import check_bound, check_trainable, is_compiled, unwrap
from gradcheckup.records import Finding, Severity
from gradcheckup.runs.log import RunLog
from gradcheckup.runs.reading import steps_so_far
from gradcheckup.runs.run import Run
from gradcheckup.thresholds import Thresholds
from gradcheckup.watching.monitor import Monitor
from gradcheckup.watching.processes import Processes, join
from gradcheckup.watching.sharding import check_wrappers

_OPEN: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Monitor]] = weakref.WeakKeyDictionary()
"""The monitor of each watched model, which refers to the model."""


def watch(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    every: int = 10,
    thresholds: Thresholds | Mapping[str, float] | None = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    grad_scaler: Any = None,
    on_finding: Callable[[Finding], object] | None = None,
    stop_on: Severity | str | None = None,
    log: str | Path | None = None,
    subject: str = "",
    process_group: Any = None,
) -> Monitor:
    """Watches a model while an existing loop trains it; the loop stays as it is.

    Every `every`-th optimizer step is sampled: hooks stand on the model for that step alone. Of
    most sampled steps gradient norms of the weight layers are read, with `every` of 1 or 2 in
    turns; the first, second, fourth, eighth ... and every 32nd (of close steps, one of 128 steps)
    are measured as `diagnose` measures a step. Losses, gradients and weights are bitwise what they
    are without.

    Args:
        model: The model that is trained; inside of `torch.compile` and DistributedDataParallel, or
            around. Compiled models run uncompiled in sampled steps.
        optimizer: Its optimizer, or several that make a step together. None for a loop without
            one, which calls `monitor.step()`.
        every: One of how many optimizer steps is sampled.
        thresholds: Limits to judge by, or a mapping of the ones to change.
        select: Codes, beginnings of codes or names of the rules to apply; None for all.
        ignore: The same, for rules to leave out.
        grad_scaler: The `torch.amp.GradScaler` of the loop: gradients are then reported without
            its scale, and steps that it skips are left out.
        on_finding: Called with each finding when it first stands. If it raises, that is warned of
            and it is called no more; `stop_on` is what ends a training.
        stop_on: Severity from which a finding ends the training, by an `UnhealthyError` raised
            from `optimizer.step()`, after the update.
        log: A file that gets a line for each sampled step, at once, and can be shown at any time
            with `gradcheckup show`. A run that goes on appends to its log.
        subject: What to call the model in the report.
        process_group: Where several processes train the model together, each on its share of the
            batches, and all call this function: those of them that do; None for all. Every one
            then has the numbers of all, and the log is written by the first.

    Returns:
        The monitor; also a context manager that closes it. A monitor that watches the same model
        already is closed.

    Raises:
        UsageError: An argument makes no sense, the optimizer has none of the model's parameters, or
            other processes do not watch the same.
        ModelError: The model has nothing to train.
        ReportError: The log cannot be written, or is the file of something else.
    """
    given: Any = model
    if not isinstance(given, nn.Module):
        raise UsageError(f"expected model to be an nn.Module, got {type(given).__name__}")
    if type(every) is not int or every < 1:
        raise UsageError(f"expected every to be a whole number of at least 1, got {every!r}")
    if on_finding is not None and not callable(on_finding):
        raise UsageError(f"expected on_finding to be a function, got {type(on_finding).__name__}")
    if grad_scaler is not None and not callable(getattr(grad_scaler, "scale", None)):
        kind = type(grad_scaler).__name__
        raise UsageError(f"expected grad_scaler to be a torch.amp.GradScaler or None, got {kind}")
    bound = _severity(stop_on)
    root = unwrap(model)
    if not can_be_eager() and any(map(is_compiled, given.modules())):
        raise UsageError(
            "expected torch 2.6 or later to watch a model that was compiled: before, hooks see "
            "nothing of it; upgrade, or leave torch.compile out"
        )
    check_trainable(root)
    optimizers = _optimizers(optimizer)
    for each in optimizers:
        check_bound(each, root)
    run = Run(
        every=every,
        thresholds=limits_of(thresholds),
        chosen=rules.choose_rules(select, ignore),
        subject=subject,
    )
    check_wrappers(model)
    before = _OPEN.get(root)
    earlier = before() if before is not None else None
    if earlier is not None:
        earlier.close()
    processes = join(root, process_group)
    try:
        started = _started(log, run, processes, root)
    except BaseException:
        if processes is not None:
            processes.leave()
        raise
    monitor = Monitor(
        root,
        optimizers,
        run,
        log=started,
        processes=processes,
        grad_scaler=grad_scaler,
        on_finding=on_finding,
        stop_on=bound,
    )
    _OPEN[root] = weakref.ref(monitor)
    return monitor


def watching(model: nn.Module) -> Monitor | None:
    """What watches a model at the moment, if anything does."""
    found = _OPEN.get(unwrap(model))
    monitor = found() if found is not None else None
    return None if monitor is None or monitor.closed else monitor


def _started(
    path: str | Path | None, run: Run, processes: Processes | None, model: nn.Module
) -> RunLog | None:
    """The log of a run, with its header; the run goes on counting where the log ends.

    Of several processes the first one writes it, and all count as it does.
    """
    log = None
    if processes is not None:
        run.processes = processes.size
        shapes = [(name, tuple(each.shape)) for name, each in model.named_parameters()]
        processes.agree(f"{run.every} {shapes}")
    if path is not None and (processes is None or processes.leads):
        run.steps = steps_so_far(path)
        log = RunLog(path)
        log.begin(run)
    if processes is not None:
        run.steps = processes.first(run.steps)
    return log


def _optimizers(given: Any) -> tuple[Optimizer, ...]:
    if given is None:
        return ()
    several = (given,) if isinstance(given, Optimizer) else given
    several = tuple(several) if isinstance(several, Iterable) else (several,)
    if not several:
        raise UsageError("expected optimizer to be an optimizer, several of them or None, got none")
    for each in several:
        if not isinstance(each, Optimizer):
            raise UsageError(
                "expected optimizer to be a torch.optim.Optimizer, several of them or None, got "
                f"{type(each).__name__}"
            )
    return several


def _severity(given: Any) -> Severity | None:
    if given is None:
        return None
    try:
        return Severity(given)
    except ValueError:
        known = ", ".join(repr(each.value) for each in Severity)
        raise UsageError(f"expected stop_on to be one of {known} or None, got {given!r}") from None
