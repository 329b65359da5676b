"""What a sampled step says, against autograd by hand and weights before and after."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradcheckup


def _net(depth: int = 3) -> nn.Sequential:
    layers = [each for _ in range(depth) for each in (nn.Linear(6, 6), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(6, 2))


def _by_hand(model: nn.Sequential, data: Tensor) -> tuple[float, dict[str, float]]:
    """Loss and ||dL/dy|| of each module of a twin in float64."""
    twin = copy.deepcopy(model).double()
    outputs = {}
    values = data.double()
    for name, module in twin.named_children():
        values = outputs[name] = module(values)
    loss = values.square().mean()
    gradients = torch.autograd.grad(loss, list(outputs.values()))
    norms = [float(each.norm()) for each in gradients]
    return loss.item(), dict(zip(outputs, norms, strict=True))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, data: Tensor) -> None:
    optimizer.zero_grad()
    model(data).square().mean().backward()
    optimizer.step()


def test_glances_and_full_looks_read_the_gradient_of_each_layer() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = gradcheckup.watch(model, optimizer, every=2)
    expected = []
    for _ in range(8):
        data = torch.randn(5, 6)
        expected.append(_by_hand(model, data))
        _step(model, optimizer, data)
    recording = monitor.report().recording
    history = recording.history
    assert history is not None
    assert history.steps == 8
    assert history.layers == ("0", "2", "4", "6")
    assert [each.index for each in history.samples] == [0, 2, 4, 6]
    for sample in history.samples:
        loss, norms = expected[sample.index]
        assert sample.loss == pytest.approx(loss, rel=1e-5)
        assert sample.norms == pytest.approx([norms[name] for name in history.layers], rel=1e-4)
        assert sample.end_to_end_ratio == pytest.approx(norms["0"] / norms["4"], rel=1e-4)
    assert [step.index for step in recording.steps] == [0, 2, 6]
    for step in recording.steps:
        loss, norms = expected[step.index]
        assert step.loss == pytest.approx(loss, rel=1e-5)
        read = {layer.name: layer.gradient_norm for layer in step.layers}
        assert read == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize(("every", "depth", "apart"), [(1, 12, 4), (2, 12, 2), (1, 7, 1)])
def test_layers_of_a_deep_net_take_turns_where_steps_are_close(
    every: int, depth: int, apart: int
) -> None:
    """Each is read in a quarter of all steps, the ends of the end-to-end ratio always.

    The twin computes in float64, so that what float32 loses on the way down counts as well.
    """
    model = _net(depth)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, optimizer, every=every)
    expected = []
    for _ in range(64 * every):
        data = torch.randn(5, 6)
        expected.append(_by_hand(model, data)[1])
        _step(model, optimizer, data)
    history = monitor.report().recording.history
    assert history is not None
    full = {number for number in range(64) if number + 1 in (1, 2, 4, 8, 16, 32, 64)}
    read: dict[str, list[int]] = {name: [] for name in history.layers}
    assert len(read) == depth + 1
    for number, sample in enumerate(history.samples):
        by_hand = expected[sample.index]
        for name, norm in zip(history.layers, sample.norms, strict=True):
            if norm is not None:
                assert norm == pytest.approx(by_hand[name], rel=1e-3)
                read[name].append(number)
        last_hidden = history.layers[-2]
        ratio = by_hand["0"] / by_hand[last_hidden]
        assert sample.end_to_end_ratio == pytest.approx(ratio, rel=1e-3)
    glances = 64 - len(full)
    for name, when in read.items():
        assert full <= set(when)
        share = 1 if name in {"0", last_hidden} else apart
        assert len(when) - len(full) == pytest.approx(glances / share, abs=3)
        assert max(after - before for before, after in pairwise(when)) < 2 * share


@pytest.mark.parametrize(("every", "apart"), [(1, 128), (2, 128), (3, 126), (4, 128), (5, 160)])
def test_full_looks_are_128_steps_apart_where_steps_are_close(every: int, apart: int) -> None:
    """Or 32 sampled ones, where these are further apart than four steps."""
    model = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    looks = []
    with gradcheckup.watch(model, optimizer, every=every) as monitor:
        monitor.on_sample(lambda each: looks.append(each.run.trace.steps[-1].index))
        for _ in range(3 * apart):
            _step(model, optimizer, torch.randn(5, 6))
    indexes = sorted(set(looks))
    assert indexes[:4] == [0, every, 3 * every, 7 * every]
    assert max(after - before for before, after in pairwise(indexes)) == apart
    assert [each + every for each in indexes[-3:]] == [apart, 2 * apart, 3 * apart]


def test_a_full_look_is_the_step_that_diagnose_measures() -> None:
    """Layers and parameters, field by field; the model is in the same state before both."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.Sigmoid(),
        nn.Linear(16, 3),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batch = torch.randn(12, 6), torch.randint(3, (12,))
    loss_function = nn.CrossEntropyLoss()
    diagnosed = gradcheckup.diagnose(
        model, [batch], loss_function, optimizer=optimizer, steps=1
    ).recording.steps[0]
    monitor = gradcheckup.watch(model, optimizer)
    optimizer.zero_grad()
    loss_function(model(batch[0]), batch[1]).backward()
    optimizer.step()
    (watched,) = monitor.report().recording.steps
    assert watched.loss == pytest.approx(diagnosed.loss, rel=1e-6)
    assert watched.reference == diagnosed.reference
    assert len(watched.layers) == len(diagnosed.layers) > 5
    for one, other in zip(watched.layers, diagnosed.layers, strict=True):
        assert _numbers(one) == pytest.approx(_numbers(other), rel=1e-5)
        assert one.key == other.key
    for was, now in zip(watched.parameters, diagnosed.parameters, strict=True):
        assert _numbers(was) == pytest.approx(_numbers(now), rel=1e-5)


