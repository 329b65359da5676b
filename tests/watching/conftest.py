"""What tests of watching share: a process without the monitors of the tests before."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Monitors that a test forgot are gone before the next: garbage, as in a notebook."""
    _collect()
    yield
    _collect()


def _collect() -> None:
    if (
        _global_optimizer_post_hooks
        or "gradcheckup" in torch.autograd.backward.__code__.co_filename
    ):
        gc.collect()
