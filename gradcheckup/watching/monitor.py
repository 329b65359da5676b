"""What users hold while a loop trains: `watch` and the `Monitor` it returns."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from gradcheckup import rules
from gradcheckup.checkup import limits_of
from gradcheckup.errors import UnhealthyError, UsageError
from gradcheckup.history import Sample
from gradcheckup.probe.flags import misspelt_flags, unregistered
from gradcheckup.probe.run import never_called
from gradcheckup.probe.subject import check_bound, check_trainable, described, named_modules, unwrap
from gradcheckup.records import Finding, Recording, Severity, Step
from gradcheckup.report import Report
from gradcheckup.thresholds import Thresholds
from gradcheckup.tracebacks import one_line
from gradcheckup.watching.clock import Clock
from gradcheckup.watching.sampler import Sampler
from gradcheckup.watching.trace import Trace, is_bad

_T = TypeVar("_T")

_FULL_EVERY = 32
_ENOUGH = 4

_OPEN: weakref.WeakKeyDictionary[nn.Module, Monitor] = weakref.WeakKeyDictionary()
"""The monitor of each watched model."""


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
    subject: str = "",
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
        subject: What to call the model in the report.

    Returns:
        The monitor; also a context manager that closes it. A monitor that watches the same model
        already is closed.

    Raises:
        UsageError: An argument makes no sense, or the optimizer has none of the model's parameters.
        ModelError: The model has nothing to train.
    """
    given: Any = model
    if not isinstance(given, nn.Module):
        raise UsageError(f"expected model to be an nn.Module, got {type(given).__name__}")
    if type(every) is not int or every < 1:
        raise UsageError(f"expected every to be a whole number of at least 1, got {every!r}")
    if on_finding is not None and not callable(on_finding):
        raise UsageError(f"expected on_finding to be a function, got {type(on_finding).__name__}")
    root = unwrap(model)
    check_trainable(root)
    optimizers = _optimizers(optimizer)
    for each in optimizers:
        check_bound(each, root)
    before = _OPEN.get(root)
    if before is not None:
        before.close()
    monitor = Monitor(
        root,
        optimizers,
        every=every,
        thresholds=limits_of(thresholds),
        chosen=rules.choose_rules(select, ignore),
        grad_scaler=grad_scaler,
        on_finding=on_finding,
        stop_on=_severity(stop_on),
        subject=subject,
    )
    _OPEN[root] = monitor
    return monitor


