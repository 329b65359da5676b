"""Optimizers that follow a model through a treatment."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gradcheckup


def test_an_lbfgs_that_has_made_a_step_updates_new_parameters() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x, y = torch.randn(16, 4), torch.randn(16, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)

    def step(net: nn.Module, lbfgs: torch.optim.Optimizer) -> None:
        def closure() -> Tensor:
            lbfgs.zero_grad()
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            return loss

        lbfgs.step(closure)

    step(model, optimizer)
    result = gradcheckup.treat(model, "normalization", (x, y), nn.MSELoss(), optimizer=optimizer)
    norm = result.model[0][1]
    assert torch.equal(norm.weight, torch.ones(8))
    step(result.model, result.optimizer)
    assert (norm.weight != 1).all()
    assert norm.bias.all()
