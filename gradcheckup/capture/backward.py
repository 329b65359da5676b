"""Backward passes: which one is running, and which loss it starts from.

A forward may run inside one: a checkpoint computes again what it did not keep.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor

NONE = -1

# A private part of torch; where a later version drops it, a forward is taken to run in no backward.
_NUMBER = getattr(torch._C, "_current_graph_task_id", lambda: NONE)  # noqa: SLF001 - see above


def running() -> int:
    """The number of the backward pass that autograd is running; `NONE` outside of any."""
    number: int = _NUMBER()
    return number


def in_backward() -> bool:
    """Whether autograd is running a backward pass: the forward is a checkpoint's recomputation."""
    return running() != NONE


class Listener(Protocol):
    """Who wants to know of backward passes."""

    def begins(self, loss: Sequence[Any], weights: Sequence[Any]) -> None:
        """Before one, with what it starts from and the gradients given for that, if any."""

    def ends(self) -> None:
        """After one, also if it failed."""


class _Switchboard:
    """Stands in the place of `torch.autograd.backward` while somebody listens.

    `Tensor.backward` looks it up when it is called, so all are seen, and no `torch.autograd.grad`.
    Listeners are held weakly: whoever forgets one forgets all that it holds.
    """

    def __init__(self) -> None:
        self.references: tuple[weakref.ref[Listener], ...] = ()
        self.original: Any = None

    @property
    def listeners(self) -> list[Listener]:
        return [found for each in self.references if (found := each()) is not None]

    def add(self, listener: Listener) -> None:
        self.references = (*self.references, weakref.ref(listener, self._drop))
        if self.original is None:
            self.original = torch.autograd.backward
            torch.autograd.backward = self._announced(self.original)

    def remove(self, listener: Listener) -> None:
        for each in self.references:
            if each() is listener:
                self._drop(each)

    def _drop(self, reference: weakref.ref[Listener]) -> None:
        self.references = tuple(each for each in self.references if each is not reference)
        # Whoever wrapped ours keeps their wrapper, which calls ours, which calls torch's.
        ours = getattr(torch.autograd.backward, "__wrapped__", None) is self.original
        if not self.references and self.original is not None and ours:
            torch.autograd.backward = self.original
            self.original = None

    def _announced(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
            # A pass inside another one is a reentrant checkpoint's.
            with ExitStack() as after:
                for listener in () if in_backward() else self.listeners:
                    listener.begins(_each(tensors), _each(grad_tensors))
                    after.callback(listener.ends)
                return original(tensors, grad_tensors, *args, **kwargs)

        return backward


_SWITCHBOARD = _Switchboard()


def listen(listener: Listener) -> None:
    """Tells of every backward pass of this process from now on."""
    _SWITCHBOARD.add(listener)


def stop_listening(listener: Listener) -> None:
    """Tells no more."""
    _SWITCHBOARD.remove(listener)


def _each(given: Any) -> tuple[Any, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, Tensor) else tuple(given)
