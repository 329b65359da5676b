"""What watching costs, counted in function calls, which do not depend on the machine's mood."""

from __future__ import annotations

import gc
import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

import gradcheckup

_FULL, _GLANCE = 28, 32
"""Steps of a run with `every=4` that are measured in full and at a glance."""


def _calls(depth: int, batch: int, *, watched: bool) -> dict[int, int]:
    """Function calls in both steps, of Python and of C."""
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(depth)), nn.Linear(8, 4))
    for each in model[:-1]:
        nn.init.eye_(each.weight)  # tiny gradients are summed in another way
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs, targets = torch.randn(batch, 8), torch.randint(4, (batch,))
    monitor = gradcheckup.watch(model, optimizer, every=4) if watched else nullcontext()
    gc.collect()
    counted = 0

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal counted
        counted += event in {"call", "c_call"}

    found = {}
    with monitor:
        for step in range(_GLANCE + 1):
            optimizer.zero_grad()
            counted, before = 0, sys.getprofile()
            gc.disable()  # finalizers are called as well
            sys.setprofile(count)
            try:
                nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
            finally:
                sys.setprofile(before)
                gc.enable()
            found[step] = counted
    return found


def _added(depth: int, batch: int) -> tuple[int, int]:
    """What watching adds to a full look and to a glance."""
    plain, watched = (_calls(depth, batch, watched=each) for each in (False, True))
    return watched[_FULL] - plain[_FULL], watched[_GLANCE] - plain[_GLANCE]


@pytest.mark.parametrize("look", [0, 1])
def test_the_cost_grows_linearly_with_the_layers(look: int) -> None:
    _added(8, 4)  # what is imported and cached at the first time
    few, more, many = (_added(depth, 4)[look] for depth in (8, 16, 32))
    assert many - more == pytest.approx(2 * (more - few), rel=0.05)


def test_the_cost_does_not_grow_with_the_batch() -> None:
    _added(8, 4)
    assert _added(12, 256) == pytest.approx(_added(12, 4), rel=0.02)
