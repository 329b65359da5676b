"""Gradient scalers: what a loss is multiplied with, and whether an update was left out for it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

_FAR = 16


class Scale:
    """The gradient scaler of a loop; without one, nothing is scaled."""

    def __init__(self, scaler: Any = None) -> None:
        """Takes the loop's scaler, where it is known beforehand.

        Args:
            scaler: A `GradScaler`, or None to `find` it.
        """
        self._scaler = scaler

    def find(self) -> None:
        """Called in an optimizer step: it is the scaler that makes the step, if one does."""
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as `inspect` does, and quicker
        for _ in range(_FAR):
            if self._scaler is not None or frame is None:
                return
            caller = frame.f_locals.get("self")
            if isinstance(caller, GradScaler) and caller.is_enabled():
                self._scaler = caller
            frame = frame.f_back

    def now(self, model: nn.Module) -> Tensor | None:
        """What a loss is multiplied with at the moment, as a 0-d tensor; None for nothing.

        Args:
            model: On whose device the loss is.
        """
        if self._scaler is None:
            return None
        one = torch.ones((), device=next(model.parameters()).device)
        scaled: Tensor = self._scaler.scale(one)
        return scaled


def left_to(optimizers: Iterable[Optimizer]) -> tuple[Tensor | None, Tensor | None]:
    """What a scaler leaves to a fused optimizer while it steps.

    Returns:
        The scale that is still on the gradients, and whether (1 or 0) they hold an Inf, for which
        the update is left out; None where there is nothing left to do.
    """
    for optimizer in optimizers:
        unit, infinite = (getattr(optimizer, name, None) for name in ("grad_scale", "found_inf"))
        if isinstance(infinite, Tensor):
            return (unit if isinstance(unit, Tensor) else None), infinite.reshape(())
    return None, None
