"""Sees the functions that make up a layer without being a module: activations, bare weights.

`nn.Sigmoid()(x)` made on the fly, `x.relu_()`, `F.linear(x, self.weights[0])`, `x @ w`, attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.overrides
from torch import Tensor
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
    """Hands the calls that make up a layer to a watcher, and all others through."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        call = Call(func, args, kwargs or {})
        try:
            return self._handed_on(call)
        except Exception as error:
            failed = self.watcher.failed
            if failed is None or (call.begun and not call.results):  # the function's own error
                raise
            failed(error)
            return call.results[0] if call.results else call()

    def _handed_on(self, call: Call) -> Any:
        func, args = call.function, call.args
        if func is _SET_GRAD_ENABLED:
            self.watcher.stretch += 1
        elif func in FUNCTIONS and self.watcher.within_model():
            given = args[0] if args else call.kwargs.get("input")
            if isinstance(given, Tensor) and given.is_floating_point():
                return self.watcher.activation(FUNCTIONS[func], given, call)
        elif func in MIXING and self.watcher.within_model():
            return self.watcher.mixing(MIXING[func], call)
        elif func in PRODUCTS and self.watcher.within_model():
            return self.watcher.product(call)
        elif func in ATTENTION and self.watcher.within_model():
            return self.watcher.attention(call)
        return call()


def watching() -> bool:
    """Whether a function mode of ours is active in this thread."""
    return any(isinstance(mode, FunctionMode) for mode in _MODES())
