"""How numbers that several processes measured, each on its share of a batch, become one."""

from __future__ import annotations

import math
from enum import Enum


class Pooling(Enum):
    """The rule for one number x_r of each of W processes; every rule needs one sum over them.

    Data parallel training minimises L = mean of the losses L_r. So dL/dy of a share is
    dL_r/dy / W, and its norm over the whole batch sqrt(sum ||dL_r/dy||^2) / W.
    """

    MEAN = 1, 1.0
    """sum x / W: losses, shares of elements or rows, and what is the same in all processes."""
    GRADIENT = 2, 1.0
    """sqrt(sum x^2) / W: norms of gradients of the process's own loss."""
    SPREAD = 2, 0.5
    """sqrt(sum x^2 / W): standard deviations, each within its share; and norms of parameters, each
    of a shard and times the root of their number."""
    SCORE = 1, 0.5
    """sum x / sqrt(W): numbers with a standard deviation of 1 (Stouffer's method)."""

    def __init__(self, power: int, share: float) -> None:
        self.power, self.share = power, share

    def term(self, value: float) -> float:
        """What is summed over the processes."""
        return value if self.power == 1 else value * value

    def pooled(self, total: float, size: int) -> float:
        """The number of all together.

        Args:
            total: Sum of the terms.
            size: Number of processes.
        """
        root = total if self.power == 1 else math.sqrt(total)
        return float(root / size**self.share)
