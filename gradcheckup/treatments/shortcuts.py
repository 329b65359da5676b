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
    """Holds the input of a layer until the last shortcut has taken it.

    No longer: it would keep the graph of a whole forward pass alive.
    """

    def __init__(self, takers: int = 1) -> None:
        """Serves this many shortcuts in each forward pass."""
        self.takers = takers
        self._left = 0
        self._held: Tensor | None = None

    def put(self, value: Tensor) -> None:
        """Remembers a value, in place of an older one."""
        self._held, self._left = value, self.takers

    def take(self) -> Tensor | None:
        """The value, which is forgotten when the last one has taken it."""
        held = self._held
        self._left -= 1
        if self._left <= 0:
            self._held = None
        return held

    def __deepcopy__(self, memo: dict[int, Any]) -> Memory:
        twin = Memory(self.takers)
        memo[id(self)] = twin
        return twin

    def __reduce__(self) -> tuple[type[Memory], tuple[int]]:
        return Memory, (self.takers,)


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
        held = [memory.take() for memory in self.memories]
        earlier = [value for value in held if value is not None]
        return (torch.cat([args[0], *earlier], self.dim), *args[1:])


def add_around(start: nn.Module, end: nn.Module) -> None:
    """Adds the input of one layer to the input of a later one."""
    memory = Memory()
    start.register_forward_pre_hook(Remember(memory))
    end.register_forward_pre_hook(Add(memory), prepend=True)
