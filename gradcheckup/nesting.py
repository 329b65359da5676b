"""Tensors in the nested structures that batches and outputs are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn


def parts(value: Any) -> Iterable[Any] | None:
    """What a mapping, a tuple, a list or a dataclass is made of; None of everything else."""
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (tuple, list)):
        return value
    if _is_record(value):
        return [getattr(value, each.name, None) for each in fields(value)]
    return None


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in it, in order."""
    if isinstance(value, Tensor):
        yield value
        return
    for each in parts(value) or ():
        yield from tensors(each)


def rebuilt(change: Callable[[Any], Any], value: Any) -> Any:
    """The same structure with other leaves: what has no parts, be it a tensor or not."""
    found = parts(value)
    if found is None:
        return change(value)
    changed = [rebuilt(change, each) for each in found]
    if isinstance(value, Mapping):
        return _with_entries(value, dict(zip(value, changed, strict=True)))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*changed)
    if isinstance(value, (tuple, list)):
        return type(value)(changed)
    twin = copy(value)
    for field, each in zip(fields(value), changed, strict=True):
        object.__setattr__(twin, field.name, each)  # also of a frozen one
    return twin


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same structure with other tensors."""
    return rebuilt(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, value)


def _is_record(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, (type, nn.Module))


def _with_entries(mapping: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    if type(mapping) is dict:
        return entries
    if not isinstance(mapping, MutableMapping):
        return type(mapping)(entries)  # type: ignore[call-arg] # as mappings are made
    twin = copy(mapping)  # with what it has beside its entries
    for key, each in entries.items():
        twin[key] = each
    return twin
