"""Nets at which a naive check cries wolf, each with what alarms it, measured by hand beside it.

Trained, converged, scheduled, scaled, shared: all of them learn or have learnt.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.optim import lr_scheduler

import gradcheckup

Batches = list[tuple[Tensor, Tensor]]
Digits = Callable[..., Batches]
CE = nn.CrossEntropyLoss()
SGD = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)


def mlp(*widths: int, norm: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    """He-initialised linear layers of these widths, ReLU (and a normalisation) between them."""
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise(widths):
        if layers:
            layers += [norm(before), nn.ReLU()] if norm else [nn.ReLU()]
        linear = nn.Linear(before, width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers.append(linear)
    return nn.Sequential(*layers)


class Residual(nn.Module):
    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def resnet() -> nn.Sequential:
    """The last BatchNorm of each block starts at 0."""
    stem = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    body = [Residual() for _ in range(4)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.stem, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
        self.encoder = nn.TransformerEncoder(layer, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.stem(x)).mean(dim=1))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def train(
    model: nn.Module,
    data: Batches,
    optimizer: torch.optim.Optimizer,
    steps: int,
    criterion: Callable[[Tensor, Tensor], Tensor] = CE,
    scheduler: Any = None,
) -> float:
    """Trains for some steps; the last loss."""
    for step in range(steps):
        inputs, targets = data[step % len(data)]
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if scheduler:
            scheduler.step()
    return loss.item()


def weight_gradients(model: nn.Module, batch: tuple[Tensor, Tensor], loss: Any) -> list[float]:
    """Norms by plain autograd, of matrices alone; `model` is left with them."""
    model.zero_grad()
    loss(model(batch[0]), batch[1]).backward()
    return [float(each.grad.norm()) for each in _matrices(model) if each.grad is not None]


def _matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    return (each for each in model.parameters() if each.ndim > 1)


def assert_healthy(model: nn.Module, data: Any, criterion: Any = CE, **settings: Any) -> None:
    """Not even a warning."""
    report = gradcheckup.diagnose(model, data, criterion, **settings)
    assert report.healthy, str(report)
    assert all(each.severity.value == "information" for each in report.findings), str(report)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Any]] = {
    "mlp": (lambda: mlp(64, 64, 64, 64, 10), (), ADAM),
    "resnet": (resnet, (1, 8, 8), functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
    "transformer": (Transformer, (8, 8), ADAM),
    "lstm": (Recurrent, (8, 8), functools.partial(torch.optim.Adam, lr=3e-3)),
}


# -- on the way, and there -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_a_net_in_mid_training(name: str, digits: Digits) -> None:
    torch.manual_seed(0)
    build, shape, make = NETS[name]
    model, data = build(), digits(*shape)
    optimizer = make(model.parameters())
    losses = []
    while not losses or losses[-1] > 0.7 * losses[0]:
        assert len(losses) < 30
        losses.append(sum(train(model, [batch], optimizer, 1) for batch in data))
    assert_healthy(model, data, optimizer=optimizer)


@pytest.mark.parametrize("name", NETS)
def test_a_converged_net(name: str, digits: Digits) -> None:
    torch.manual_seed(0)
    build, shape, make = NETS[name]
    model, data = build(), digits(*shape, count=2)
    optimizer = make(model.parameters())
    losses = [math.inf]
    while losses[-1] > 0.05:
        assert len(losses) < 120
        losses.append(max(train(model, [batch], optimizer, 1) for batch in data))
    assert_healthy(model, data, optimizer=optimizer)


def test_a_hinge_loss_that_is_met(digits: Digits) -> None:
    """All gradients are exactly 0, at the outputs as well: there is nothing left to ask for."""
    torch.manual_seed(0)
    model, data, hinge = mlp(64, 64, 64, 10), digits(count=4), nn.MultiMarginLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, data, optimizer, 400, hinge)
    assert weight_gradients(model, data[0], hinge) == [0.0, 0.0, 0.0]
    assert_healthy(model, data, hinge, optimizer=optimizer)


def test_a_fit_to_the_last_digit() -> None:
    """What is left of the gradient no longer changes a float32 weight."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    data = [(inputs, inputs @ torch.randn(4, 1))]
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert train(model, data, optimizer, 2000, nn.MSELoss()) < 1e-12
    before = model.weight.detach().clone()
    train(model, data, optimizer, 8, nn.MSELoss())
    assert torch.equal(model.weight, before)
    assert_healthy(model, data, nn.MSELoss(), optimizer=optimizer)


def test_a_classifier_that_is_sure_of_itself(digits: Digits) -> None:
    torch.manual_seed(0)
    model, data = mlp(64, 64, 64, 10), digits(count=4)
    train(model, data, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 250)
    model[-1].weight.data *= 20
    assert max(weight_gradients(model, data[0], CE)) < 1e-9
    assert_healthy(model, data, optimizer=SGD)


