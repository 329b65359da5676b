"""Ways around layers, as parts of a treated model: `nn.Module`s in a Sequential, hooks elsewhere.

A layer's input is remembered when it is called, and added to (or put beside) the input of a later
layer. So a shortcut spans whatever lies between the two, functions included, and the names in
`state_dict` stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup.capture.backward import in_backward
from gradcheckup.treatments.mechanisms.arguments import Call, first_tensor, with_first


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

    def __init__(self, takers: int = 0) -> None:
        """Serves this many shortcuts in each forward pass."""
        self.takers = takers
        self._left = 0
        self._held: Tensor | None = None

    def put(self, value: Tensor) -> None:
        """Remembers a value, in place of an older one, where anything will take it."""
        self._held, self._left = (value if self.takers else None), self.takers

    def take(self) -> Tensor | None:
        """The value, which is forgotten when the last one has taken it."""
        held = self._held
        if held is None and in_backward():
            raise RuntimeError("a checkpoint runs the end of a shortcut again without its start")
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
    """A forward pre-hook that puts a layer's input into a memory."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remembers the first tensor."""
        given = first_tensor(args, kwargs)
        if given is not None:
            self.memory.put(given)


class Add:
    """A forward pre-hook that adds what a memory holds to a layer's input."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """The arguments to call the layer with."""
        given, held = first_tensor(args, kwargs), self.memory.take()
        if given is None or held is None:
            return None
        return with_first(args, kwargs, held + given)


class Concatenate:
    """A forward pre-hook that puts the inputs of earlier layers beside a layer's own."""

    def __init__(self, memories: list[Memory], dim: int) -> None:
        """Features lie in dimension 1 of convolutions, and in the last one of linear layers."""
        self.memories = memories
        self.dim = dim

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """The arguments to call the layer with."""
        held = [memory.take() for memory in self.memories]
        given = first_tensor(args, kwargs)
        if given is None:
            return None
        earlier = [value for value in held if value is not None]
        return with_first(args, kwargs, torch.cat([given, *earlier], self.dim))


def add_around(start: nn.Module, end: nn.Module) -> None:
    """Adds the input of one layer to the input of a later one."""
    memory = Memory(takers=1)
    start.register_forward_pre_hook(Remember(memory), with_kwargs=True)
    end.register_forward_pre_hook(Add(memory), prepend=True, with_kwargs=True)


def remembered(layer: nn.Module) -> Memory:
    """Holds what a layer is given, before anything is put beside it, for later layers."""
    memory = Memory()
    layer.register_forward_pre_hook(Remember(memory), prepend=True, with_kwargs=True)
    return memory


def put_beside(memories: list[Memory], layer: nn.Module, dim: int) -> None:
    """Has a layer read the inputs of earlier ones beside its own."""
    for memory in memories:
        memory.takers += 1
    layer.register_forward_pre_hook(Concatenate(memories, dim), with_kwargs=True)
