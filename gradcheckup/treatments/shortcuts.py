"""Ways around layers, as parts of a treated model: `nn.Module`s in a Sequential, hooks elsewhere.

A layer's input is remembered when it is called, and added to (or put beside) the input of a later
layer. So a shortcut spans whatever lies between the two, functions included, and the names in
`state_dict` stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Residual(nn.Sequential):
    """Modules one after the other, whose result is added to what they were given."""

    def forward(self, values: Tensor) -> Tensor:
        """``values + f(values)``, of the same shape."""
        result = values
        for module in self:
            result = module(result)
        return values + result


class Memory:
    """Holds the input of a layer until the end of a shortcut takes it."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def put(self, value: Tensor) -> None:
        """Remembers a value, in place of an older one."""
        self._held = value

    def take(self) -> Tensor | None:
        """The value, which is then forgotten."""
        held, self._held = self._held, None
        return held

    def look(self) -> Tensor | None:
        """The value, which is kept."""
        return self._held

    def __deepcopy__(self, memo: dict[int, Any]) -> Memory:
        twin = Memory()
        memo[id(self)] = twin
        return twin

    def __reduce__(self) -> tuple[type[Memory], tuple[()]]:
        return Memory, ()


class Remember:
    """A forward pre-hook that puts a layer's input into memories."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Remembers the first argument."""
        self.memory.put(args[0])


class Add:
    """A forward pre-hook that adds what a memory holds to a layer's input."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The arguments to call the layer with."""
        held = self.memory.take()
        return None if held is None else (args[0] + held, *args[1:])


class Concatenate:
    """A forward pre-hook that puts the inputs of earlier layers beside a layer's own.

    Features lie in dimension 1 of convolutions, and in the last one of linear layers.
    """

    def __init__(self, memories: list[Memory], dim: int) -> None:
        self.memories = memories
        self.dim = dim

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments to call the layer with."""
        held = [memory.look() for memory in self.memories]
        earlier = [value for value in held if value is not None]
        return (torch.cat([args[0], *earlier], self.dim), *args[1:])


def add_around(start: nn.Module, end: nn.Module) -> None:
    """Adds the input of one layer to the input of a later one."""
    memory = Memory()
    start.register_forward_pre_hook(Remember(memory))
    end.register_forward_pre_hook(Add(memory), prepend=True)