def _numbers(record: Any) -> dict[str, float]:
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return {name: each for name, each in values.items() if isinstance(each, (float, int))}


@pytest.mark.parametrize("steps", [1, 2])
def test_a_layer_whose_parameters_another_uses_was_called_at_the_first_look(steps: int) -> None:
    """Attention multiplies by the weights of its `out_proj`, which is never called itself."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.idle, self.last = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.attention(x, x, x)[0].mean(1))
            return out

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        for _ in range(steps):
            _step(model, optimizer, torch.randn(5, 4, 8))
    assert monitor.report().recording.never_called == ("idle",)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_update_ratios_are_those_of_the_weights_before_and_after(kind: Any) -> None:
    """Exact for small parameters, within a few per cent for those of which some is looked at."""
    model = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 150), nn.Linear(150, 4))
    optimizer = kind(model.parameters(), lr=1e-3)
    before = {
        name: each.detach().double() for name, each in copy.deepcopy(model).named_parameters()
    }
    monitor = gradcheckup.watch(model, optimizer)
    _step(model, optimizer, torch.randn(32, 300))
    (step,) = monitor.report().recording.steps
    for record in step.parameters:
        was, now = (
            before[record.name],
            dict(model.named_parameters())[record.name].detach().double(),
        )
        precision = 1e-5 if was.numel() <= 4096 else 0.1
        assert record.weight_norm == pytest.approx(float(was.norm()), rel=1e-5)
        assert record.update_norm == pytest.approx(float((now - was).norm()), rel=precision)
        gradient = dict(model.named_parameters())[record.name].grad
        assert gradient is not None
        assert record.gradient_norm == pytest.approx(float(gradient.double().norm()), rel=1e-5)


def test_rows_without_a_gradient_do_not_hide_the_update() -> None:
    """An embedding of which a step touches few rows."""
    model = nn.Sequential(nn.Embedding(5000, 16), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, optimizer)
    weight = model[0].weight
    before = weight.detach().clone()
    _step(model, optimizer, torch.tensor([3]))
    record = monitor.report().recording.steps[0].parameters[0]
    true = float((weight.detach() - before).norm())
    assert true > 0
    assert record.update_norm is None or record.update_norm == pytest.approx(true, rel=0.3)


@pytest.mark.parametrize("width", [64, 65, 128, 512])
def test_a_sample_of_a_matrix_sees_all_its_columns_and_rows(width: int) -> None:
    """Where columns or rows learn at different rates, no multiple of the width is met."""
    for pattern in (
        torch.arange(width).float().expand(600, width),
        torch.arange(600.0)[:, None].expand(600, width),
        (torch.arange(width) % 8 == 0).float().expand(600, width),
    ):
        weight = nn.Parameter(torch.randn(600, width))
        model = nn.Module()
        model.weight = weight
        model.forward = lambda factor, weight=weight: weight * factor
        optimizer = torch.optim.SGD([weight], lr=1e-3)
        before = weight.detach().clone()
        monitor = gradcheckup.watch(model, optimizer)
        model(pattern).sum().backward()
        optimizer.step()
        record = monitor.report().recording.steps[0].parameters[0]
        true = float((weight.detach() - before).norm())
        assert record.update_norm == pytest.approx(true, rel=0.05)
