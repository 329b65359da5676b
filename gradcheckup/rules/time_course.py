"""The gradient of a sequence along its time steps, as recorded of a recurrent layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradcheckup.records import Step, time_points

_CUT = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeCourse:
    """The gradient of one sequence in a recurrent layer: of finite norms, not all of them 0.

    Attributes:
        norms: Along the sequence, at `time_points(length)`.
        length: Number of time steps.
        received: Norm of the gradient at the output of the layer's last call.
    """

    norms: tuple[float, ...]
    length: int
    received: float

    @property
    def peak(self) -> float:
        """The largest norm."""
        return max(self.norms)

    @property
    def first(self) -> float:
        """The first norm over the largest."""
        return self.norms[0] / self.peak

    @property
    def growth(self) -> float:
        """The first norm over the last that is not 0: padding at the end has none."""
        return self.norms[0] / next(norm for norm in reversed(self.norms) if norm)

    def blind(self, resolution: float) -> int:
        """How many steps at the beginning stay below this share of the peak, and fade out.

        A mask cuts the gradient to exact zeros at once: those steps are left out on purpose.
        """
        seen = next(k for k, norm in enumerate(self.norms) if norm >= resolution * self.peak)
        within = 0 < seen < len(self.norms) - 1
        if within and not self.norms[seen - 1] and self.norms[seen] > _CUT * self.peak:
            return 0
        return time_points(self.length)[seen]

    def per_step(self, resolution: float) -> float | None:
        """Geometric mean of what a step back passes on, from the peak to the last one seen."""
        times = time_points(self.length)
        top = max(range(len(times)), key=lambda k: self.norms[k])
        low = next(k for k, norm in enumerate(self.norms) if norm >= resolution * self.peak)
        if not low < top and low > 0:  # sparse points of a long sequence: nothing in between
            low -= 1
        if not low < top or not self.norms[low]:
            return None
        return float((self.norms[low] / self.peak) ** (1 / (times[top] - times[low])))


def time_courses(step: Step, name: str) -> list[TimeCourse]:
    """The sequences that ran through a recurrent layer in a step, calls of a cell as one."""
    calls = [layer for layer in step.layers if layer.name == name]
    received = [layer.gradient_norm for layer in calls if layer.gradient_norm is not None]
    return [
        TimeCourse(
            norms=layer.time_profile,
            length=layer.time_steps or len(layer.time_profile),
            received=received[-1] if received else 0.0,
        )
        for layer in calls
        if layer.time_profile
        and any(layer.time_profile)
        and all(map(math.isfinite, layer.time_profile))
    ]
