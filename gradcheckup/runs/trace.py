"""What a monitor keeps of a run: a window of full looks, and a thinned-out course of samples."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

from gradcheckup.history import History, Sample
from gradcheckup.records import Step

WINDOW = 8
"""How many full looks are judged together; `diagnose` makes as many."""

_OFTEN = 4
_FEW = 8
_MOST = 512
_LATEST = 10
_FIRST = 3


def turns(every: int, layers: int) -> int:
    """Among how many glances the layers are shared out, each of which reads a part of them.

    Each layer is read in one of four optimizer steps, or in every sampled one where these are
    further apart or the layers few.

    Args:
        every: Of how many optimizer steps one is sampled.
        layers: How many layers there are to read.
    """
    return max(1, _OFTEN // every) if layers > _FEW else 1


class Trace:
    """Bounded memory of a training run.

    Attributes:
        steps: The last full looks, oldest first; as many as `diagnose` makes. Those with a NaN
            leave half of the room to those before.
        skipped: Sampled steps whose update the gradient scaler left out.
        apart: Sampled steps in which several processes ran different layers.
        first_bad: Index of the first sampled step with a NaN or Inf.
    """

    def __init__(self) -> None:
        self.steps: deque[Step] = deque(maxlen=WINDOW)
        self.skipped = 0
        self.apart = 0
        self.first_bad: int | None = None
        self._first_culprits: tuple[tuple[int, str], ...] = ()
        self._layers: tuple[str, ...] = ()
        self._samples: list[Sample] = []

    @property
    def last(self) -> Sample | None:
        """The last sample; None before the first."""
        return self._samples[-1] if self._samples else None

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that samples have norms of."""
        return self._layers

    def look(self, step: Step, layers: tuple[str, ...]) -> None:
        """Keeps a full look.

        Args:
            step: What was measured.
            layers: Names of the weight layers that samples have norms of from now on: others than
                before where layers are dropped at random, or the model was changed. If none of them
                was there before, the course begins anew.
        """
        self._make_room(step)
        self.steps.append(step)
        if layers != self._layers:
            self._samples = list(self._carried_over(layers))
            self._layers = layers

    def _carried_over(self, layers: tuple[str, ...]) -> Iterator[Sample]:
        """The samples, with norms of other layers."""
        if not set(layers) & set(self._layers):
            return
        for sample in self._samples:
            known = dict(zip(self._layers, sample.norms, strict=True))
            yield replace(sample, norms=tuple(map(known.get, layers)))

    def _make_room(self, step: Step) -> None:
        """After a NaN half of the looks are those before, and the first with it: how it came."""
        broken = [each for each in self.steps if not math.isfinite(each.loss)]
        if not math.isfinite(step.loss) and len(broken) >= WINDOW // 2:
            self.steps = deque((each for each in self.steps if each is not broken[1]), WINDOW)

    def add(self, sample: Sample) -> None:
        """Keeps a sample; of the older half every second one goes when there are too many."""
        if self.first_bad is None and is_bad(sample):
            self.first_bad, self._first_culprits = sample.index, sample.culprits
        self._samples.append(sample)
        if len(self._samples) > _MOST:
            older, newer = self._samples[: _MOST // 2], self._samples[_MOST // 2 :]
            self._samples = [*older[::2], *newer]

    @property
    def loss_left(self) -> float | None:
        """The loss of the latest looks, over that of the first samples; None if not known.

        What `Recording.unexplained` is to a probe, which can try what the loss is by chance.
        """
        early = [abs(sample.loss) for sample in self._samples[:_FIRST] if sample.loss is not None]
        late = [abs(step.loss) for step in list(self.steps)[-_FIRST:]]
        if not early or not all(map(math.isfinite, (*early, *late))):
            return None
        return max(late) / max(early) if max(early) else float(any(late))

    def strays(self, low: float, high: float, *, looks: int, every: int) -> bool:
        """Whether a full look is due before its time.

        So it is where the last sample was not finite and no full look has seen that; and where in
        the latest samples the end-to-end ratio has left its range, or a layer has no gradient any
        more, and not all of the latest looks were made since.

        Args:
            low: Where the range of the ratio begins.
            high: Where it ends.
            looks: How many looks it takes to judge.
            every: Of how many optimizer steps one is sampled.
        """
        if not self._samples or not self.steps:
            return False
        last, seen = self._samples[-1], list(self.steps)[-looks:]
        if is_bad(last) and last.index != seen[-1].index:
            return True
        if len(self._samples) <= _LATEST:
            return False
        latest = self._samples[-_LATEST:]
        ratios = [each.end_to_end_ratio for each in latest if each.end_to_end_ratio is not None]
        if not ratios or not low <= median(ratios) <= high:
            before = (step.end_to_end_ratio for step in seen)
            if any(ratio is not None and low <= ratio <= high for ratio in before):
                return True
        often = _LATEST * turns(every, len(self._layers))
        silent = {
            name
            for layer, name in enumerate(self._layers if len(self._samples) > often else ())
            if all(each.norms[layer] is None for each in self._samples[-often:])
        }
        return any(
            layer.gradient_norm is not None
            for step in (seen if silent else ())
            for layer in step.layers
            if layer.name in silent
        )

    def forget_from(self, index: int) -> None:
        """Forgets this step and what came later: a run went on from here."""
        kept = [step for step in self.steps if step.index < index]
        self.steps = deque(kept, maxlen=WINDOW)
        self._samples = [sample for sample in self._samples if sample.index < index]
        if self.first_bad is not None and self.first_bad >= index:
            self.first_bad, self._first_culprits = None, ()

    def history(self, *, every: int, steps: int, processes: int = 1) -> History:
        """The course so far, as a record."""
        return History(
            every=every,
            steps=steps,
            skipped=self.skipped,
            layers=self._layers,
            samples=tuple(self._samples),
            first_bad=self.first_bad,
            first_culprits=self._first_culprits,
            processes=processes,
            apart=self.apart,
        )


def is_bad(sample: Sample) -> bool:
    """Whether the loss or a norm is NaN or Inf."""
    values = (sample.loss, *sample.norms)
    return any(value is not None and not math.isfinite(value) for value in values)
