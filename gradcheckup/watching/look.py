"""One sampled step of a training loop: which forward and backward pass is looked at.

A step may run many: micro-batches, several losses, passes without gradients in between. Looked at
are the last forward pass before the first backward pass that reaches the model, and that one. Where
the loop calls parts of the model instead (`model.decode(model.encode(x))`), all their calls before
that backward pass are one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradcheckup.capture import Hook, listen, stop_listening
from gradcheckup.capture.backward import in_backward


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
        entered: The modules that the loop called, as often as it did.
    """

    def __init__(
        self,
        root: nn.Module,
        parts: Iterable[nn.Module],
        instrument: Instrument,
        scale: Callable[[], Tensor | None],
    ) -> None:
        """Prepares to look; registers nothing yet.

        Args:
            root: The model.
            parts: Modules in it that the loop may call by themselves.
            instrument: What to look with.
            scale: What the loss is multiplied with at the moment.
        """
        self.instrument = instrument
        self.loss: Tensor | None = None
        self.scale: Tensor | None = None
        self.seen = False
        self.entered: list[nn.Module] = []
        self._parts = [each for each in parts if each is not root]
        self._root, self._scale_now = root, scale
        self._handles: list[RemovableHandle] = []
        self._passes: list[ExitStack] = []

    def open(self) -> None:
        """Waits for the next forward pass."""
        enter, leave = Hook(self._enter), Hook(self._leave)
        called = (self._root, *self._parts)
        self._handles.extend(each.register_forward_pre_hook(enter) for each in called)
        self.instrument.begin()
        self.instrument.attach()
        self._handles.extend(each.register_forward_hook(leave, always_call=True) for each in called)
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

    def _enter(self, module: nn.Module, *_: Any) -> None:
        stack = ExitStack()
        self._passes.append(stack)
        if self.seen or len(self._passes) > 1 or in_backward():
            return
        self.entered.append(module)
        grad = torch.is_grad_enabled()
        if grad and module is self._root:
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