class Monitor:
    """Watches one model; made by `watch`.

    Attributes:
        steps: Optimizer steps seen so far.
        closed: Whether it has stopped watching.
        failure: Why it stopped by itself; None if it did not.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        every: int,
        thresholds: Thresholds,
        chosen: Sequence[rules.Rule],
        grad_scaler: Any,
        on_finding: Callable[[Finding], object] | None,
        stop_on: Severity | None,
        subject: str,
    ) -> None:
        self.steps = 0
        self.closed = False
        self.failure: str | None = None
        self._model, self._optimizers = model, optimizers
        self._every, self._thresholds, self._rules = every, thresholds, chosen
        self._scaler, self._on_finding, self._stop_on = grad_scaler, on_finding, stop_on
        self._subject = subject
        self._names = named_modules(model)
        self._sampler = Sampler(
            model,
            self._names,
            optimizers,
            slope=thresholds.saturation_slope,
            scale=self._scale,
            failed=self._fails,
        )
        self._trace = Trace()
        self._sampled = 0
        self._alarm = False
        self._told: set[tuple[str, tuple[str, ...]]] = set()
        self._clock = Clock(
            optimizers,
            model.parameters(),
            before=partial(self._safely, self._sampler.before_update),
            after=self._over,
            elsewhere=partial(self._safely, self._elsewhere),
        )
        self._safely(self._open)

    # -- what users call --------------------------------------------------------------------

    def report(self) -> Report:
        """The verdict on the last full looks, and the course of the run so far.

        Raises:
            UsageError: No optimizer step has been sampled yet.
        """
        if not self._trace.steps:
            raise UsageError(
                f"expected a sampled training step to report on, but there is none: {self._why()}"
            )
        recording = self._recording()
        return Report(
            recording=recording,
            findings=rules.judge(recording, self._thresholds, self._rules),
            thresholds=self._thresholds,
            assumptions=(f"the monitor stopped by itself: {self.failure}",) if self.failure else (),
            subject=self._subject,
        )

    def _why(self) -> str:
        """Why nothing was sampled."""
        if self.failure:
            return f"the monitor stopped by itself: {self.failure}"
        if not self.steps:
            return "the optimizer has not stepped since watch()"
        return (
            f"in {self.steps} optimizer steps no loss.backward() reached the watched model; watch "
            "the model that the loop runs, before its forward pass"
        )

    def step(self) -> None:
        """Tells that an optimizer step is over, in a loop that calls no `optimizer.step()`.

        Raises:
            UsageError: The monitor watches an optimizer, which tells by itself.
            UnhealthyError: See `stop_on` of `watch`.
        """
        if self._optimizers:
            raise UsageError(
                "expected no monitor.step() beside an optimizer that is watched: its own step() "
                "counts"
            )
        self._safely(self._sampler.before_update)
        self._over()

    def close(self) -> None:
        """Stops watching and leaves model and optimizer as they were. `report` still answers."""
        if not self.closed:
            self.closed = True
            self._clock.stop()
            self._sampler.close()

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
        if not self.closed and not self._sampler.waiting and self.steps % self._every == 0:
            self._sampler.open(full=self._alarm or _is_full(self._sampled))

    def _elsewhere(self) -> None:
        """Another model was trained: what went through this one was for its sake."""
        if self._sampler.seen:
            self._sampler.close()
            self._open()

    def _over(self) -> None:
        """The optimizer has stepped."""
        if self.closed:
            return
        fresh = self._safely(self._advance) or ()
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
        self.steps += 1
        fresh: tuple[Finding, ...] = ()
        if self._sampler.seen:
            fresh = self._keep(self._sampler.take(index))
        self._open()
        return fresh

    def _keep(self, taken: Step | Sample | None) -> tuple[Finding, ...]:
        """Remembers what was read; returns findings that were not there before."""
        if taken is None:
            self._trace.skipped += 1
            return ()
        self._sampled += 1
        sample = self._sampler.summary(taken) if isinstance(taken, Step) else taken
        self._trace.add(self._sampler.layers, sample)
        bad = is_bad(sample)
        self._alarm = bad and taken is sample  # where it arose, a full look tells
        if isinstance(taken, Step):
            self._trace.steps.append(taken)
        if taken is sample or not (bad or len(self._trace.steps) >= _ENOUGH):
            return ()
        found = rules.judge(self._recording(), self._thresholds, self._rules)
        fresh = tuple(each for each in found if (each.code, each.layers) not in self._told)
        self._told.update((each.code, each.layers) for each in fresh)
        return fresh

    def _recording(self) -> Recording:
        capture = self._sampler.capture
        steps = tuple(self._trace.steps)
        return Recording(
            model=type(self._model).__name__,
            optimizer=" and ".join(map(described, self._optimizers)) or "none",
            objective="loop",
            steps=steps,
            batches=len(steps),
            never_called=never_called(self._names, capture.called, steps),
            unregistered=unregistered(self._model, capture.foreign),
            misspelt=misspelt_flags(self._model),
            history=self._trace.history(every=self._every, steps=self.steps),
        )

    def _scale(self) -> Tensor | None:
        """What the gradient scaler multiplies a loss with now, on its device."""
        if self._scaler is None:
            return None
        first = next(self._model.parameters())
        scaled: Tensor = self._scaler.scale(torch.ones((), device=first.device))
        return scaled

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
            self.failure = f"{type(error).__name__}: {one_line(error)}"
            warnings.warn(
                f"gradcheckup stopped watching {type(self._model).__name__} at step {self.steps}, "
                f"your training goes on: {self.failure}",
                RuntimeWarning,
                stacklevel=2,
            )
            self.close()


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
