"""The recurrent layers of one step: which gradients are read for them, and what reads these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup.capture import through_time
from gradcheckup.capture.readings import Event

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Reader = Callable[[Tensor], None]
"""What the gradient of a tensor is handed to when it arrives."""


class Recurrences:
    """Inputs of recurrent layers are read along the time, outputs compared with their gradients."""

    def __init__(self) -> None:
        self._passages: dict[int, through_time.Passage] = {}
        self._answered: dict[str, Event] = {}

    def begin(self) -> None:
        """Forgets the step before."""
        self._passages.clear()
        self._answered.clear()

    def enter(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Arguments, Tensor, Reader] | None:
        """Arguments with an alias of the input, the alias, and what reads its gradient.

        None where there is nothing to read.
        """
        entered = through_time.enter(module, args[0] if args else kwargs.get("input"))
        if entered is None:
            return None
        given, alias, passage = entered
        self._passages[id(module)] = passage
        arguments = ((given, *args[1:]), kwargs) if args else (args, {**kwargs, "input": given})
        return arguments, alias, passage.read

    def passage(self, module: nn.Module) -> through_time.Passage | None:
        """What reads the input's gradient of the call that ends; None for other layers."""
        return self._passages.pop(id(module), None)

    def leave(
        self, event: Event, module: nn.Module | None, output: Any
    ) -> Iterator[tuple[Tensor, Reader]]:
        """What a layer hands on, and what compares it with the gradient that comes back for it.

        Args:
            event: The call.
            module: The layer; None for a function.
            output: What it returned.
        """
        if torch.is_grad_enabled():
            for value, outlet in through_time.outlets(module, event.call, output):
                yield value, partial(self._answer, event, outlet)

    def _answer(self, event: Event, outlet: through_time.Outlet, gradient: Tensor) -> None:
        """Reads a gradient of the last call alone, which is the first to receive one."""
        if self._answered.setdefault(event.name, event) is event:
            result = outlet.compare(gradient)
            if result is not None:
                event.dependences.append(result)
