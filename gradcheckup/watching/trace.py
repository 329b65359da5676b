"""What a monitor keeps of a run: a window of full looks, and a thinned-out course of samples."""

from __future__ import annotations

import math
from collections import deque

from gradcheckup.history import History, Sample
from gradcheckup.records import Step

_WINDOW = 8
_MOST = 512


class Trace:
    """Bounded memory of a training run.

    Attributes:
        steps: The last full looks, oldest first; as many as `diagnose` makes.
        skipped: Sampled steps whose update the gradient scaler left out.
    """

    def __init__(self) -> None:
        self.steps: deque[Step] = deque(maxlen=_WINDOW)
        self.skipped = 0
        self._first_bad: int | None = None
        self._layers: tuple[str, ...] = ()
        self._samples: list[Sample] = []

    def add(self, layers: tuple[str, ...], sample: Sample) -> None:
        """Keeps a sample; of the older half every second one goes when there are too many.

        Args:
            layers: Names of the weight layers. Where they are others than before, the course begins
                anew: the model was changed.
            sample: Norms of these.
        """
        if layers != self._layers:
            self._layers = layers
            self._samples.clear()
        if self._first_bad is None and is_bad(sample):
            self._first_bad = sample.index
        self._samples.append(sample)
        if len(self._samples) > _MOST:
            older, newer = self._samples[: _MOST // 2], self._samples[_MOST // 2 :]
            self._samples = [*older[::2], *newer]

    def history(self, *, every: int, steps: int) -> History:
        """The course so far, as a record."""
        return History(
            every=every,
            steps=steps,
            skipped=self.skipped,
            layers=self._layers,
            samples=tuple(self._samples),
            first_bad=self._first_bad,
        )


def is_bad(sample: Sample) -> bool:
    """Whether the loss or a norm is NaN or Inf."""
    values = (sample.loss, *sample.norms)
    return any(value is not None and not math.isfinite(value) for value in values)
