"""Sees the functions that make up a layer without being a module: activations, bare weights.

`nn.Sigmoid()(x)` made on the fly, `x.relu_()`, `F.linear(x, self.weights[0])`, `x @ w`, attention.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

import torch
import torch.overrides
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gradcheckup.activations import FUNCTIONS, Activation

MIXING: Mapping[Callable[..., Any], str] = {
    F.linear: "linear",
    F.bilinear: "bilinear",
    torch.matmul: "linear",
    torch.mm: "linear",
    torch.addmm: "linear",
    torch.bmm: "linear",
    torch.einsum: "linear",
    Tensor.matmul: "linear",
    Tensor.__matmul__: "linear",
    Tensor.__rmatmul__: "linear",
    Tensor.mm: "linear",
    F.conv1d: "conv1d",
    F.conv2d: "conv2d",
    F.conv3d: "conv3d",
    F.conv_transpose1d: "convtranspose1d",
    F.conv_transpose2d: "convtranspose2d",
    F.conv_transpose3d: "convtranspose3d",
}
"""Functions that mix features with a weight, and the kind of layer they are."""

PRODUCTS: Mapping[Callable[..., Any], tuple[int, int]] = {
    torch.matmul: (0, 1),
    torch.bmm: (0, 1),
    torch.mm: (0, 1),
    torch.baddbmm: (1, 2),
    torch.einsum: (1, 2),
    Tensor.matmul: (0, 1),
    Tensor.__matmul__: (0, 1),
    Tensor.__rmatmul__: (1, 0),
    Tensor.bmm: (0, 1),
    Tensor.mm: (0, 1),
    Tensor.baddbmm: (1, 2),
}
"""Functions that multiply matrices, and where their left and right operands stand."""

ATTENTION = frozenset({F.scaled_dot_product_attention, F.multi_head_attention_forward})
"""Attention in one call. What the second calls in turn is out of sight."""

# Private parts of torch, each with a way out where a later version drops it.
_MODES = getattr(torch.overrides, "_get_current_function_mode_stack", list)
_CALLS = nn.Module.__call__.__code__.co_filename
_SET_GRAD_ENABLED = getattr(torch._C, "_set_grad_enabled", None)  # noqa: SLF001


@dataclass(slots=True, eq=False)
class Call:
    """One call of a function, ready to be made.

    Attributes:
        begun: Whether it was made.
        results: What it returned; empty before, and where it raised.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    begun: bool = False
    results: list[Any] = field(default_factory=list)

    def __call__(self) -> Any:
        """Makes it."""
        self.begun = True
        result = self.function(*self.args, **self.kwargs)
        self.results.append(result)
        return result

    def operands(self) -> Iterator[Tensor]:
        """The tensors it is called with."""
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Tensor):
                yield value


class Watcher(Protocol):
    """Who records what the mode sees.

    Attributes:
        stretch: How often gradients were switched off or on in this step.
        failed: Told of an error of the watcher, which then goes no further; None to raise it.
    """

    stretch: int
    failed: Callable[[Exception], None] | None

    def within_model(self) -> bool:
        """Whether the model is running."""

    def activation(self, known: Activation, given: Tensor, call: Call) -> Any:
        """Makes the call of an activation and records it."""

    def mixing(self, kind: str, call: Call) -> Any:
        """Makes the call of a function that mixes features, and records it where it is a layer."""

    def product(self, call: Call) -> Any:
        """Makes the call of a product that is no layer."""

    def attention(self, call: Call) -> Any:
        """Makes the call of an attention and records it."""


class FunctionMode(TorchFunctionMode):
    """Hands the calls that make up a layer to a watcher, and all others through.

    Ctrl-C in the middle of a forward pass leaves it behind, since torch calls no hooks then. It
    keeps no watcher alive, and once the pass that it was made in is gone it hands all through.
    """

    def __init__(self, watcher: Watcher, *, recomputing: bool = False) -> None:
        """Prepares to watch.

        Args:
            watcher: Who is told.
            recomputing: Whether it is made within a part that a checkpoint runs again, and is there
                for the parts that follow, too.
        """
        super().__init__()
        self._watcher: Callable[[], Watcher | None] = weakref.ref(watcher)
        self._pass = None if recomputing else _running_pass()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        call = Call(func, args, kwargs or {})
        watcher = self._watcher()
        if watcher is None:
            return call()
        try:
            return self._handed_on(call, watcher)
        except Exception as error:
            failed = watcher.failed
            if failed is None or (call.begun and not call.results):  # the function's own error
                raise
            failed(error)
            return call.results[0] if call.results else call()

    def _handed_on(self, call: Call, watcher: Watcher) -> Any:
        func, args = call.function, call.args
        if func is _SET_GRAD_ENABLED:
            watcher.stretch += 1
        elif func in FUNCTIONS and self._is_within(watcher):
            given = args[0] if args else call.kwargs.get("input")
            if isinstance(given, Tensor) and given.is_floating_point():
                return watcher.activation(FUNCTIONS[func], given, call)
        elif func in MIXING and self._is_within(watcher):
            return watcher.mixing(MIXING[func], call)
        elif func in PRODUCTS and self._is_within(watcher):
            return watcher.product(call)
        elif func in ATTENTION and self._is_within(watcher):
            return watcher.attention(call)
        return call()

    def _is_within(self, watcher: Watcher) -> bool:
        if not watcher.within_model():
            return False
        if self._pass is not None and not any(id(each) == self._pass for each in _frames()):
            self._watcher = _nobody
        return self._watcher is not _nobody


def _nobody() -> None:
    """Stands for a watcher that is gone."""


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no public way
    while frame is not None:
        yield frame
        frame = frame.f_back


def _running_pass() -> int | None:
    """The `id` of the innermost frame in which a module is called; None outside of any.

    The frame itself would keep the user's tensors alive.
    """
    return next((id(each) for each in _frames() if each.f_code.co_filename == _CALLS), None)


def watching() -> bool:
    """Whether a function mode of ours is active in this thread."""
    return any(isinstance(mode, FunctionMode) for mode in _MODES())
