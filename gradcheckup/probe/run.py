"""Training steps on a copy, one after the other: some are measured, some only made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gradcheckup.capture import Capture, eager
from gradcheckup.errors import ModelError
from gradcheckup.probe.bench import Bench
from gradcheckup.probe.ledger import Ledger
from gradcheckup.probe.mixing import remixed, reordered
from gradcheckup.probe.objective import Objective
from gradcheckup.probe.regression import unexplained_variance
from gradcheckup.probe.safekeeping import RandomStates, Snapshot, in_eval_mode, replay
from gradcheckup.probe.subject import Subject
from gradcheckup.probe.supply import Supply
from gradcheckup.records import Generalization, Recording, Step
from gradcheckup.thresholds import Thresholds
from gradcheckup.tracebacks import one_line

OnStep = Callable[[int, int], None]
"""Called with the number of finished steps and of all steps."""

_MORE = 32
"""Batches that are asked for where a net is trained on."""
_FEWEST = 6
_KEPT = 3
"""One of so many is kept apart."""
_TURNS = 2**20
"""More than there are."""
_NORMS = (nn.modules.batchnorm._NormBase,)  # noqa: SLF001 - the common base has no public name
"""What keeps the statistics of the batch where a net is asked: running ones lag behind. The rest is
in eval mode then, as dropout hides what a net knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What comes of some further steps.

    Attributes:
        losses: Of each of them, up to one that is not finite.
        unlearnt: What the net does not know of its batches then; see `Recording.unlearnt`.
    """

    losses: tuple[float, ...]
    unlearnt: float | None


@dataclass(slots=True, kw_only=True)
class Probe:
    """A training of the subject that stops where a loss is not finite.

    Attributes:
        bench: What steps are made with.
        supply: Where it has its batches from.
        batches: What it trains on, in turn.
        on_step: Called after each step but those that are made a second time.
        apart: Batches that it is not trained on.
        others: Batches that it is not trained on yet.
        mixes: Whether their samples are mixed anew each time that it has gone through them.
        order: Which of the orders these are shuffled in.
        asked: What it kept of the loss each time that it was asked what it knows.
        losses: Of the steps that were made.
        told: Of how many `on_step` was told.
        shuffled: By which seed its batches were shuffled last, and what came of it.
    """

    bench: Bench
    supply: Supply
    batches: Sequence[Any]
    on_step: OnStep | None
    apart: Sequence[Any] = ()
    others: Sequence[Any] = ()
    mixes: bool = False
    order: int = 0
    asked: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    told: int = 0
    shuffled: tuple[int, Sequence[Any]] | None = None

    @property
    def made(self) -> int:
        """How many steps were made."""
        return len(self.losses)

    def look(self, steps: int, *, settled_from: int = 0) -> tuple[Step, ...]:
        """Makes some steps and measures each; ends early with a loss that is not finite.

        Args:
            steps: How many.
            settled_from: From which of them on it counts as settled: there the answer of the
                outputs is measured as well, and units that fired before may be dead.

        Raises:
            ModelError: The forward, the backward or the update failed.
            LossError: The loss is not a scalar that requires grad.
        """
        capture, planned = self.bench.capture, self.told + steps
        measured: list[Step] = []
        with eager(), torch.enable_grad():
            for index in range(steps):
                if index == settled_from:
                    capture.units.forget()
                    capture.keeps_outputs = self.bench.objective.compute_loss is None
                step = self.bench.step(self.made, self._batch(), settled=index >= settled_from)
                measured.append(step)
                self.losses.append(step.loss)
                self._tell(planned)
                if not math.isfinite(step.loss):
                    break
        return tuple(measured)

    def train(self, steps: int, *, again: bool = False) -> tuple[float, ...]:
        """Makes some steps without measuring them; the losses, up to one that is not finite.

        Args:
            steps: How many.
            again: Whether these were made before.

        Raises:
            ModelError: A step failed.
            LossError: The loss is not a scalar that requires grad.
        """
        before, planned = self.made, self.told + steps
        with eager(), torch.enable_grad():
            for _ in range(steps):
                self.losses.append(self.bench.train(self._batch()))
                if not again:
                    self._tell(planned)
                if not math.isfinite(self.losses[-1]):
                    break
        return tuple(self.losses[before:])

    def mark(self) -> Callable[[], None]:
        """What puts everything back to where it stands now, once.

        Raises:
            ModelError: There is something that cannot be put back.
        """
        subject, losses, states = self.bench.subject, list(self.losses), RandomStates()
        every = [each for each in (subject.model, subject.criterion) if isinstance(each, nn.Module)]
        try:
            before = Snapshot(every, subject.optimizer)
        except Exception as error:
            raise ModelError(f"the model cannot be put back: {one_line(error)}") from error

        def put_back() -> None:
            before.put_back()
            states.put_back()
            self.losses = losses

        return put_back

    def foresee(self, steps: int) -> Outlook:
        """What comes of some further steps, after which everything is as it was before them.

        Raises:
            ModelError: A step failed, or there is something that cannot be put back.
            LossError: The loss is not a scalar that requires grad.
        """
        put_back = self.mark()
        try:
            losses = self.train(steps)
            left = self.ignorance() if math.isfinite(losses[-1]) else None
            return Outlook(losses=losses, unlearnt=left)
        finally:
            put_back()

    def recording(self, steps: Sequence[Step]) -> Recording:
        """What is known now, after these steps were measured."""
        return self.bench.recording(steps, self.batches)

    def ignorance(self) -> float | None:
        """How much the net does not know of its batches now; see `Recording.unlearnt`."""
        return self.bench.ignorance(*self.batches)

    def has_more(self) -> bool:
        """Whether the data has more batches, some of which are then kept apart."""
        if not self.apart and len(more := self.supply.more(_MORE)) >= _FEWEST:
            kept = len(more) // _KEPT
            self.apart, self.others = more[:kept], more[kept:]
        return bool(self.apart)

    def widen(self) -> None:
        """Trains on the others of them as well from now on, shuffled each time.

        Always the same order keeps nets from learning that learn otherwise, and so do always the
        same samples in a batch where there is a BatchNorm.
        """
        self.batches, self.others = (*self.batches, *self.others), ()
        with self._asked():
            self.mixes = self.bench.knows_samples(self.batches[0])

    def reorder(self) -> None:
        """Shuffles otherwise from now on."""
        self.order += 1

    def generalization(self) -> Generalization | None:
        """What it knows of the batches that are kept apart; None where that cannot be said."""
        with self._asked():
            left = self.bench.ignorance(*self.apart)
        if left is None:
            return None
        self.asked.append(left)
        seen = min(len(self.batches), self.made)
        return Generalization(steps=self.made, batches=seen, unlearnt=left)

    def regression(self) -> float | None:
        """What regression on the batches it trains on leaves of those that are kept apart.

        None where that cannot be said, or where nobody but `compute_loss` knows what is asked for.
        """
        if self.bench.objective.compute_loss is not None:
            return None
        return unexplained_variance(self.batches, self.apart, self.bench.subject.model)

    def readout(self) -> float | None:
        """The same of regression on the outputs of the net as it is now."""
        with self._asked():
            known, new = self.bench.said(self.batches), self.bench.said(self.apart)
        return unexplained_variance(known, new, self.bench.subject.model)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """The model is as it is asked what it knows, and put back afterwards."""
        model = self.bench.subject.model
        with replay(RandomStates(), model), in_eval_mode(model, but=_NORMS):
            yield

    def _batch(self) -> Any:
        turn, place = divmod(self.made, len(self.batches))
        widened = self.apart and not self.others
        return (self._shuffled(turn) if widened else self.batches)[place]

    def _shuffled(self, turn: int) -> Sequence[Any]:
        """The batches of a turn: the same ones where steps are made again."""
        seed = turn + _TURNS * self.order
        if self.shuffled is None or self.shuffled[0] != seed:
            mixed = remixed(self.batches, seed) if self.mixes else None
            self.shuffled = seed, mixed or reordered(self.batches, seed)
        return self.shuffled[1]

    def _tell(self, planned: int) -> None:
        self.told += 1
        if self.on_step:
            self.on_step(self.told, planned)


def probe(
    subject: Subject,
    objective: Objective,
    supply: Supply,
    thresholds: Thresholds,
    on_step: OnStep | None = None,
) -> Probe:
    """A probe that has made no step yet.

    Args:
        subject: What is trained.
        objective: Its loss.
        supply: What it is trained on; its first batches in turn.
        thresholds: For what is measured against a limit.
        on_step: Called after each step.
    """
    own = subject.trained_tensors()
    capture = Capture(subject.model, subject.names, thresholds.saturation_slope, own)
    bench = Bench(subject=subject, objective=objective, capture=capture, ledger=Ledger(subject))
    return Probe(bench=bench, supply=supply, batches=supply.batches, on_step=on_step)
