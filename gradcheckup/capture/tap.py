"""What single modules hand on in a forward pass, for whoever sets weights by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup.capture.structure import leaves


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
            seen.append(output.detach().clone())  # an activation behind may work in place

    handle = module.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            run()
    finally:
        handle.remove()
    return torch.cat(seen) if seen else None


def inputs_of(module: nn.Module, run: Callable[[], Any]) -> list[Any]:
    """The first argument of each call of a module in one forward pass.

    Args:
        module: Whose inputs.
        run: Runs the model.
    """
    seen: list[Any] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(_detached(next(iter((*args, *kwargs.values())), None)))

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.enable_grad():
            run()
    finally:
        handle.remove()
    return seen


def returning_tensors(modules: Mapping[str, nn.Module], run: Callable[[], Any]) -> set[str]:
    """Which modules return one tensor whenever they are called in one forward pass.

    Args:
        modules: By any name.
        run: Runs the model.

    Returns:
        Names; a module that does not run is not among them.
    """
    seen: dict[str, list[bool]] = {}

    def look(name: str, _: nn.Module, __: Any, output: Any) -> None:
        seen.setdefault(name, []).append(isinstance(output, Tensor))

    handles = [
        module.register_forward_hook(partial(look, name)) for name, module in modules.items()
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {name for name, found in seen.items() if all(found)}


def origins(
    readers: Mapping[str, nn.Module], output: nn.Module, run: Callable[[], Tensor]
) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
    """The parameters that come before some layers, and those from the output layer on.

    Args:
        readers: Layers by any name.
        output: A layer, behind which a loss comes.
        run: Runs the model and returns the loss.

    Returns:
        Leaves of the graph by the name of the reader, and those between the output layer's input
        and the loss.
    """
    found: dict[str, list[Tensor]] = {}

    def look(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        found[name] = [leaf for each in given for leaf in leaves(each)]

    def cut(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return tuple(map(_detached, args)), {key: _detached(each) for key, each in kwargs.items()}

    handles = [
        module.register_forward_pre_hook(partial(look, name), with_kwargs=True)
        for name, module in readers.items()
    ]
    handles.append(output.register_forward_pre_hook(cut, with_kwargs=True))
    try:
        with torch.enable_grad():
            return found, leaves(run())
    finally:
        for handle in handles:
            handle.remove()


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
