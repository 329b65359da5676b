"""Units that never fired over a window of steps."""

from __future__ import annotations

import torch
from torch import Tensor


class Units:
    """The largest pre-activation of each unit since the window began."""

    def __init__(self) -> None:
        self._peaks: dict[tuple[str, int], Tensor] = {}

    def forget(self) -> None:
        """Begins a new window: what fired before does not count any more."""
        self._peaks.clear()

    def dead(self, key: tuple[str, int], peaks: Tensor, bound: float) -> Tensor:
        """Share of units that never rose above a bound in the window: exact, no sample.

        Args:
            key: Name and call of the activation.
            peaks: The largest pre-activation of each unit in this step; shape (units,).
            bound: Up to where a unit passes nothing on.
        """
        before = self._peaks.get(key)
        if before is not None and before.shape == peaks.shape:
            peaks = torch.maximum(peaks, before)
        self._peaks[key] = peaks
        return (peaks <= bound).float().mean()
