"""The samples of some batches in another order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, TypeVar

import torch
from torch import Tensor

from gradcheckup.nesting import rebuilt

_Each = TypeVar("_Each")


def reordered(these: Sequence[_Each], seed: int) -> list[_Each]:
    """The same ones in another order, which depends on the seed alone."""
    return Random(seed).sample(these, len(these))  # noqa: S311 - nothing to do with security


def remixed(batches: Sequence[Any], seed: int) -> Sequence[Any] | None:
    """The samples of some batches, in batches of the same sizes but each among others.

    Args:
        batches: Their tensors have the samples first, the same number in each tensor of a batch.
        seed: Of the order.

    Returns:
        None where it cannot be told what a sample is: there is something else than tensors, or
        these are not alike.
    """
    rows: list[list[Any]] = []
    for batch in batches:
        rows.append([])
        rebuilt(rows[-1].append, batch)
    if not all(map(_are_samples, rows)):
        return None
    if len({tuple((each.shape[1:], each.dtype, each.device) for each in row) for row in rows}) > 1:
        return None
    sizes = [len(row[0]) for row in rows]
    places = torch.tensor(reordered(range(sum(sizes)), seed))
    columns = [
        torch.split(
            torch.cat([each.detach() for each in column])[places.to(column[0].device)], sizes
        )
        for column in zip(*rows, strict=True)
    ]
    taken = zip(*columns, strict=True)
    return [_filled(batch, iter(row)) for batch, row in zip(batches, taken, strict=True)]


def _filled(batch: Any, tensors: Iterator[Tensor]) -> Any:
    """The same structure with the next tensors."""
    return rebuilt(lambda leaf: next(tensors).requires_grad_(leaf.requires_grad), batch)


def _are_samples(row: Sequence[Any]) -> bool:
    return bool(row) and all(
        isinstance(each, Tensor)
        and each.layout is torch.strided
        and not each.is_nested
        and each.shape[:1] == row[0].shape[:1] != ()
        for each in row
    )
