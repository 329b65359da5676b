"""Loops that call parts of the model, or train inside of a closure."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup


class _Coder(nn.Module):
    """An autoencoder that has no forward: its parts are called one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 12), nn.Sigmoid(), nn.Linear(12, 4), nn.Tanh())
        self.decoder = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8))

    def loss(self, data: Tensor) -> Tensor:
        return F.mse_loss(self.decoder(self.encoder(data)), data)


def _by_hand(model: _Coder, data: Tensor) -> dict[str, float]:
    """||dL/dy|| of each layer of a twin in float64."""
    twin = copy.deepcopy(model).double()
    values, outputs = data.double(), {}
    for part in ("encoder", "decoder"):
        for name, module in twin.get_submodule(part).named_children():
            values = outputs[f"{part}.{name}"] = module(values)
    gradients = torch.autograd.grad(F.mse_loss(values, data.double()), list(outputs.values()))
    norms = [float(each.norm()) for each in gradients]
    return dict(zip(outputs, norms, strict=True))


def test_parts_that_are_called_one_by_one_are_one_pass() -> None:
    """Also with passes without gradients in between, as a validation has them."""
    model = _Coder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    expected = []
    for _ in range(6):
        data = torch.randn(16, 8)
        expected.append(_by_hand(model, data))
        with torch.no_grad():
            model.loss(torch.randn(3, 8))
        optimizer.zero_grad()
        model.loss(data).backward()
        with torch.no_grad():
            model.loss(torch.randn(3, 8))
        optimizer.step()
    report = monitor.report()
    assert [step.index for step in report.steps] == [0, 1, 3]
    for step in report.steps:
        read = {layer.name: layer.gradient_norm for layer in step.layers}
        assert read == pytest.approx(expected[step.index], rel=1e-4)
        assert all(layer.call == 0 and layer.shape[0] == 16 for layer in step.layers)
    history = report.recording.history
    assert history is not None
    assert len(history.samples) == 6
    for sample in history.samples:
        norms = [expected[sample.index][name] for name in history.layers]
        assert sample.norms == pytest.approx(norms, rel=1e-4)


def test_nothing_is_left_on_the_parts() -> None:
    model = _Coder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with gradcheckup.watch(model, optimizer, every=1):
        for _ in range(3):
            model.loss(torch.randn(4, 8)).backward()
            optimizer.step()
        model.loss(torch.randn(4, 8))
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_hooks_always_called


@pytest.mark.parametrize("clips", [False, True])
def test_gradients_of_a_closure_are_read_after_it(clips: bool) -> None:
    """`optimizer.step(closure)` tells of its begin before there are any."""
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    seen: list[dict[str, Tensor]] = []
    weights = [{name: each.detach().clone() for name, each in model.named_parameters()}]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.randn(5, 6)).square().mean()
        loss.backward()
        if clips:
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        seen.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        return loss

    for _ in range(4):
        optimizer.step(closure)  # type: ignore[arg-type]
        weights.append({name: each.detach().clone() for name, each in model.named_parameters()})
    changes = [
        {name: (after[name] - before[name]).norm() for name in before}
        for before, after in pairwise(weights)
    ]
    report = monitor.report()
    assert [step.index for step in report.steps] == [0, 1, 3]
    assert "GC501" not in {finding.code for finding in report.findings}
    for step in report.steps:
        for parameter in step.parameters:
            gradient = seen[step.index][parameter.name].norm()
            assert parameter.gradient_norm == pytest.approx(gradient.item(), rel=1e-5)
            change = changes[step.index][parameter.name]
            assert parameter.update_norm == pytest.approx(change.item(), rel=1e-4)
