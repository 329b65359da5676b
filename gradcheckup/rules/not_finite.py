"""What is told of a NaN or Inf: why it came, and in which process."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradcheckup.records import Recording, Step

_OVERFLOW = 1e6


def broken_by(
    recording: Recording, step: Step, values: Iterable[float | None], otherwise: str
) -> tuple[str | None, tuple[tuple[str, float], ...]]:
    """The cause of a NaN or Inf, and the growth that made it, as evidence.

    In a run that is watched it may have come in a step that was not measured in full: a step later
    it is in all weights, and nothing tells where it arose.

    It overflowed where the values on the way to it grew a millionfold: nets that learn stay below
    5000. At the first step the weights are too large for that.

    Args:
        recording: All steps.
        step: Where it was found.
        values: Norms or signals of the layers in front, in the direction of the pass.
        otherwise: The cause where nothing grew.
    """
    seen = recording.history.first_bad if recording.history else None
    if seen is not None and seen < step.index:
        return None, (("seen", seen),)
    found = [value for value in values if value and math.isfinite(value)]
    grown = found[-1] / found[0] if found else 0.0
    if grown <= _OVERFLOW:
        return otherwise, ()
    return "overflow" if step.index else "large-weights", (("grown", grown),)


def on_ranks(recording: Recording) -> tuple[tuple[str, float | int | str], ...]:
    """Evidence of which process had the first NaN or Inf, where several train the model.

    Averaged gradients carry it into all of them within a step.
    """
    history = recording.history
    if history is None or not history.first_culprits or history.first_bad is None:
        return ()
    rank, layer = history.first_culprits[0]
    return (
        ("rank", rank),
        ("ranks", len(history.first_culprits)),
        ("processes", history.processes),
        ("rank_layer", layer),
        ("rank_step", history.first_bad),
    )
