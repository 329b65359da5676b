"""One sampled step of a training loop: which forward and backward pass is looked at.

A step may run many: micro-batches, several losses, passes without gradients in between. Looked at
are the last forward pass before the first backward pass that reaches the model, and that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradcheckup.capture import Hook, listen, stop_listening


class Instrument(Protocol):
    """What reads the layers of a step: a `Capture` or a `Glance`.

    Attributes:
        differentiating: Gradients count while it is True.
    """

    differentiating: bool

    def begin(self) -> None:
        """Forgets the passes before."""

    def attach(self) -> None:
        """Sets hooks on the modules."""

    def detach(self) -> None:
        """Takes every hook away."""

    def during(self, *, grad: bool) -> AbstractContextManager[Any]:
        """Surrounds a forward pass of the root module, with gradients or without."""

    def settle(self, loss: Sequence[Tensor]) -> bool:
        """Before a backward pass; whether it reaches the layers that ran, as far as can be told."""

    def arrived(self) -> bool:
        """Whether a gradient came."""


class Look:
    """Opens and closes an instrument around the passes of one step.

    Attributes:
        loss: What the pass started from, as a 0-d tensor; None before, and where it is no tensor.
        scale: What the loss was multiplied with, as a 0-d tensor; None without a gradient scaler.
        seen: Whether a backward pass has reached the model.
    """

    def __init__(
        self, root: nn.Module, instrument: Instrument, scale: Callable[[], Tensor | None]
    ) -> None:
        self.instrument = instrument
        self.loss: Tensor | None = None
        self.scale: Tensor | None = None
        self.seen = False
        self._root, self._scale_now = root, scale
        self._handles: list[RemovableHandle] = []
        self._passes: list[ExitStack] = []

    def open(self) -> None:
        """Waits for the next forward pass."""
        enter, leave = Hook(self._enter), Hook(self._leave)
        self._handles.append(self._root.register_forward_pre_hook(enter))
        self.instrument.begin()
        self.instrument.attach()
        self._handles.append(self._root.register_forward_hook(leave, always_call=True))
        listen(self)

    def close(self) -> None:
        """Takes every hook away."""
        stop_listening(self)
        self.instrument.differentiating = False
        self.instrument.detach()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        while self._passes:
            self._passes.pop().close()

    def _enter(self, *_: Any) -> None:
        stack = ExitStack()
        self._passes.append(stack)
        if self.seen or len(self._passes) > 1:
            return
        grad = torch.is_grad_enabled()
        if grad:
            self.instrument.begin()
        stack.enter_context(self.instrument.during(grad=grad))

    def _leave(self, *_: Any) -> None:
        if self._passes:
            self._passes.pop().close()

    def begins(self, loss: Sequence[Any], weights: Sequence[Any]) -> None:
        """A backward pass of this process starts from here."""
        roots = [each for each in loss if isinstance(each, Tensor)]
        if self.seen or not self.instrument.settle(roots):
            return
        self.loss, self.scale = _total(roots, weights), self._scale_now()
        self.instrument.differentiating = True

    def ends(self) -> None:
        """It is over."""
        if self.instrument.differentiating:
            self.instrument.differentiating = False
            if self.instrument.arrived():
                self.seen = True
                self.instrument.detach()


def _total(roots: Sequence[Tensor], weights: Sequence[Any]) -> Tensor | None:
    """The scalar that a backward pass differentiates."""
    if not roots:
        return None
    parts = [
        (each.detach() * weights[index]).sum()
        if index < len(weights) and isinstance(weights[index], Tensor)
        else each.detach().sum()
        for index, each in enumerate(roots)
    ]
    return torch.stack([part.reshape(()) for part in parts]).sum() if len(parts) > 1 else parts[0]
