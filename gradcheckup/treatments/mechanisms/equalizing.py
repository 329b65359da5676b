"""Hooks of a treated model by which the gradients of its layers arrive equally large."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup import statistics
from gradcheckup.capture import backward


class Reference:
    """The norm that the gradients of one backward pass are given: that of the first to arrive."""

    def __init__(self) -> None:
        self._norm: Tensor | None = None
        self._task = backward.NONE

    def forget(self) -> None:
        """The next gradient to arrive is the first of another backward pass."""
        self._norm = None

    def rescale(self, outer: int, gradient: Tensor) -> Tensor:
        """The gradient with the norm of the first one; zero and non-finite ones as they are.

        Nothing here waits for the device.

        Args:
            outer: The backward pass in which a checkpoint ran the forward again, which its own
                backward pass inside is a part of; -1 for any other forward.
            gradient: dL/dy of one call of one layer.
        """
        task = backward.running() if outer == backward.NONE else outer
        norm = statistics.norm(gradient)
        if self._norm is None or self._task != task:
            self._norm = norm
            self._task = task
            return gradient
        first = self._norm.to(norm.device)
        # A gradient of zeros, as behind dead units, says nothing of the size of the others.
        self._norm = torch.where(_usable(first), first, norm)
        ratio = torch.where(_usable(first) & _usable(norm), first / norm, 1.0)
        # In two steps, each of which lies within float32; float16 would round the factor itself.
        root = ratio.sqrt()
        half = gradient.dtype in (torch.float16, torch.bfloat16)
        wide = gradient.float() if half else gradient
        return (wide * root * root).to(gradient.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {"_norm": None, "_task": backward.NONE}


class Equalizer:
    """A forward hook that has the gradient of what a layer hands on rescaled.

    A hook of the tensor and no node of the graph: who reads the gradient with a hook that is
    registered later reads what it was rescaled to, and the forward is as it was to the bit. Under
    `torch.compile` each is a graph break.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    def __call__(self, _: nn.Module, __: Any, output: Any) -> None:
        """Watches an output that will be differentiated."""
        if not isinstance(output, Tensor) or not output.requires_grad:
            return
        if torch.compiler.is_compiling():
            # Not torch.compiler.disable, which takes seconds to import.
            torch._dynamo.graph_break()  # noqa: SLF001 - documented all the same
        outer = backward.running()
        if outer == backward.NONE:
            self.reference.forget()
        output.register_hook(partial(self.reference.rescale, outer))  # type: ignore[no-untyped-call]


def equalize(layers: list[nn.Module]) -> None:
    """Gives the gradients of the outputs of some layers one norm in each backward pass."""
    reference = Reference()
    for layer in layers:
        layer.register_forward_hook(Equalizer(reference))


def _usable(norm: Tensor) -> Tensor:
    return torch.isfinite(norm) & (norm > 0)
