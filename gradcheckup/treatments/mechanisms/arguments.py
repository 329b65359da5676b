"""The first tensor among the arguments of a call, by position or by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of a call."""


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The input of a layer, however it was handed over; None where there is none."""
    return next((each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)), None)


def with_first(args: tuple[Any, ...], kwargs: dict[str, Any], tensor: Tensor) -> Call:
    """The arguments with a tensor in the place of the first one."""
    old = first_tensor(args, kwargs)
    changed = {key: tensor if each is old else each for key, each in kwargs.items()}
    return tuple(tensor if each is old else each for each in args), changed
