"""What single modules hand on in a forward pass, for whoever sets weights by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def outputs_of(module: nn.Module, run: Callable[[], Any]) -> Tensor | None:
    """The outputs of a module in one forward pass, all its calls after each other.

    Args:
        module: Whose outputs; only tensors count.
        run: Runs the model.

    Returns:
        A tensor of shape (calls x batch, ...), or None where the module did not run or returned no
        tensor.
    """
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.append(output.detach())

    handle = module.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            run()
    finally:
        handle.remove()
    return torch.cat(seen) if seen else None
