"""Batches whose samples are mixed."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheckup.probe.mixing import remixed

Pair = namedtuple("Pair", ["x", "y"])  # noqa: PYI024 - as users write it


def numbered(sizes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Samples that know their number, in inputs and targets."""
    numbers = torch.arange(sum(sizes)).split(sizes)
    return [(each[:, None, None].float().expand(-1, 2, 3), each * 10) for each in numbers]


@pytest.mark.parametrize(
    "given",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: {"x": x, "y": y},
        lambda x, y: ((x, {"more": x}), y),
        Pair,
        lambda _, y: y,
    ],
)
def test_samples_keep_what_belongs_to_them(given: Any) -> None:
    sizes = (4, 4, 1, 3)
    batches = [given(x, y) for x, y in numbered(sizes)]
    found = remixed(batches, 0)
    assert found is not None
    assert [type(each) for each in found] == [type(each) for each in batches]
    numbers: list[int] = []
    for batch, size in zip(found, sizes, strict=True):
        leaves = list(_tensors(batch))
        assert [len(each) for each in leaves] == [size] * len(leaves)
        known = [each.flatten(1)[:, 0] if each.ndim > 1 else each / 10 for each in leaves]
        assert all(torch.equal(each.float(), known[0].float()) for each in known)
        numbers += known[0].int().tolist()
    assert sorted(numbers) == list(range(12))
    assert numbers != list(range(12))
    again = remixed(batches, 0)
    assert again is not None
    assert all(map(torch.equal, _all(found), _all(again)))


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, dict) else batch
    return [each for part in parts for each in _tensors(part)]


def _all(batches: Any) -> list[Tensor]:
    return [each for batch in batches for each in _tensors(batch)]


def test_what_asks_for_a_gradient_asks_on() -> None:
    batches = [(x.clone().requires_grad_(), y) for x, y in numbered((2, 2))]
    found = remixed(batches, 0)
    assert found is not None
    for x, y in found:
        assert x.requires_grad
        assert x.is_leaf
        assert not y.requires_grad


@pytest.mark.parametrize(
    "batches",
    [
        [torch.ones(())],
        [(torch.ones(4, 2), "a name")],
        [(torch.ones(4, 2), None)],
        [(torch.ones(7, 4, 2), torch.ones(4))],
        [(torch.ones(4, 2), torch.ones(4)), (torch.ones(4, 3), torch.ones(4))],
        [(torch.ones(4, 2), torch.ones(4)), (torch.ones(4, 2), torch.ones(4).long())],
        [(torch.ones(4, 2).to_sparse(), torch.ones(4))],
        [()],
    ],
    ids=["no samples", "text", "nothing", "time first", "ragged", "kinds", "sparse", "empty"],
)
def test_where_samples_cannot_be_told(batches: list[Any]) -> None:
    assert remixed(batches, 0) is None
