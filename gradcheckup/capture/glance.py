"""A quick look at a training step: the gradient norm of each weight layer, and nothing else.

What `Capture` measures costs a third of a step and more; this costs a few microseconds a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradcheckup import statistics
from gradcheckup.capture.backward import in_backward
from gradcheckup.capture.hook import Hook
from gradcheckup.capture.pooling import Pooling
from gradcheckup.capture.readings import Readings, Tray, floating_tensors
from gradcheckup.capture.transforms import transformed


class Glance:
    """Reads ||dL/dy|| of some modules in the next backward pass.

    A hook costs what a small product does, so of many modules each pass reads a part.

    Attributes:
        names: Of the modules.
        turn: How many passes were read before, which tells what part is read next.
        norms: A 0-d device tensor for each gradient that arrived, by module in the order of
            `names`.
        differentiating: Gradients count while it is True.
        failed: Told of an error of ours, which then goes no further.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], always: Collection[str] = (), *, turns: int = 1
    ) -> None:
        """Prepares to read; sets no hook yet.

        Args:
            layers: The modules by name.
            always: Names of those that are read in every turn.
            turns: In how many turns the others are read.
        """
        self.names = tuple(layers)
        self.turn = 0
        self._always = [name in always for name in layers]
        self._turns = turns
        self.norms: list[list[Tensor]] = [[] for _ in layers]
        self.differentiating = False
        self.failed: Callable[[Exception], None] | None = None
        self._modules = tuple(layers.values())
        self._set: list[RemovableHandle] = []
        self._deferred = [0] * len(layers)
        self._grad = True
        self._epoch = 0

    def attach(self) -> None:
        """Sets the hooks on the modules; `detach` takes all away again."""
        # Shifted by one each round: of every second or fourth glance each part has its share, too.
        part = (self.turn + self.turn // self._turns) % self._turns
        for row, module in enumerate(self._modules):
            if self._always[row] or row % self._turns == part:
                self._set.append(module.register_forward_hook(_Outlet(self, row)))

    def detach(self) -> None:
        """Takes every hook away."""
        for handle in self._set:
            handle.remove()
        self._set.clear()
        self._epoch += 1

    def begin(self) -> None:
        """Forgets the passes before."""
        self.norms = [[] for _ in self.names]
        self._deferred = [0] * len(self.names)
        self._epoch += 1

    def again(self, *, keep: bool) -> None:
        """Another forward pass begins; gradients of the ones before count if they arrive."""
        del keep

    def during(self, *, grad: bool) -> AbstractContextManager[None]:
        """Surrounds a forward pass; nothing has to be undone."""
        self._grad = grad
        return nullcontext()

    def settle(self, loss: Sequence[Tensor]) -> bool:
        """Before a backward pass: it may reach a layer; `arrived` tells afterwards."""
        del loss
        return True

    def arrived(self) -> bool:
        """Whether a gradient came."""
        return any(self.norms)

    def put(self, tray: Tray) -> Callable[[Readings], tuple[float | None, ...]]:
        """Puts the norms on a tray; returns what makes numbers of them, one a module."""
        slots = [[tray.put(norm, Pooling.GRADIENT) for norm in norms] for norms in self.norms]
        return lambda readings: tuple(
            math.hypot(*(readings[slot] for slot in each)) if each else None for each in slots
        )

    def leave(self, row: int, output: Any) -> None:
        """A module has returned this."""
        if transformed():
            return
        if not torch.is_grad_enabled():
            # Within a pass with gradients: a reentrant checkpoint, which will run it again.
            self._deferred[row] += self._grad and not in_backward()
            return
        main = output if type(output) is Tensor else next(floating_tensors(output), None)
        if main is None or not main.requires_grad:
            return
        if in_backward():
            if not self._deferred[row]:
                return  # another checkpoint, which runs it again for its values alone
            self._deferred[row] -= 1
        # The graph takes the hook along; one that outlives the step knows it by the epoch.
        main.register_hook(_Inlet(self, row, self._epoch))  # type: ignore[no-untyped-call]

    def arrives(self, row: int, epoch: int, gradient: Tensor | None) -> None:
        """The gradient of what a module has returned."""
        if self.differentiating and epoch == self._epoch and gradient is not None:
            self.norms[row].append(statistics.quick_norm(gradient))


class _Outlet(Hook):
    """Sits on a module; its own `__call__`, since a step calls it once a layer."""

    __slots__ = ("glance", "row")

    def __init__(self, glance: Glance, row: int) -> None:
        self.glance, self.row = glance, row

    def __call__(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        try:
            self.glance.leave(self.row, output)
        except Exception as error:
            if self.glance.failed is None:
                raise
            self.glance.failed(error)


class _Inlet(Hook):
    """Sits on a tensor."""

    __slots__ = ("epoch", "glance", "row")

    def __init__(self, glance: Glance, row: int, epoch: int) -> None:
        self.glance, self.row, self.epoch = glance, row, epoch

    def __call__(self, gradient: Tensor | None) -> None:
        try:
            self.glance.arrives(self.row, self.epoch, gradient)
        except Exception as error:
            if self.glance.failed is None:
                raise
            self.glance.failed(error)
