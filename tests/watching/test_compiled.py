"""Compiled models and optimizers: sampled steps run in eager mode, all others as they were."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradcheckup
from gradcheckup.capture import can_be_eager

dynamo = pytest.importorskip("torch._dynamo")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    dynamo.reset()
    dynamo.utils.counters.clear()
    yield
    dynamo.reset()


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def _norms(model: nn.Sequential, data: Tensor) -> list[float]:
    twin = copy.deepcopy(model).double()
    hidden = twin[0](data.double())
    output = twin[2](twin[1](hidden))
    gradients = torch.autograd.grad(output.square().mean(), [hidden, output])
    return [each.norm().item() for each in gradients]


def _course(watched: str | None) -> dict[str, Any]:
    """Ten steps of a compiled model; watched from before it is compiled, from after it, or late."""
    dynamo.reset()
    dynamo.utils.counters.clear()
    torch.manual_seed(0)
    net = _net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor = gradcheckup.watch(net, optimizer, every=3) if watched == "before" else None
    model = torch.compile(net, backend="aot_eager")
    monitor = gradcheckup.watch(model, optimizer, every=3) if watched == "after" else monitor
    losses = []
    for step in range(8):
        if watched == "late" and step == 2:
            monitor = gradcheckup.watch(model, optimizer, every=3)
        data = torch.randn(4, 6)
        expected = _norms(net, data)
        optimizer.zero_grad()
        loss = model(data).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if monitor is not None and (monitor.steps - 1) % 3 == 0:
            history = monitor.report().recording.history
            assert history is not None
            assert history.samples[-1].index == monitor.steps - 1
            assert history.samples[-1].norms == pytest.approx(expected, rel=1e-4)
    if monitor is not None:
        monitor.close()
        assert monitor.failure is None
    counters = dynamo.utils.counters
    return {
        "losses": losses,
        "weights": [each.tolist() for each in net.parameters()],
        "compiled": dict(counters["frames"]),
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": dict(counters["graph_break"]),
    }


@pytest.mark.skipif(not can_be_eager(), reason="torch >= 2.6")
@pytest.mark.parametrize("watched", ["before", "after", "late"])
def test_a_compiled_model_is_watched_and_compiled_once(watched: str) -> None:
    plain = _course(None)
    assert plain["graphs"] == 1
    assert _course(watched) == plain


@pytest.mark.skipif(can_be_eager(), reason="torch < 2.6")
def test_a_compiled_model_is_refused_where_it_cannot_be_seen() -> None:
    net = _net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(gradcheckup.UsageError, match=r"torch 2\.6"):
        gradcheckup.watch(torch.compile(net, backend="eager"), optimizer)


@pytest.mark.skipif(not can_be_eager(), reason="torch >= 2.6")
def test_monitors_may_end_in_another_order_than_they_began() -> None:
    """The mode that compiled code runs in is one for all of the process."""
    first, second = _net(), _net()
    stance = torch._dynamo.eval_frame._stance
    one = gradcheckup.watch(first, torch.optim.SGD(first.parameters(), lr=0.1))
    other = gradcheckup.watch(second, torch.optim.SGD(second.parameters(), lr=0.1))
    one.close()
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    other.close()
    assert torch._dynamo.eval_frame._stance is stance
    forgotten = gradcheckup.watch(first, torch.optim.SGD(first.parameters(), lr=0.1))
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    del one, forgotten, first  # a model holds who watches it
    gc.collect()
    assert torch._dynamo.eval_frame._stance is stance


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not can_be_eager(), reason="torch >= 2.6")
def test_a_compiled_optimizer_step_goes_on_as_before() -> None:
    def train(watched: bool) -> list[float]:
        dynamo.reset()
        torch.manual_seed(0)
        model = _net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = gradcheckup.watch(model, optimizer, every=2) if watched else None
        step = torch.compile(optimizer.step, backend="eager")
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(torch.randn(4, 6)).square().mean()
            loss.backward()
            step()
            losses.append(loss.item())
        if monitor is not None:
            monitor.close()
            assert monitor.failure is None
        return losses

    assert train(watched=True) == train(watched=False)
