"""What peers are shown: the record that their own code would have made of the same training."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import networks, tasks
from benchmarks.cases import OPTIMIZERS, PROBE_STEPS, Case
from benchmarks.peers import autotrainer, dlcheck, record, torchmortem


def case(build: functools.partial[nn.Module], optimizer: str = "sgd-0.01") -> Case:
    return Case(
        family="mlp",
        index=0,
        architecture={"net": "by hand"},
        optimizer=optimizer,
        make_optimizer=OPTIMIZERS[optimizer],
        task=tasks.digits(),
        build=build,
    )


def _net(activation: type[nn.Module]) -> nn.Module:
    return networks.mlp([64, 64, 64, 10], activation)


def _tiny(activation: type[nn.Module]) -> nn.Module:
    """Hidden units near 0: |y| of a tanh averages far below DLCheck's .05."""
    model = networks.mlp([64, 64, 64, 10], activation)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            for each in layer.parameters():
                each.mul_(1e-3)
    return model


def _loud(factor: float) -> nn.Module:
    """Finite everywhere, with outputs so large that the cross-entropy is."""
    model = networks.mlp([64, 64, 10], nn.ReLU)
    with torch.no_grad():
        model[-1].weight.mul_(factor)
    return model


TANH = case(functools.partial(_net, nn.Tanh))


@pytest.fixture
def autopsies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The autopsies that are made, to look at what their collectors hold."""
    package = pytest.importorskip("torchmortem")
    made: list[Any] = []
    begin = package.Autopsy.__init__

    def init(self: Any, *args: Any, **settings: Any) -> None:
        begin(self, *args, **settings)
        made.append(self)

    monkeypatch.setattr(package.Autopsy, "__init__", init)
    return made


def _series(autopsy: Any, collector: str, name: str) -> list[float]:
    (state,) = (each.state() for each in autopsy._collectors if each.name == collector)
    return [float(row[0]) if row.ndim else float(row) for row in state.series[name]]


def test_torchmortem_holds_the_gradients_of_every_step(autopsies: list[Any]) -> None:
    torchmortem.judge(TANH, 0)
    torch.manual_seed(0)
    model = TANH.build()
    optimizer = TANH.make_optimizer(model.parameters())
    expected = []
    for (inputs, targets), _ in zip(TANH.task.batches(64, 0), range(8), strict=False):
        first = model[0](inputs)
        first.retain_grad()
        loss = nn.functional.cross_entropy(model[1:](first), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append((float(first.grad.norm()), loss.item()))
    (autopsy,) = autopsies
    norms, losses = _series(autopsy, "gradient", "grad_norm"), _series(autopsy, "loss", "loss")
    assert norms == pytest.approx([norm for norm, _ in expected], rel=1e-4)
    assert losses == pytest.approx([loss for _, loss in expected], rel=1e-4)


def test_torchmortem_hears_of_the_step_at_which_training_breaks(autopsies: list[Any]) -> None:
    def broken() -> nn.Module:
        model = _net(nn.Tanh)
        nn.init.constant_(model[0].bias, math.nan)
        return model

    torchmortem.judge(case(functools.partial(broken)), 0)
    (autopsy,) = autopsies
    (loss,) = _series(autopsy, "loss", "loss")
    assert math.isnan(loss)


def test_a_peer_that_fails_says_when(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("torchmortem")
    step = package.Autopsy.step

    def fail(self: Any, **values: Any) -> None:
        step(self, **values)
        if self._step_count == 3:
            raise RuntimeError

    monkeypatch.setattr(package.Autopsy, "step", fail)
    opinion = torchmortem.judge(TANH, 0)
    assert opinion.unhealthy is None
    assert opinion.findings == ["RuntimeError after step 3"]


def test_dlcheck_reports_no_saturation_as_its_original() -> None:
    net = case(functools.partial(_tiny, nn.Tanh))
    model, _ = record.begin(net, 0)
    inputs, _ = next(net.task.batches(64, 0))
    with torch.no_grad():  # what its unreachable check would object to
        assert float(model[:4](inputs).abs().mean()) < 0.05
    assert not any("saturated" in each for each in dlcheck.judge(net, 0).findings)


@pytest.mark.parametrize(("factor", "expected"), [(1.0, False), (1e7, True)])
def test_autotrainer_calls_a_loss_above_1e5_an_explosion(factor: float, expected: bool) -> None:
    net = case(functools.partial(_loud, factor))
    model, _ = record.begin(net, 0)
    with torch.no_grad():
        loss = float(net.task.criterion()(model(net.task.held_inputs), net.task.held_targets))
    assert math.isfinite(loss)
    assert (loss >= 1e5) is expected
    assert (autotrainer.judge(net, 0).findings == ["explode"]) is expected


def test_autotrainer_sees_what_the_last_update_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    plain = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *args: Any) -> None:
        nonlocal steps
        plain(self, *args)
        steps += 1
        if steps == PROBE_STEPS:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(math.nan)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    assert autotrainer.judge(TANH, 0).findings == ["explode"]
    assert steps == PROBE_STEPS
