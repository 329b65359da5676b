"""A quick look at a training step: the gradient norm of each weight layer, and nothing else.

What `Capture` measures costs a third of a step and more; this costs a few microseconds a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradcheckup import statistics
from gradcheckup.capture.backward import in_backward
from gradcheckup.capture.hook import Hook
from gradcheckup.capture.readings import Readings, Tray, floating_tensors
from gradcheckup.capture.transforms import transformed


class Glance:
    """Reads ||dL/dy|| of some modules in the next backward pass.

    Attributes:
        names: Of the modules.
        norms: A 0-d device tensor for each gradient that arrived, by module in the order of
            `names`.
        differentiating: Gradients count while it is True.
        failed: Told of an error of ours, which then goes no further.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.names = tuple(layers)
        self.norms: list[list[Tensor]] = [[] for _ in layers]
        self.differentiating = False
        self.failed: Callable[[Exception], None] | None = None
        self._modules = tuple(layers.values())
        self._set: list[RemovableHandle] = []
        self._awaited: list[list[RemovableHandle]] = [[] for _ in layers]

    def attach(self) -> None:
        """Sets the hooks on the modules; `detach` takes all away again."""
        self._set = [
            module.register_forward_hook(Hook(partial(self._leave, row), self.failed))
            for row, module in enumerate(self._modules)
        ]

    def detach(self) -> None:
        """Takes every hook away."""
        for handle in self._set:
            handle.remove()
        self._set.clear()
        self._forget()

    def begin(self) -> None:
        """Forgets the passes before."""
        for norms in self.norms:
            norms.clear()
        self._forget()

    def again(self, *, keep: bool) -> None:
        """Another forward pass begins; gradients of the ones before count if they arrive."""
        del keep

    def during(self, *, grad: bool) -> AbstractContextManager[None]:
        """Surrounds a forward pass; needs nothing to be done."""
        del grad
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
        slots = [[tray.put(norm) for norm in norms] for norms in self.norms]
        return lambda readings: tuple(
            math.hypot(*(readings[slot] for slot in each)) if each else None for each in slots
        )

    def _forget(self) -> None:
        for handles in self._awaited:
            for handle in handles:
                handle.remove()
            handles.clear()

    def _leave(self, row: int, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        main = output if type(output) is Tensor else next(floating_tensors(output), None)
        if main is None or not main.requires_grad or not torch.is_grad_enabled():
            return
        handles = self._awaited[row]
        if transformed() or (handles and in_backward()):
            return  # a checkpoint runs it again: its output is watched already
        hook = Hook(partial(self._arrives, row), self.failed)
        handles.append(main.register_hook(hook))  # type: ignore[no-untyped-call]

    def _arrives(self, row: int, gradient: Tensor | None) -> None:
        if self.differentiating and gradient is not None:
            self.norms[row].append(statistics.quick_norm(gradient))
