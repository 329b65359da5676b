"""What users hold while a loop trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from operator import methodcaller
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer
from typing_extensions import Self

from gradcheckup.capture import class_name
from gradcheckup.errors import UnhealthyError, UsageError
from gradcheckup.history import Sample
from gradcheckup.probe.bench import never_called
from gradcheckup.probe.flags import misspelt_flags, unregistered
from gradcheckup.probe.subject import described
from gradcheckup.records import Finding, Recording, Severity, Step
from gradcheckup.report import Report
from gradcheckup.runs.log import RunLog
from gradcheckup.runs.run import Run
from gradcheckup.runs.scalars import scalars
from gradcheckup.tracebacks import one_line
from gradcheckup.watching.audience import Audience
from gradcheckup.watching.clock import Clock, innermost
from gradcheckup.watching.processes import Processes, known
from gradcheckup.watching.sampler import Sampler
from gradcheckup.watching.warning import warn

_T = TypeVar("_T")

_FULL_EVERY = 32
_FULL_STEPS = 128
_PATIENCE = 3
_SILENCE = 100


class Monitor:
    """Watches one model; made by `gradcheckup.watch`.

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
        self._stop_on = stop_on
        self._alarmed = Audience()
        if on_finding is not None:
            self._alarmed.add(on_finding)
        self._processes = processes
        self._known = known()
        self.rank = processes.rank if processes is not None else 0
        self._sampler = Sampler(
            model,
            optimizers,
            every=run.every,
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
            updated=lambda number: self._safely(partial(self._sampler.updated, number)),
            after=self._over,
            elsewhere=partial(self._safely, self._sampler.doubt),
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
        return replace(report, assumptions=(*report.assumptions, *self._notes()))

    def _notes(self) -> Iterator[str]:
        """What the report does not know of."""
        if self._known == 1 and known() > 1:
            yield "the batches of this process are all: watch() came before init_process_group()"
        late = self._sampler.left_to_later
        if late:
            others = f" and {len(late) - 1} more" if len(late) > 1 else ""
            yield (
                f"the gradient of {late[0]}{others} comes in a later backward pass of a step, of "
                "which the first is measured: sum the losses to have all of them measured"
            )
        for name, steps in self._clock.strangers.items() if self._optimizers else ():
            yield (
                f"{steps} steps of another optimizer of the model, {name}, are not counted: "
                "watch() was not given it"
            )

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
        nothing = f"in {self.steps} optimizer steps no loss.backward() reached the watched model"
        if self._clock.amid_backward:
            return (
                f"{nothing} before they were made: optimizers that step inside of backward() are "
                "not to be given to watch(); call monitor.step() after it"
            )
        return (
            f"{nothing}; watch the model that the loop runs, before its forward pass (torch.func, "
            "torch.autograd.grad and a `backward` imported from torch.autograd are not seen)"
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

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what the loop sets off ---------------------------------------------------------------

    def _open(self) -> None:
        """Has the step that comes looked at, if it is one of those to sample."""
        due = self.steps % self._run.every == 0 or 0 < self._sampler.missed < _PATIENCE
        if due and not self.closed and not self._sampler.waiting:
            self._sampler.open(full=self._run.strays or _is_full(self._sampled, self._run.every))

    def _over(self) -> None:
        """The optimizer has stepped."""
        if self.closed:
            return
        before = self.sampled_at
        fresh = self._safely(self._advance) or ()
        if self.sampled_at != before:
            self._audience.tell(self)
        for finding in fresh:
            self._alarmed.tell(finding)
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
        if index == _SILENCE and not self._run.trace.steps:
            warn(f"gradcheckup sees nothing of {class_name(self._model)}: {self._why()}")
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
        facts, layers = self._facts(taken), self._sampler.layers
        self._run.look(taken, facts, layers)
        sample = self._sampler.summary(taken)
        self._run.trace.add(sample)
        fresh = self._run.fresh()
        self._note(lambda log: log.look(taken, facts, layers))
        self._note(lambda log: log.sample(sample))
        for finding in fresh:
            self._note(methodcaller("finding", finding))
        return fresh

    def _facts(self, taken: Step) -> Recording:
        """What is known of the model beside its steps, once the last of them was taken."""
        capture, steps = self._sampler.capture, (*self._run.trace.steps, taken)
        return Recording(
            model=class_name(self._model),
            optimizer=" and ".join(described(innermost(each)) for each in self._optimizers),
            objective="loop",
            steps=(),
            never_called=never_called(self._sampler.names, capture.called, steps),
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
            warn(
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
            warn(
                f"gradcheckup writes no more to {path}, your training goes on and is watched: "
                f"{one_line(error)}"
            )


def _is_full(sampled: int, every: int) -> bool:
    """Whether the sampled step of this number is measured in full: 0, 1, 3, 7, 15, 31, 63, 95.

    Where every, every second or every third step is sampled they grow 128 steps apart.
    """
    number, apart = sampled + 1, max(_FULL_EVERY, _FULL_STEPS // every)
    if number >= apart:
        return number % apart == 0
    return number & (number - 1) == 0
