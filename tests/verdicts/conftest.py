"""Real data for verdicts on real nets: scikit-learn's digits, in whatever form a net takes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

Batches = list[tuple[Tensor, Tensor]]


@functools.cache
def _pixels() -> tuple[Tensor, Tensor]:
    values, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(values, dtype=torch.float32)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    return pixels[order], torch.tensor(labels)[order]


def _digits(*shape: int, batch: int = 32, count: int = 8, tokens: bool = False) -> Batches:
    """Standardised pixels of this shape (64 in a row unless told), or their grey values 0 … 16."""
    pixels, labels = _pixels()
    inputs = pixels.long() if tokens else (pixels - pixels.mean()) / pixels.std()
    if shape:
        inputs = inputs.reshape(-1, *shape)
    starts = range(0, batch * count, batch)
    return [(inputs[k : k + batch].clone(), labels[k : k + batch].clone()) for k in starts]


def _recall(length: int, batch: int = 32, count: int = 8) -> Batches:
    """Sequences of noise; the first time step names the symbol, one of ten, that is the target."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        labels = torch.randint(10, (batch,), generator=generator)
        inputs = 0.3 * torch.randn(batch, length, 10, generator=generator)
        inputs[:, 0] = torch.nn.functional.one_hot(labels, 10).float()
        made.append((inputs, labels))
    return made


@pytest.fixture(scope="session")
def recall() -> Callable[..., Batches]:
    """`recall(100)`: a list of batches (sequences of 100 time steps, labels)."""
    return _recall


@pytest.fixture(scope="session")
def digits() -> Callable[..., Batches]:
    """`digits(1, 8, 8, batch=32, count=8)`: a list of batches (inputs, labels)."""
    return _digits
