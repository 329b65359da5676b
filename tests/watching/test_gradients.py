"""The size of the gradient that an optimizer gets, against all of its elements in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradcheckup.watching.gradients import GradientSample


def exact(model: nn.Module) -> float:
    squares = [
        each.grad.double().pow(2).sum().item()
        for each in model.parameters()
        if each.grad is not None and each.ndim > 1
    ]
    return math.sqrt(sum(squares))


@pytest.mark.parametrize("width", [4, 256, 300])
def test_it_is_the_norm_of_all_weight_matrices(width: int) -> None:
    """Exact for small ones; of large ones a sample, whose columns differ by a factor of 100."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
    inputs = torch.randn(32, width) * torch.logspace(-1, 1, width)
    model(inputs).pow(2).mean().backward()
    found = GradientSample(model.parameters()).norm()
    assert found is not None
    assert found.item() == pytest.approx(exact(model), rel=1e-5 if width == 4 else 0.2)


def test_layouts_that_are_not_contiguous_count_as_well() -> None:
    weight = nn.Parameter(torch.zeros(8, 16))
    weight.grad = torch.randn(16, 8).T
    found = GradientSample([weight]).norm()
    assert found is not None
    assert found.item() == pytest.approx(weight.grad.norm().item(), rel=1e-5)


def test_without_a_gradient_there_is_no_size() -> None:
    model = nn.Linear(3, 3)
    assert GradientSample(model.parameters()).norm() is None
    model.weight.grad = torch.zeros(3, 3).to_sparse()
    assert GradientSample(model.parameters()).norm() is None
