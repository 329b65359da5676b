"""From what users call data to batches, and from a batch to a call of the model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from gradcheckup.errors import DataError
from gradcheckup.nesting import rebuilt, tensors
from gradcheckup.tracebacks import one_line, user_traceback

TARGET_KEYS = ("labels", "label", "targets", "target", "y")
"""Keys under which a mapping carries its targets."""


class Taken(tuple[Any, ...]):
    """Batches, to be taken again: a plain tuple of tensors would be one batch."""

    __slots__ = ()


def take(data: Any, count: int, most_bytes: float = math.inf) -> tuple[Taken, tuple[str, ...]]:
    """Up to `count` batches, and what had to be assumed to get them.

    A tensor, a mapping, a tuple or a list that starts with a tensor is one batch; a Dataset is
    loaded in batches of 32; everything else is iterated, once.

    Args:
        data: What the user calls data, or batches that were taken already.
        count: The most to take.
        most_bytes: Stop when the tensors hold this much, however many batches that are.

    Raises:
        DataError: There is no batch, or one holds NaN or Inf.
    """
    notes: tuple[str, ...] = ()
    if _is_batch(data):
        batches = [data]
    else:
        if isinstance(data, Dataset):
            shuffle = not isinstance(data, IterableDataset)
            notes = ("batches of 32 from the dataset",)
            data = DataLoader(data, batch_size=32, shuffle=shuffle)
        if not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
            raise DataError(
                "expected a batch (inputs, targets) or an iterable of batches, got "
                f"{type(data).__name__}"
            )
        batches = _iterated(data, count, most_bytes)
        if not batches:
            raise DataError(
                f"expected at least one batch, but the {type(data).__name__} is empty: check "
                "the dataset's length, drop_last and the batch size"
            )
    for index, batch in enumerate(batches):
        _check_tensors(batch, index)
        _check_finite(batch, index)
    return Taken(batches), notes


def _is_batch(data: Any) -> bool:
    if isinstance(data, Taken):
        return False
    if isinstance(data, (Tensor, Mapping)):
        return True
    if isinstance(data, tuple):
        return len(data) > 0
    return isinstance(data, list) and len(data) > 0 and isinstance(data[0], Tensor)


def _iterated(data: Iterable[Any], count: int, most_bytes: float) -> list[Any]:
    batches: list[Any] = []
    held = 0
    with _generators_kept(data):
        try:
            for batch in islice(iter(data), count):
                batches.append(batch)
                held += sum(each.numel() * each.element_size() for each in tensors(batch))
                if held >= most_bytes:
                    break
        except Exception as error:
            raise DataError(
                f"the data failed after {len(batches)} batches: {one_line(error)}",
                traceback_text=user_traceback(error),
            ) from error
    return batches


@contextmanager
def _generators_kept(data: Any) -> Iterator[None]:
    """Leaves the random generators of a loader where they were."""
    batch_sampler = getattr(data, "batch_sampler", None)
    inner = getattr(batch_sampler, "sampler", None)
    owners = {
        id(each): each for each in (data, getattr(data, "sampler", None), batch_sampler, inner)
    }.values()
    found = [getattr(owner, "generator", None) for owner in owners]
    states = [(each, each.get_state()) for each in found if isinstance(each, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _check_tensors(batch: Any, index: int) -> None:
    """Refuses arrays where torch needs tensors, and batches without samples or values."""
    if any(tensor.is_meta for tensor in tensors(batch)):
        raise DataError(
            f"expected tensors with values, but batch {index} has one on the meta device: make it "
            "on the model's device"
        )
    sizes = [tensor.numel() for tensor in tensors(batch)]
    if sizes and not any(sizes):
        raise DataError(f"expected samples, but batch {index} is empty: every tensor has size 0")
    parts = batch.values() if isinstance(batch, Mapping) else batch
    for part in parts if isinstance(batch, (Mapping, tuple, list)) else (batch,):
        if isinstance(part, np.ndarray):
            raise DataError(
                f"expected tensors in a batch, got a numpy array of shape {part.shape} and "
                f"{part.dtype}: use torch.as_tensor(array), as float32 where the model is"
            )


def _check_finite(batch: Any, index: int) -> None:
    for tensor in tensors(batch):
        numeric = tensor.is_floating_point() or tensor.is_complex()
        if numeric and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise DataError(
                f"expected finite data, but batch {index} has {bad} NaN or Inf among the "
                f"{tensor.numel()} values of a tensor of shape {tuple(tensor.shape)}: "
                "clean the data first"
            )


def copied(batch: Any, device: torch.device) -> Any:
    """A copy of a batch on a device, so that in-place operations of a model spare the user's."""

    def change(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.detach().clone().to(device).requires_grad_(leaf.requires_grad)
        # A PackedSequence, a graph batch: what can move itself.
        return leaf.to(device) if callable(getattr(leaf, "to", None)) else leaf

    return rebuilt(change, batch)


def split(batch: Any, model: nn.Module, *, keep_targets: bool) -> tuple[Any, Any]:
    """Inputs and targets of a batch; targets are None where it has none.

    Args:
        batch: Tensor, mapping, or sequence whose last element is the targets.
        model: Whose `forward` decides which keys of a mapping it takes.
        keep_targets: Leave targets in a mapping: the model computes its own loss from them.
    """
    if isinstance(batch, Mapping):
        key = next((name for name in TARGET_KEYS if name in batch), None)
        taken = keep_targets and key is not None and key in _keywords(model, batch)
        taking = {name: value for name, value in batch.items() if taken or name != key}
        return taking, batch[key] if key else None
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        inputs: Any = batch[:-1]
        targets = batch[-1]
        return inputs[0] if len(inputs) == 1 else tuple(inputs), targets
    if isinstance(batch, (tuple, list)):
        return batch[0], None
    return batch, None


def call(model: nn.Module, inputs: Any) -> Any:
    """The model's output: mappings become keywords, sequences positional arguments if they fit."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        try:
            inspect.signature(model.forward).bind(*inputs)
        except (TypeError, ValueError):
            return model(inputs)
        return model(*inputs)
    return model(inputs)


def _keywords(model: nn.Module, batch: Mapping[str, Any]) -> set[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return set(batch)
    return {each.name for each in parameters}
