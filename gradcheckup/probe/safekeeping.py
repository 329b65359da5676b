"""Keeping what is the user's: random states, and models that have to be probed in place."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradcheckup.errors import UsageError


def copied(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """A copy of an optimizer that updates the parameters in `memo` instead of the originals."""
    twin = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():
        # Optimizers pickle their groups and state alone; LBFGS keeps its parameters elsewhere. A
        # callable is a step() that a scheduler has wrapped.
        if not hasattr(twin, name) and not callable(value):
            setattr(twin, name, copy.deepcopy(value, memo))
    return twin


class RandomStates:
    """The states of torch's, numpy's and Python's random numbers at one moment."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()  # noqa: NPY002 - what users' augmentations draw from
        self._torch = torch.get_rng_state()
        in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call] # torch's own gap
        self._cuda = torch.cuda.get_rng_state_all() if in_use else None

    def put_back(self) -> None:
        """Sets them as they were."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002 - as above
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)


@contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Random numbers of torch on all devices, numpy and Python start from a seed inside.

    Their states are afterwards as they were, but for those of a GPU that was not in use before.

    Args:
        seed: A whole number from 0 to 2**63 - 1.

    Raises:
        UsageError: The seed is something else.
    """
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise UsageError(f"expected seed to be a whole number from 0 to 2**63 - 1, got {seed!r}")
    before = RandomStates()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - as above
        torch.manual_seed(seed)
        yield
    finally:
        before.put_back()


@contextmanager
def replay(states: RandomStates, model: nn.Module) -> Iterator[None]:
    """Draws the random numbers of an earlier moment again; buffers are as before afterwards."""
    now = RandomStates()
    kept = [
        (module._buffers, dict(module._buffers))  # noqa: SLF001 - also what is None
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)  # its registry is C++'s
    ]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    states.put_back()
    try:
        yield
    finally:
        now.put_back()
        for buffers, before in kept:
            buffers.clear()
            buffers.update(before)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


@contextmanager
def in_eval_mode(model: nn.Module, *, but: tuple[type[nn.Module], ...] = ()) -> Iterator[None]:
    """In eval mode inside, but for modules of some classes; all modes are as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for module, training in modes:
            if isinstance(module, but):
                module.training = training
        yield
    finally:
        for module, training in modes:
            module.training = training


class Snapshot:
    """Everything of some modules and their optimizer, as it is at one moment."""

    def __init__(self, modules: list[nn.Module], optimizer: Optimizer | None) -> None:
        """Copies it.

        Args:
            modules: With all that they contain.
            optimizer: Of their parameters.
        """
        every = {id(each): each for root in modules for each in root.modules()}.values()
        self._optimizers = list(_wrapped(optimizer))
        attributes = [(vars(each), dict(vars(each))) for each in (*every, *self._optimizers)]
        self._containers: list[tuple[Any, Any]] = [
            (value, value.copy())
            for _, kept in attributes
            for value in kept.values()
            if isinstance(value, (dict, list, set))
        ]
        tensors = {id(each): each for each in _tensors(attributes, self._containers)}.values()
        self._values = [(each, each.detach().clone(), each.requires_grad) for each in tensors]
        self._gradients = [(each, each.grad) for each in tensors if each.is_leaf]
        groups = [group for each in self._optimizers for group in each.param_groups]
        self._entries = [*attributes, *((group, dict(group)) for group in groups)]
        self._states = [
            {key: copy.deepcopy(value) for key, value in each.state.items()}
            for each in self._optimizers
        ]
        for each, _ in self._gradients:
            each.grad = None

    def put_back(self) -> None:
        """Sets it as it was, once: the state of the optimizer is not copied again."""
        # Into the same objects: a handle of a hook holds on to the registry it was put in.
        for now, kept in self._entries:
            now.clear()
            now.update(kept)
        for container, contents in self._containers:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(contents)
        with torch.no_grad():
            for tensor, value, requires_grad in self._values:
                if tensor.is_leaf:
                    tensor.requires_grad_(requires_grad)
                tensor.data.copy_(value)
        for tensor, gradient in self._gradients:
            tensor.grad = gradient
        for optimizer, state in zip(self._optimizers, self._states, strict=True):
            optimizer.state.clear()
            optimizer.state.update(state)


@contextmanager
def restored(modules: list[nn.Module], optimizer: Optimizer | None) -> Iterator[None]:
    """Puts everything of some modules and their optimizer back, into the same objects."""
    before = Snapshot(modules, optimizer)
    try:
        yield
    finally:
        before.put_back()


def _wrapped(optimizer: Optimizer | None) -> Iterator[Optimizer]:
    """An optimizer, and those that it makes its steps with."""
    found: list[Any] = [optimizer]
    for each in found:
        if isinstance(each, Optimizer):
            yield each
            inner = (value for value in vars(each).values() if isinstance(value, Optimizer))
            found.extend(value for value in inner if not any(value is known for known in found))


def _tensors(attributes: list[Any], containers: list[Any]) -> Iterator[Tensor]:
    """Parameters, buffers and tensors that are plain attributes."""
    held = [value for _, kept in attributes for value in kept.values()]
    held += [value for _, kept in containers if isinstance(kept, dict) for value in kept.values()]
    yield from (value for value in held if isinstance(value, Tensor))
