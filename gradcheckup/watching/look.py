"""One sampled step of a training loop: which forward and backward passes are looked at.

A step may run many: micro-batches, several losses, passes without gradients in between. Looked at
is the first backward pass that reaches the model, and the forward passes that lead to it, of the
model or of parts of it (`model.decode(model.encode(x))`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradcheckup.capture import Hook, listen, stop_listening, transformed
from gradcheckup.capture.backward import in_backward


class Instrument(Protocol):
    """What reads the layers of a step: a `Capture` or a `Glance`.

    Attributes:
        differentiating: Gradients count while it is True.
    """

    differentiating: bool

    def begin(self) -> None:
        """Forgets the passes before."""

    def again(self, *, keep: bool) -> None:
        """Another forward pass begins; without `keep`, the ones before lead to no loss."""

    def attach(self) -> None:
        """Sets hooks on the modules."""

    def detach(self) -> None:
        """Takes every hook away."""

    def during(self, *, grad: bool) -> AbstractContextManager[Any]:
        """Surrounds a forward pass, with gradients or without."""

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
        rooted: Whether the first of the modules made all passes.
        updating: Set once the optimizer steps: what it asks a closure for is all one step, and
            gradients that go afterwards have done their work.
        discarded: How many passes were seen whose gradients came to nothing.
        further: How many backward passes of the step came after the one that was seen.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        instrument: Instrument,
        *,
        own: Sequence[Tensor],
        scale: Callable[[], Tensor | None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Prepares to look; sets no hook yet.

        Args:
            modules: Those that the loop may call; the outermost one that runs makes a pass.
            instrument: Reads the layers.
            own: The parameters that an optimizer updates; empty where that is not known.
            scale: What a loss is multiplied with at the moment.
            failed: Told of an error of ours, which then goes no further.
        """
        self.instrument = instrument
        self.loss: Tensor | None = None
        self.scale: Tensor | None = None
        self.seen = False
        self.rooted = True
        self.updating = False
        self.discarded = self.further = 0
        self._modules = tuple(modules)
        self._own, self._scale_now, self._failed = own, scale, failed
        self._witness: Tensor | None = None
        self._handles: list[RemovableHandle] = []
        self._running: list[nn.Module] = []
        self._pass = ExitStack()
        self._training = False
        self._doubted = False
        self._stopped = False

    def open(self) -> None:
        """Waits for the next forward pass."""
        for module in self._modules:
            enter = Hook(self._enter, self._failed)  # one each, which a copy can tell apart
            self._handles.append(module.register_forward_pre_hook(enter))
        self.instrument.begin()
        self.instrument.attach()
        for module in self._modules:
            leave = Hook(self._leave, self._failed)
            self._handles.append(module.register_forward_hook(leave, always_call=True))
        listen(self)

    def close(self) -> None:
        """Takes every hook away, also those of a pass that was interrupted."""
        self._stop()
        self._finish()

    def doubt(self) -> None:
        """Another model's optimizer has stepped.

        What was seen was for its sake if this model runs again before its own update, as a critic
        does through which a generator was trained. Otherwise the update is yet to come.
        """
        self._doubted = self.seen

    def give_up(self) -> None:
        """The same from inside a pass, whose end is waited for."""
        self._stop()
        if not self._running:
            self._finish()

    def _stop(self) -> None:
        self._stopped = True
        stop_listening(self)
        self.instrument.differentiating = False
        self.instrument.detach()

    # -- forward passes -----------------------------------------------------------------------

    def _enter(self, module: nn.Module, _: Any) -> None:
        if transformed() or in_backward():  # a checkpoint runs a part again
            return
        if any(each is module for each in self._running):
            self._finish()  # an interrupted pass left it behind
        self._running.append(module)
        if len(self._running) > 1:
            return
        grad = torch.is_grad_enabled()
        if self.seen and self._is_discarded():
            self.discarded += 1
            self._restart()
        elif self._doubted and grad and not self._stopped:
            self._restart()
        if self.seen or self._stopped:
            return
        self.rooted = self.rooted and module is self._modules[0]
        if grad:
            # Evaluations with gradients would pile up their graphs.
            self.instrument.again(keep=self._training)
            self._training = module.training
        self._pass.enter_context(self.instrument.during(grad=grad))

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if transformed() or in_backward():
            return
        while self._running and self._running.pop() is not module:
            pass
        if not self._running:
            self._finish()

    def _finish(self) -> None:
        self._running.clear()
        self._pass.close()
        if self._stopped:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    # -- backward passes ----------------------------------------------------------------------

    def begins(self, loss: Sequence[Any], weights: Sequence[Any]) -> None:
        """A backward pass of this process starts from here."""
        self._safely(partial(self._begins, loss, weights))

    def ends(self) -> None:
        """It is over."""
        self._safely(self._ends)

    def _begins(self, loss: Sequence[Any], weights: Sequence[Any]) -> None:
        if self.seen and self._is_discarded():
            self.discarded += 1
            self._restart()
        roots = [each for each in loss if isinstance(each, Tensor)]
        self.further += self.seen
        if self.seen or self._stopped or not self.instrument.settle(roots):
            return
        self.loss, self.scale = _total(roots, weights), self._scale_now()
        self.instrument.differentiating = True

    def _ends(self) -> None:
        if self.instrument.differentiating:
            self.instrument.differentiating = False
            if self.instrument.arrived():
                self.seen = True
                self._witness = next((each for each in self._own if each.grad is not None), None)
                self.instrument.detach()

    def _is_discarded(self) -> bool:
        """Whether the gradients that were seen are gone, and no update was made of them."""
        gone = self._witness is not None and self._witness.grad is None
        return gone and not self.updating and not self._stopped

    def _restart(self) -> None:
        self.seen, self._doubted, self._witness = False, False, None
        self.further = 0
        self.instrument.begin()
        self.instrument.attach()

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the user's backward pass goes on
            self._failed(error)


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
