"""What a watched run is said to be, by what became of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
Y = (X @ torch.randn(16, 4, generator=torch.Generator().manual_seed(2))).argmax(1)
Loss = Callable[[Tensor], Tensor]


def _net(depth: int = 2, outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [each for _ in range(depth - 1) for each in (nn.Linear(32, 32), nn.ReLU())]
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), *hidden, nn.Linear(32, outputs))


def _cross_entropy(outputs: Tensor) -> Tensor:
    return F.cross_entropy(outputs, Y)


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    loss: Loss = _cross_entropy,
    before: Callable[[int], object] = lambda _: None,
) -> float:
    for step in range(steps):
        before(step)
        optimizer.zero_grad()
        value = loss(model(X))
        value.backward()
        optimizer.step()
    return value.item()


# -- nets that have learnt ------------------------------------------------------------------------


def test_a_hinge_loss_that_is_met_is_no_fault() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with gradcheckup.watch(model, optimizer, every=1, stop_on="critical") as monitor:
        left = _train(model, optimizer, 400, lambda outputs: F.multi_margin_loss(outputs, Y))
    assert left == 0
    assert monitor.report().healthy, str(monitor.report())


def test_a_fit_to_the_last_digit_is_no_fault() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradcheckup.watch(model, optimizer, every=10) as monitor:
        left = _train(model, optimizer, 2000, lambda outputs: F.mse_loss(outputs, X[:, :1]))
    assert left < 1e-11
    assert monitor.report().healthy, str(monitor.report())


def test_batches_that_a_loop_leaves_out_by_itself_are_not_judged() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        for step in range(60):
            optimizer.zero_grad(set_to_none=False)
            inputs = X * float("nan") if step % 7 == 2 else X
            _cross_entropy(model(inputs)).backward()
            norms = [each.grad.norm() for each in model.parameters() if each.grad is not None]
            if bool(torch.stack(norms).isfinite().all()):
                optimizer.step()
    assert _cross_entropy(model(X)) < 0.5
    report = monitor.report()
    assert report.healthy, str(report)
    assert report.recording.history is not None
    assert report.recording.history.first_bad is None


@pytest.mark.parametrize("every", [1, 3])
def test_gradients_that_the_loop_lets_go_of_were_there(every: int) -> None:
    """As where the optimizer runs in the backward pass, parameter by parameter."""
    model = _net()
    before = _cross_entropy(model(X)).item()
    with gradcheckup.watch(model, every=every) as monitor:
        for _ in range(80):
            _cross_entropy(model(X)).backward()
            with torch.no_grad():
                for each in model.parameters():
                    if each.grad is not None:
                        each.sub_(0.2 * each.grad)
                    each.grad = None
            monitor.step()
    assert _cross_entropy(model(X)) < 0.7 * before
    assert not monitor.report().findings


# -- nets that were harmed on the way -------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 10])
def test_a_net_that_dies_in_mid_run_is_found_and_since_when(every: int) -> None:
    model = _net(depth=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def kill(step: int) -> None:
        if step == 35:
            with torch.no_grad():
                model.get_parameter("4.bias").sub_(50)

    with gradcheckup.watch(model, optimizer, every=every) as monitor:
        _train(model, optimizer, 300, before=kill)
    report = monitor.report()
    assert not report.healthy
    told = [each for finding in report.findings for each in finding.walk()]
    (silent,) = (each for each in told if each.code == "GC104")
    assert silent.steps[0] == min(step.index for step in report.steps if step.index >= 35)


def test_where_a_nan_arose_is_not_told_if_nobody_looked() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = 0

    def loss(outputs: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return _cross_entropy(outputs) * (float("nan") if steps == 38 else 1.0)

    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        _train(model, optimizer, 200, loss)
    report = monitor.report()
    assert report.findings[0].cause is None
    text = " ".join(str(report).split())
    assert "The first NaN or Inf came at step 37, of which gradients alone were read." in text
    assert "where it arose is not known" in text


@pytest.mark.parametrize("every", [1, 3, 10])
def test_why_a_run_diverged_is_still_known_long_after(every: int) -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=30.0, momentum=0.9)
    targets = F.one_hot(Y, 4).float()
    with gradcheckup.watch(model, optimizer, every=every) as monitor:
        _train(model, optimizer, 150, lambda outputs: F.mse_loss(outputs, targets))
    report = monitor.report()
    assert report.findings[0].cause == "learning-rate"
    assert report.findings[0].steps[0] <= 10
    assert "NaN×" not in str(report)


def test_what_is_frozen_now_is_told() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[0].requires_grad_(False)

    def swap(step: int) -> None:
        if step == 40:
            model[0].requires_grad_(True)
            model[2].requires_grad_(False)

    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        _train(model, optimizer, 100, before=swap)
    (found,) = (each for each in monitor.report().findings if each.code == "GC502")
    assert found.layers == ("2.weight", "2.bias")


def test_an_optimizer_that_takes_over_is_told_of() -> None:
    model = _net()
    first, second = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    with gradcheckup.watch(model, first, every=1) as monitor:
        _train(model, first, 5)
        assert not monitor.report().assumptions
        _train(model, second, 20)
    (note,) = monitor.report().assumptions
    assert note.startswith("20 steps of another optimizer of the model, SGD, are not counted")


def test_an_optimizer_inside_of_another_is_no_stranger() -> None:
    class Sharp(torch.optim.Optimizer):
        """As in sharpness-aware minimisation: the update is that of a plain optimizer."""

        def __init__(self, parameters: Any) -> None:
            self.plain = torch.optim.SGD(parameters, lr=0.1)
            super().__init__(self.plain.param_groups, {})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.plain.step(closure)

    model = _net()
    optimizer = Sharp(list(model.parameters()))
    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        _train(model, optimizer, 8)
    assert monitor.steps == 8
    assert not monitor.report().assumptions


@pytest.mark.parametrize("together", [True, False])
def test_layers_of_a_later_backward_pass_are_told_of(together: bool) -> None:
    """The first loss is that of a small head of its own; in the sum of both, all is measured."""
    trunk, head = _net(depth=4), nn.Linear(16, 4)
    model = nn.ModuleDict({"trunk": trunk, "head": head})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        for _ in range(8):
            optimizer.zero_grad()
            losses = [_cross_entropy(head(X)), _cross_entropy(trunk(X))]
            for loss in [torch.stack(losses).sum()] if together else losses:
                loss.backward()
            optimizer.step()
    told = [each for each in monitor.report().assumptions if "later backward pass" in each]
    assert bool(told) is not together
    assert all(each.startswith("the gradient of trunk.0 and 4 more comes") for each in told)


def test_micro_batches_are_not_told_of() -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        for _ in range(8):
            optimizer.zero_grad()
            for part in X.view(4, 4, 4, 16):
                model(part).square().mean().backward()
            optimizer.step()
    assert not monitor.report().assumptions


# -- guests of a training -------------------------------------------------------------------------


def test_an_alarm_that_raises_ends_no_training() -> None:
    model = nn.Sequential(*(each for _ in range(12) for each in (nn.Linear(16, 16), nn.Sigmoid())))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def alarm(_: gradcheckup.Finding) -> None:
        raise ConnectionError("the server is away")

    monitor = gradcheckup.watch(model, optimizer, every=1, on_finding=alarm)
    with pytest.warns(RuntimeWarning, match="calls alarm no more.*the server is away"):
        _train(model, optimizer, 20)
    assert monitor.steps == 20
    assert not monitor.closed


# Torch warns of TorchScript itself, by either class.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_part_that_takes_no_hooks_is_left_out() -> None:
    inner = torch.jit.script(nn.Sequential(nn.Linear(32, 32), nn.ReLU()))
    model = nn.Sequential(nn.Linear(16, 32), inner, nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        _train(model, optimizer, 8)
    assert [layer.name for layer in monitor.report().layers] == ["0", "2"]
    assert monitor.failure is None
    hooks = [(each._forward_hooks, each._forward_pre_hooks) for each in model.modules()]
    assert not [each for both in hooks for each in both if each]
    report = gradcheckup.diagnose(model, (X, Y), nn.CrossEntropyLoss())
    assert report.healthy
    assert "1 is TorchScript: its layers are not seen" in report.assumptions


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
# Python 3.12 warns of forks beside threads, which torch has.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_does_not_write_to_the_log(tmp_path: Path) -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    log = tmp_path / "run.jsonl"
    with gradcheckup.watch(model, optimizer, every=1, log=log):
        _train(model, optimizer, 3)
        child = os.fork()
        if child == 0:
            _train(model, optimizer, 4)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        _train(model, optimizer, 3)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["sample"]["index"] for line in lines if "sample" in line] == list(range(6))
