"""Exchanged activations against nets written by hand with the new ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup
from gradcheckup import treat

NEW: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "selu": lambda x: (
        1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (x.exp() - 1))
    ),
}
GAIN = {"relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / 1.0001), "gelu": 1.53345, "selu": 1.0}
"""1 / sqrt(E[phi(z)^2]): He et al. 2015, Klambauer et al. 2017; for GELU by integration."""

OLD: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.sigmoid": torch.sigmoid,
    "x.sigmoid": lambda x: x.sigmoid(),
    "F.sigmoid": F.sigmoid,
    "by name": lambda x: torch.sigmoid(input=x),
    "made on the fly": lambda x: nn.Sigmoid().forward(x),
    "in place": lambda x: x.clone().sigmoid_(),
    "tanh": lambda x: x.tanh(),
}


class Functional(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor], width: int = 64) -> None:
        super().__init__()
        self.act = act
        self.one, self.two = nn.Linear(12, width), nn.Linear(width, width)
        self.three, self.last = nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.three(self.act(self.two(self.act(self.one(x)))))))


def sequential() -> nn.Module:
    widths = (12, 64, 64, 64)
    layers: list[nn.Module] = []
    for index in range(3):
        layers += [nn.Linear(widths[index], widths[index + 1]), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(64, 4))


def by_hand(model: nn.Module, kind: str, x: Tensor) -> Tensor:
    """What the layers of a net give with another activation between them."""
    *hidden, last = [each for each in model.modules() if isinstance(each, (nn.Linear, nn.Conv2d))]
    for layer in hidden:
        x = NEW[kind](layer(x))
    return last(x)


def batch(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("way", ["module", *OLD])
def test_the_net_is_that_with_the_other_activation(kind: str, way: str) -> None:
    torch.manual_seed(0)
    model = sequential() if way == "module" else Functional(OLD[way])
    x = batch(32, 12)
    expected = copy.deepcopy(model)(x)
    treated = treat(model, f"activation:{kind}", x).model
    torch.testing.assert_close(treated(x), by_hand(treated, kind, x))
    assert torch.equal(model(x), expected)  # the class of the original is what it was


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("build", [sequential, lambda: Functional(torch.sigmoid)])
def test_weights_match_the_new_activation(kind: str, build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    x = batch(256, 12)
    treated = treat(build(), f"activation:{kind}", x).model
    first, *later, last = [each for each in treated.modules() if isinstance(each, nn.Linear)]
    outputs = first(x)
    assert float(outputs.detach().square().mean()) == pytest.approx(1, rel=1e-3)
    torch.testing.assert_close(outputs.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    for layer in (*later, last):
        std = float(layer.weight.detach().std())
        assert std == pytest.approx(GAIN[kind] / 8, rel=4 / math.sqrt(2 * layer.weight.numel()))
        assert not layer.bias.any()
    with torch.no_grad():  # the signal has the same size three layers on
        after = later[1](NEW[kind](later[0](NEW[kind](outputs))))
    assert 0.6 < float(after.square().mean()) < 1.6


def test_convolutions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Conv2d(16, 32, 3), nn.Tanh(), nn.Conv2d(32, 4, 1)
    )
    x = batch(8, 3, 8, 8)
    for kind in NEW:
        treated = treat(model, f"activation:{kind}", x).model
        torch.testing.assert_close(treated(x), by_hand(treated, kind, x))
        weight = treated[2].weight.detach()
        error = 4 / math.sqrt(2 * weight.numel())
        assert float(weight.std()) == pytest.approx(GAIN[kind] / 12, rel=error)


class Steps(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.cell, nn.RNN):
            return self.head(self.cell(x)[0][-1])
        state = x.new_zeros(x.shape[1], 8)
        for step in x:
            state = self.cell(step, state)
        return self.head(state)


@pytest.mark.parametrize("build", [lambda: nn.RNN(5, 8), lambda: nn.RNNCell(5, 8)])
def test_recurrences_begin_as_the_identity(build: Callable[[], nn.Module]) -> None:
    """Le, Jaitly & Hinton 2015: h <- max(W x + h, 0)."""
    torch.manual_seed(0)
    x = batch(6, 4, 5)
    treated = treat(Steps(build()), "activation", x).model
    inward = dict(treated.cell.named_parameters())
    weight = next(value for name, value in inward.items() if name.startswith("weight_ih"))
    state = torch.zeros(4, 8)
    for step in x:
        state = (step @ weight.T + state).clamp(min=0)
    torch.testing.assert_close(treated(x), treated.head(state))


@pytest.mark.parametrize("build", [lambda: nn.LSTMCell(5, 8), lambda: nn.GRUCell(5, 8)])
def test_gates_stay(build: Callable[[], nn.Module]) -> None:
    class Loop(Steps):
        def forward(self, x: Tensor) -> Tensor:
            state = None
            for step in x:
                state = self.cell(step, state)
            return self.head(state[0] if isinstance(state, tuple) else state)

    with pytest.raises(gradcheckup.TreatmentError, match="has its activations built in"):
        treat(Loop(build()), "activation", batch(6, 4, 5))


class Mixed(nn.Module):
    """A gate and an output activation of the same kind as the hidden ones."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.gate, self.two = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.gate(x)) * torch.sigmoid(self.one(x))
        return torch.sigmoid(self.last(torch.sigmoid(self.two(h))))


def test_gates_and_what_stands_at_the_loss_stay() -> None:
    x = batch(16, 12)
    net = treat(Mixed(), "activation", x).model
    gate = torch.sigmoid(net.gate(x))
    both = gate * torch.sigmoid(net.one(x))  # two sigmoids that multiply: each gates the other
    hidden = torch.relu(net.two(both))
    torch.testing.assert_close(net(x), torch.sigmoid(net.last(hidden)))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4)), "there is no activation between two"),
        (nn.Sequential(nn.Linear(12, 4), nn.Sigmoid()), "are gates or stand at the loss"),
        (nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)), "every hidden activation is"),
    ],
)
def test_where_it_does_not_apply_it_says_why(model: nn.Module, said: str) -> None:
    with pytest.raises(gradcheckup.TreatmentError, match=said):
        treat(model, "activation", batch(16, 12))


class GatedInTraining(Mixed):
    """The first sigmoid is a gate in training, and one between layers in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        if self.training:
            h = h * torch.sigmoid(self.gate(x))
        return self.last(torch.sigmoid(self.two(h)))


class GatedLoop(nn.Module):
    """In each step a gate and an activation, of one kind."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.state, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[1], 8)
        for step in x:
            state = torch.tanh(self.state(state)) + torch.sigmoid(self.gate(step)) * state
            state = torch.sigmoid(self.state(state))
        return self.last(state)


@pytest.mark.parametrize(
    ("model", "shape", "said"),
    [
        (GatedInTraining(), (16, 12), "other calls are made in eval mode than in training"),
        (GatedLoop(), (6, 4, 5), "which call is which depends on the number of steps"),
    ],
)
def test_gates_that_cannot_be_told_apart_are_not_guessed(
    model: nn.Module, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(gradcheckup.TreatmentError, match=said):
        treat(model, "activation", batch(*shape))
