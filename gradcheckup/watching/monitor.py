"""What users hold while a loop trains: `watch` and the `Monitor` it returns."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer
from typing_extensions import Self

from gradcheckup import rules
from gradcheckup.capture import can_be_eager, class_name
from gradcheckup.checkup import limits_of
from gradcheckup.errors import UnhealthyError, UsageError
from gradcheckup.history import Sample
from gradcheckup.probe.flags import misspelt_flags, unregistered
from gradcheckup.probe.run import never_called
from gradcheckup.probe.subject import check_bound, check_trainable, described, unwrap
from gradcheckup.records import Finding, Recording, Severity, Step
from gradcheckup.report import Report
from gradcheckup.runs.log import RunLog
from gradcheckup.runs.reading import steps_so_far
from gradcheckup.runs.run import Run
from gradcheckup.runs.scalars import scalars
from gradcheckup.thresholds import Thresholds
from gradcheckup.tracebacks import one_line
from gradcheckup.watching.audience import Audience
from gradcheckup.watching.clock import Clock
from gradcheckup.watching.processes import Processes, check_wrappers, join, known
from gradcheckup.watching.sampler import Sampler

_T = TypeVar("_T")

_FULL_EVERY = 32
_PATIENCE = 3

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
    most sampled steps the gradient norm of each weight layer is read; the first, second, fourth,
    eighth ... and every 32nd are measured as `diagnose` measures a step. Losses, gradients and
    weights are bitwise what they are without.

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
        on_finding: Called with each finding when it first stands.
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
    if not can_be_eager() and any(hasattr(each, "_orig_mod") for each in given.modules()):
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


class Monitor:
    """Watches one model; made by `watch`.

    Attributes:
        closed: Whether it has stopped watching.
        rank: Of this process among all that train; 0 where it is alone.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        run: Run,
        *,
        log: RunLog | None,
        processes: Processes | None,
        grad_scaler: Any,
        on_finding: Callable[[Finding], object] | None,
        stop_on: Severity | None,
    ) -> None:
        self.closed = False
        self._model, self._optimizers, self._run, self._log = model, optimizers, run, log
        self._on_finding, self._stop_on = on_finding, stop_on
        self._processes = processes
        self._known = known()
        self.rank = processes.rank if processes is not None else 0
        self._sampler = Sampler(
            model,
            optimizers,
            slope=run.thresholds.saturation_slope,
            scaler=grad_scaler,
            failed=self._fails,
            processes=processes,
        )
        self._sampled = 0
        self._audience = Audience()
        self._clock = Clock(
            optimizers,
            model.parameters(),
            before=partial(self._safely, self._sampler.before_update),
            updated=partial(self._safely, self._sampler.updated),
            after=self._over,
            elsewhere=partial(self._safely, self._elsewhere),
        )
        self._safely(self._open)

    # -- what users call --------------------------------------------------------------------

    @property
    def run(self) -> Run:
        """What is remembered of the run: numbers alone, which keep no model alive."""
        return self._run

    @property
    def steps(self) -> int:
        """Optimizer steps so far."""
        return self._run.steps

    @property
    def failure(self) -> str | None:
        """Why it stopped watching by itself; None if it did not."""
        return self._run.failure

    @property
    def sampled_at(self) -> int | None:
        """Number of optimizer steps before the last sampled one; None before the first."""
        last = self._run.trace.last
        return None if last is None else last.index

    def scalars(self) -> dict[str, float]:
        """What was measured at step `sampled_at`, as flat names and numbers to plot.

        Such as `gradcheckup/gradient_norm/<layer>`; all names are listed in `docs/watching.md`.
        Empty before the first sampled step.
        """
        return scalars(self._run)

    def on_sample(self, call: Callable[[Monitor], object]) -> None:
        """Has a function called with this monitor after each sampled step, once the update is made.

        It is called inside of `optimizer.step()`. If it raises, that is warned of and it is called
        no more; the training goes on.
        """
        self._audience.add(call)

    def report(self) -> Report:
        """The verdict on the last full looks, and the course of the run so far.

        Raises:
            UsageError: No optimizer step has been sampled yet.
        """
        if not self._run.trace.steps:
            raise UsageError(
                f"expected a sampled training step to report on, but there is none: {self._why()}"
            )
        report = self._run.report()
        if self._known == 1 and known() > 1:
            note = "the batches of this process are all: watch() came before init_process_group()"
            report = replace(report, assumptions=(*report.assumptions, note))
        return report

    def _why(self) -> str:
        """Why nothing was sampled."""
        if self.failure:
            return f"the monitor stopped by itself: {self.failure}"
        if not self.steps:
            return (
                "the optimizer has not stepped since watch(); where its step() is compiled, watch "
                "without an optimizer and call monitor.step()"
            )
        if self._run.trace.apart:
            return (
                "the processes ran different layers in every sampled step; pass process_group= of "
                "those that run the same"
            )
        return (
            f"in {self.steps} optimizer steps no loss.backward() reached the watched model; watch "
            "the model that the loop runs, before its forward pass"
        )

    def step(self) -> None:
        """Tells that an optimizer step is over, in a loop that calls no `optimizer.step()`.

        Raises:
            UsageError: The monitor watches an optimizer, which tells by itself; or it was closed
                before it saw a step. One that is closed later takes no notice.
            UnhealthyError: See `stop_on` of `watch`.
        """
        if self._optimizers:
            raise UsageError(
                "expected no monitor.step() beside an optimizer that is watched: its own step() "
                "counts"
            )
        if self.closed:
            if not self.steps and not self.failure:
                raise UsageError("expected an open monitor, but it was closed before any step")
            return
        self._safely(self._sampler.before_update)
        self._over()

    def close(self) -> None:
        """Stops watching and leaves model and optimizer as they were. `report` still answers."""
        self._clock.stop()
        self._sampler.close()
        self._ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- what the loop sets off ---------------------------------------------------------------

    def _open(self) -> None:
        """Has the step that comes looked at, if it is one of those to sample."""
        due = self.steps % self._run.every == 0 or 0 < self._sampler.missed < _PATIENCE
        if due and not self.closed and not self._sampler.waiting:
            self._sampler.open(full=self._run.strays or _is_full(self._sampled))

    def _elsewhere(self) -> None:
        """Another model was trained: what went through this one was for its sake."""
        if self._sampler.seen:
            self._sampler.close()
            self._open()

    def _over(self) -> None:
        """The optimizer has stepped."""
        if self.closed:
            return
        before = self.sampled_at
        fresh = self._safely(self._advance) or ()
        if self.sampled_at != before:
            self._audience.tell(self)
        for finding in fresh:
            if self._on_finding is not None:
                self._on_finding(finding)
        bound = self._stop_on
        worst = [each for each in fresh if bound and each.severity.rank >= bound.rank]
        if worst:
            report = self.report()
            self.close()
            raise UnhealthyError(str(report))

    def _advance(self) -> tuple[Finding, ...]:
        index = self.steps
        self._run.steps += 1
        fresh: tuple[Finding, ...] = ()
        if self._sampler.due:
            taken = self._sampler.take(index)
            fresh = () if self._sampler.waiting else self._keep(taken)
        if self._sampler.waiting and not self._sampler.seen:
            self._sampler.miss()
        self._open()
        return fresh

    def _keep(self, taken: Step | Sample | None) -> tuple[Finding, ...]:
        """Remembers what was read; returns findings that were not there before."""
        self._run.trace.skipped += self._sampler.skipped
        if taken is None:
            self._run.trace.apart = self._sampler.apart
            return ()
        self._sampled += 1
        if isinstance(taken, Sample):
            self._run.trace.add(taken)
            self._note(lambda log: log.sample(taken))
            return ()
        facts, layers = self._facts(), self._sampler.layers
        self._run.look(taken, facts, layers)
        sample = self._sampler.summary(taken)
        self._run.trace.add(sample)
        fresh = self._run.fresh()
        self._note(lambda log: log.look(taken, facts, layers))
        self._note(lambda log: log.sample(sample))
        for finding in fresh:
            self._note(partial(_write_finding, finding))
        return fresh

    def _facts(self) -> Recording:
        """What is known of the model beside its steps."""
        capture = self._sampler.capture
        return Recording(
            model=class_name(self._model),
            optimizer=" and ".join(map(described, self._optimizers)),
            objective="loop",
            steps=(),
            never_called=never_called(self._sampler.names, capture.called, self._run.trace.steps),
            unregistered=unregistered(self._model, capture.foreign),
            misspelt=misspelt_flags(self._model),
        )

    # -- errors of our own --------------------------------------------------------------------

    def _safely(self, work: Callable[[], _T]) -> _T | None:
        """Does something for the monitor's sake, which must not end the user's training."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._fails(error)
            return None

    def _fails(self, error: Exception) -> None:
        """Stops watching, and says so once."""
        if self.failure is None:
            self._run.failure = one_line(error)
            self._clock.stop()
            self._sampler.give_up()
            self._ended()
            _warn(
                f"gradcheckup stopped watching {class_name(self._model)} at step {self.steps}, "
                f"your training goes on: {self.failure}"
            )

    def _ended(self) -> None:
        if not self.closed:
            self.closed = True
            if self._processes is not None:
                self._processes.leave()
            self._note(lambda log: log.end(self._run))

    def _note(self, write: Callable[[RunLog], None]) -> None:
        """Writes to the log; a full disk ends the log, and nothing else."""
        if self._log is None:
            return
        try:
            write(self._log)
        except (OSError, ValueError) as error:
            path, log, self._log = self._log.path, self._log, None
            with suppress(OSError):  # what is buffered still finds no room
                log.close()
            _warn(
                f"gradcheckup writes no more to {path}, your training goes on and is watched: "
                f"{one_line(error)}"
            )


def _warn(text: str) -> None:
    """Warns; where warnings are errors, on stderr, since no error of ours ends a training."""
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        sys.stderr.write(f"{text}\n")


def _write_finding(finding: Finding, log: RunLog) -> None:
    log.finding(finding)


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


def _is_full(sampled: int) -> bool:
    """Whether the sampled step of this number is measured in full: 0, 1, 3, 7, 15, 31, 63, 95."""
    number = sampled + 1
    if number > _FULL_EVERY:
        return number % _FULL_EVERY == 0
    return number & (number - 1) == 0


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
