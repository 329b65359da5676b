"""What became of a net since its baseline, layer by layer in log scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_gradcheckup.baseline import Baseline, LayerLine
from pytest_gradcheckup.matching import matched


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What became of a net since its baseline.

    Attributes:
        pairs: Each layer that was there before, then and now, in execution order.
        moved: (name now, ``gradient`` or ``signal``, value then, value now) beyond the tolerance.
        renamed: (name then, name now) of layers that are the same but for their names.
        replaced: (name now, kind then, kind now) of layers of which only the name is the same.
        resized: (name now, shape of the weight then, now).
        added: Names of layers that are new.
        removed: Names of layers that are gone.
        setup: What else is different: the model's class, the optimizer, the steps.
        ended: Where NaN or Inf arose; None where it did not.
    """

    pairs: tuple[tuple[LayerLine, LayerLine], ...]
    moved: tuple[tuple[str, str, float | None, float | None], ...]
    renamed: tuple[tuple[str, str], ...]
    replaced: tuple[tuple[str, str, str], ...]
    resized: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    setup: tuple[str, ...]
    ended: str | None

    @property
    def broken(self) -> bool:
        """True where gradients or signals moved or ended, or layers came, went or were replaced.

        Names are but names, and ratios do not depend on the width.
        """
        return bool(self.moved or self.added or self.removed or self.replaced or self.ended)


def compared(
    before: Baseline, now: Baseline, tolerance: float, ended: str | None = None
) -> Difference:
    """Layer by layer, in log scale.

    Args:
        before: The baseline.
        now: What was measured.
        tolerance: By which factor a value may be smaller or larger.
        ended: Where NaN or Inf arose, which ends a probe early.
    """
    pairs, added, removed = matched(before.layers, now.layers)
    moved = [
        (new.layer, name, then, value)
        for old, new in pairs
        for name, then, value in (
            ("gradient", old.gradient, new.gradient),
            ("signal", old.signal, new.signal),
        )
        if _distance(then, value) > math.log(tolerance)
    ]
    setup = [
        f"{name} was {then}, is {value}"
        for name, then, value in (
            ("the model", before.model, now.model),
            ("the optimizer", before.optimizer, now.optimizer),
            ("the number of steps", before.steps, before.steps if ended else now.steps),
        )
        if then != value
    ]
    return Difference(
        pairs=tuple(pairs),
        moved=tuple(moved),
        renamed=tuple((old.layer, new.layer) for old, new in pairs if old.layer != new.layer),
        replaced=tuple(
            (new.layer, old.kind, new.kind) for old, new in pairs if old.kind != new.kind
        ),
        resized=tuple(
            (new.layer, old.weight, new.weight)
            for old, new in pairs
            if old.weight != new.weight and old.kind == new.kind
        ),
        added=tuple(line.layer for line in added),
        removed=tuple(line.layer for line in removed),
        setup=tuple(setup),
        ended=ended,
    )


def _distance(then: float | None, now: float | None) -> float:
    """|log(now / then)|; infinite where one of them is none, zero or not finite and differs."""
    if then is None or now is None:
        return 0.0 if then is now else math.inf
    if then > 0 and 0 < now < math.inf:
        return abs(math.log(now / then))
    return 0.0 if then == now else math.inf