def test_a_sparse_trained_relu_net(digits: Digits) -> None:
    """Two of three activations are 0 and all units are of use to some sample."""
    torch.manual_seed(0)
    model, data, active = mlp(64, 128, 128, 128, 10), digits(), []
    handles = [
        each.register_forward_hook(lambda _, __, output: active.append(output))
        for each in model
        if isinstance(each, nn.ReLU)
    ]

    def sparse(outputs: Tensor, targets: Tensor) -> Tensor:
        penalty = 1e-3 * sum(each.sum(dim=1).mean() for each in active)
        active.clear()
        return CE(outputs, targets) + penalty

    assert train(model, data, ADAM(model.parameters()), 400, sparse) < 0.3
    model(data[0][0])
    assert min(float((each == 0).float().mean()) for each in active) > 0.6
    for handle in handles:
        handle.remove()
    for optimizer in (SGD, ADAM):
        assert_healthy(model, data, optimizer=optimizer)


def test_a_pruned_net(digits: Digits) -> None:
    """Nine of ten weights are held at 0; those left go on learning."""
    torch.manual_seed(0)
    model, data = mlp(64, 128, 128, 10), digits()
    train(model, data, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), 250)
    for layer in model:
        if isinstance(layer, nn.Linear):
            prune.l1_unstructured(layer, "weight", 0.9)
    assert_healthy(model, data, optimizer=SGD)


def test_a_trained_net_in_eval_mode(digits: Digits) -> None:
    torch.manual_seed(0)
    model, data = resnet(), digits(1, 8, 8, count=4)
    train(model, data, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), 80)
    assert_healthy(model.eval(), data, optimizer=SGD)


# -- schedules -----------------------------------------------------------------------------------

RATES: dict[str, Callable[[Any], Any]] = {
    "from_0": lambda each: lr_scheduler.LambdaLR(each, lambda step: min(1.0, step / 100)),
    "from_1e-8": lambda each: lr_scheduler.LinearLR(each, 1e-8, total_iters=100),
    "from_1e-3": lambda each: lr_scheduler.LinearLR(each, 1e-3, total_iters=100),
    "one_cycle": lambda each: lr_scheduler.OneCycleLR(each, 0.01, total_steps=100),
}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_warm_up(name: str, rate: str, digits: Digits) -> None:
    """The first steps of a warm-up move no weight, or next to none."""
    torch.manual_seed(0)
    build, shape, _ = NETS[name]
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    RATES[rate](optimizer)
    assert_healthy(model, digits(*shape), optimizer=optimizer)


@pytest.mark.parametrize("name", NETS)
def test_the_end_of_a_cosine_schedule(name: str, digits: Digits) -> None:
    torch.manual_seed(0)
    build, shape, make = NETS[name]
    model, data = build(), digits(*shape)
    optimizer = make(model.parameters())
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 60)
    train(model, data, optimizer, 60, scheduler=scheduler)
    assert optimizer.param_groups[0]["lr"] < 1e-12
    assert_healthy(model, data, optimizer=optimizer)


# -- left out, scaled, shared --------------------------------------------------------------------


class StochasticDepth(nn.Module):
    """Drops the branch for every other sample, with one mask for the whole row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.bernoulli(x.new_full((len(x), 1), 0.5)) if self.training else 0.5
        out: Tensor = x + kept * self.body(x) / 0.5
        return out


def test_stochastic_depth_by_sample(digits: Digits) -> None:
    torch.manual_seed(0)
    blocks = [StochasticDepth(48) for _ in range(8)]
    model = nn.Sequential(nn.Linear(64, 48), *blocks, nn.LayerNorm(48), nn.Linear(48, 10))
    assert_healthy(model, digits(), optimizer=ADAM)


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_dropout_of_nine_in_ten(optimizer: Any, digits: Digits) -> None:
    torch.manual_seed(0)
    hidden = [nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.9)]
    model = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.9), *hidden, nn.Linear(256, 10)
    )
    assert_healthy(model, digits(), optimizer=optimizer)


@pytest.mark.parametrize("scale", [2.0**16, 2.0**-16])
def test_a_scaled_loss(scale: float, digits: Digits) -> None:
    """2^16 is where torch.amp.GradScaler starts."""
    torch.manual_seed(0)
    model = mlp(64, 64, 64, 10)
    assert_healthy(model, digits(), lambda o, t: scale * CE(o, t), optimizer=ADAM)


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 32)
        self.bias = nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.encoder(x)), self.encoder.weight.t(), self.bias)


def test_an_encoder_that_is_its_own_decoder(digits: Digits) -> None:
    torch.manual_seed(0)
    data = [(x, x) for x, _ in digits()]
    assert_healthy(TiedAutoencoder(), data, nn.MSELoss(), optimizer=ADAM)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20_000, 16, sparse=True, padding_idx=0)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.embedding(x).mean(dim=1))
        return out


def test_a_sparse_embedding_with_padding(digits: Digits) -> None:
    torch.manual_seed(0)
    assert_healthy(Bag(), digits(tokens=True), optimizer=functools.partial(torch.optim.SGD, lr=1.0))


def test_zero_gamma_leaves_most_weights_without_a_gradient_at_first(digits: Digits) -> None:
    torch.manual_seed(0)
    model, data = resnet(), digits(1, 8, 8)
    # Both convolutions of all four blocks, not the stem nor the head.
    assert sum(norm == 0 for norm in weight_gradients(model, data[0], CE)) == 8
    assert_healthy(model, data, optimizer=SGD)
