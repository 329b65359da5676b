"""Initial weights against the formulas and against mean-field theory worked out here."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradcheckup
from gradcheckup import treat
from gradcheckup.treatments.weights.gains import critical_gain, offset

CONV = {"kernel_size": 3, "padding": 1}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    # A layer, its inputs, how many inputs a unit reads, and how many units read an input.
    "linear": (lambda: nn.Linear(200, 300), (4, 200), 200, 300),
    "conv1d": (lambda: nn.Conv1d(32, 64, 5), (2, 32, 9), 160, 320),
    "conv2d": (lambda: nn.Conv2d(16, 64, **CONV), (2, 16, 4, 4), 144, 576),
    "conv3d": (lambda: nn.Conv3d(8, 24, **CONV), (2, 8, 3, 3, 3), 216, 648),
    "grouped": (lambda: nn.Conv2d(64, 128, **CONV, groups=4), (2, 64, 4, 4), 144, 288),
    "transposed": (lambda: nn.ConvTranspose2d(16, 64, **CONV), (2, 16, 4, 4), 144, 576),
    "transposed, grouped": (
        lambda: nn.ConvTranspose2d(64, 128, **CONV, groups=4),
        (2, 64, 4, 4),
        144,
        288,
    ),
}


# torch says so whenever one is made.
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("variant", ["normal", "xavier", "he"])
def test_weights_have_the_variance_of_the_formula(name: str, variant: str) -> None:
    build, shape, fan_in, fan_out = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(build(), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
    x = torch.randn(shape)
    with torch.no_grad():
        model(x)
    drawn = treat(model, f"weight_scale:{variant}", x).model
    std = {
        "normal": 1.0,
        "xavier": math.sqrt(2 / (fan_in + fan_out)),  # Glorot & Bengio 2010, eq. 12
        "he": math.sqrt(2 / fan_in),  # He et al. 2015, eq. 10
    }[variant]
    weight = drawn[0].weight.detach().double()
    error = 4 / math.sqrt(2 * weight.numel())  # of a standard deviation, four of its own
    assert float(weight.std()) == pytest.approx(std, rel=error)
    assert abs(float(weight.mean())) < 4 * std / math.sqrt(weight.numel())
    assert not drawn[0].bias.any()
    assert torch.equal(drawn[3].weight, model[3].weight)  # the output layer is left alone


def test_a_standard_deviation_of_ones_own() -> None:
    model = nn.Sequential(nn.Linear(100, 100), nn.Sigmoid(), nn.Linear(100, 2))
    drawn = treat(model, "weight_scale:normal", torch.randn(4, 100), std=10).model
    assert float(drawn[0].weight.detach().std()) == pytest.approx(10, rel=0.03)


PHI: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "softsign": lambda z: z / (1 + np.abs(z)),
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "gelu": lambda z: z * np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(z),
    "selu": lambda z: (
        1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * np.expm1(np.minimum(z, 0)))
    ),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
}


def expected(values: Callable[[np.ndarray], np.ndarray]) -> float:
    """E over z ~ N(0, 1), by Gauss-Legendre on both sides of 0, where some have a kink."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    total = 0.0
    for low, high in ((-10.0, 0.0), (0.0, 10.0)):
        z = (high - low) / 2 * nodes + (high + low) / 2
        density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        total += float((weights * density * values(z)).sum()) * (high - low) / 2
    return total


@pytest.mark.parametrize("kind", PHI)
def test_gains_keep_the_size_of_signal_or_gradient(kind: str) -> None:
    """At a fixed point q* of the variance map, with the offset taken back by the bias."""
    phi, gain = PHI[kind], critical_gain(kind)
    at_0 = float(phi(np.zeros(1))[0])
    assert offset(kind) == pytest.approx(at_0)

    def onwards(q: float) -> float:
        return gain**2 * expected(lambda z: (phi(math.sqrt(q) * z) - at_0) ** 2)

    def backwards(q: float) -> float:
        step = 1e-5
        return gain**2 * expected(
            lambda z: (
                ((phi(math.sqrt(q) * z + step) - phi(math.sqrt(q) * z - step)) / (2 * step)) ** 2
            )
        )

    if kind in ("sigmoid", "tanh", "softsign"):
        # The smallest gain at which gradients do not fade: chi is 1 at q* = 0 and less above it.
        assert backwards(1e-8) == pytest.approx(1, rel=1e-3)
        assert onwards(1e-8) == pytest.approx(1e-8, rel=1e-3)
        assert backwards(1.0) < 1
    else:
        assert onwards(1.0) == pytest.approx(1, rel=1e-3)
        if kind == "relu":
            assert gain == pytest.approx(math.sqrt(2), rel=1e-4)  # He et al. 2015
            assert backwards(1.0) == pytest.approx(1, rel=1e-3)
        if kind == "selu":
            assert gain == pytest.approx(1, rel=1e-3)  # Klambauer et al. 2017


def deep(kind: str, depth: int = 20, width: int = 128) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), getattr(nn, kind)()]
    return nn.Sequential(*layers, nn.Linear(width, 4)).double()


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "ReLU", "SELU", "GELU"])
def test_gradients_reach_the_first_of_twenty_layers(kind: str) -> None:
    torch.manual_seed(0)
    model, x = deep(kind), torch.randn(64, 128, dtype=torch.float64)
    targets = torch.arange(64) % 4

    def ratio(net: nn.Module) -> float:
        net.zero_grad()
        nn.functional.cross_entropy(net(x), targets).backward()
        first, last = net[0].weight.grad, net[-3].weight.grad
        return float(first.norm() / last.norm())

    sick = ratio(model)
    assert sick < 1e-2 or kind == "SELU"
    assert 0.1 < ratio(treat(model, "weight_scale", x).model) < 10


def variances(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Variance of what each weight layer hands on, by name."""
    found: dict[str, float] = {}

    def watch(name: str) -> Callable[..., None]:
        return lambda _, __, out: found.__setitem__(name, float(out.double().var()))

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


class Skips(nn.Module):
    """Layers called in another order than they are made, and added to what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.third = nn.Linear(32, 4), nn.Linear(32, 32)
        self.second, self.first = nn.Linear(32, 32), nn.Linear(12, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.first(100 * x))
        x = x + torch.sigmoid(self.second(x))
        return self.last(x + torch.sigmoid(self.third(x)))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(128, 32),
        nn.ReLU(),
        nn.Linear(32, 4),
    )


@pytest.mark.parametrize(
    ("build", "shape", "hidden"),
    [
        (lambda: deep("Sigmoid", 6).float(), (64, 128), 6),
        (convolutions, (64, 3, 8, 8), 3),
        (Skips, (64, 12), 3),
    ],
    ids=["mlp", "cnn", "skips"],
)
def test_lsuv_makes_every_hidden_variance_1(
    build: Callable[[], nn.Module], shape: tuple[int, ...], hidden: int
) -> None:
    torch.manual_seed(0)
    model, x = build(), torch.randn(shape)
    before, result = variances(model, x), treat(model, "weight_scale:lsuv", x)
    after = variances(result.model, x)
    layers = result.changes[0].layers
    assert len(layers) == hidden == len(after) - 1
    assert any(abs(before[name] - 1) > 0.5 for name in layers)
    assert [after[name] for name in layers] == pytest.approx([1.0] * hidden, abs=0.1)


class Shared(nn.Module):
    """Two layers of one weight, with biases of their own."""

    def __init__(self, kind: str = "sigmoid") -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 32), nn.Linear(32, 4)
        self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 32)
        self.two.weight = self.one.weight
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        act = getattr(torch, self.kind)
        return self.last(act(self.two(act(self.one(act(self.first(x)))))))


@pytest.mark.parametrize("variant", ["auto", "lsuv", "he"])
def test_tied_weights_are_drawn_once(variant: str) -> None:
    """What one layer's bias takes back has to fit the weights that the layer ends up with."""
    torch.manual_seed(0)
    model, x = Shared(), torch.randn(64, 12)
    treated = treat(model, f"weight_scale:{variant}", x).model
    assert treated.one.weight is treated.two.weight
    if variant == "auto":
        for layer in (treated.one, treated.two, treated.last):
            rows = -0.5 * layer.weight.sum(1)  # sigmoid(0) of every input
            torch.testing.assert_close(layer.bias, rows)
    if variant == "lsuv":
        assert variances(treated, x)["one"] == pytest.approx(1, abs=0.1)


def test_the_snippet_draws_tied_weights_once() -> None:
    torch.manual_seed(0)
    model, x = Shared(), torch.randn(64, 12)
    exec(treat(model, "weight_scale", x).snippet, {"model": model, "nn": nn})  # noqa: S102
    assert model.one.weight is model.two.weight
    for layer in (model.one, model.two, model.last):
        torch.testing.assert_close(layer.bias, -0.5 * layer.weight.sum(1))


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_weights_are_orthogonal_gate_by_gate(
    kind: type[nn.RNNBase], *, bidirectional: bool
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(6, 8, num_layers=2, bidirectional=bidirectional, batch_first=True)
            self.head = nn.Linear(16 if bidirectional else 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    torch.manual_seed(0)
    rnn = treat(Net(), "weight_scale", torch.randn(4, 21, 6)).model.rnn
    seen = 0
    for name, parameter in rnn.named_parameters():
        values = parameter.detach()
        if name.startswith("weight_hh"):
            for gate in values.split(8):
                torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)
                seen += 1
        elif name.startswith("bias_ih") and kind is not nn.RNN:
            # A state that is kept for T steps: Tallec & Ollivier 2018, T = 21.
            assert values[8:16].tolist() == pytest.approx([math.log(20)] * 8)
            assert not values[:8].any()
            assert not values[16:].any()
        elif name.startswith("bias"):
            assert not values.any()
    assert seen == {nn.RNN: 1, nn.LSTM: 4, nn.GRU: 3}[kind] * 2 * (1 + bidirectional)


class Decoder(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 12, 3, padding=1, groups=groups)
        self.last = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(self.up(torch.sigmoid(self.one(x)))))


@pytest.mark.parametrize("groups", [1, 4])
def test_biases_of_transposed_convolutions_take_the_offset_back(groups: int) -> None:
    """Where every pre-activation before it is 0, its outputs inside the border are 0 as well."""
    torch.manual_seed(0)
    model, x = Decoder(groups), torch.randn(4, 3, 8, 8)
    result = treat(model, "weight_scale", x)
    exec(result.snippet, {"model": model, "nn": nn})  # noqa: S102 - what a user does with it
    for up in (result.model.up, model.up):
        inside = up(torch.full((1, 8, 8, 8), 0.5))[..., 1:-1, 1:-1]
        torch.testing.assert_close(inside, torch.zeros_like(inside), atol=1e-6, rtol=0)
        assert float(up.weight.detach().std()) == pytest.approx(4 / math.sqrt(72 / groups), rel=0.1)


def test_running_statistics_stay_as_they_are() -> None:
    model = nn.Sequential(
        nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(),
        nn.Linear(16, 4),
    )  # fmt: skip
    for key in ("weight_scale", "weight_scale:lsuv", "activation"):
        treated = treat(model, key, torch.randn(32, 12) + 3).model
        for (name, found), buffer in zip(treated.named_buffers(), model.buffers(), strict=True):
            assert torch.equal(found, buffer), (key, name)


def test_weights_that_are_computed_from_others_are_left_alone() -> None:
    normed = torch.nn.utils.parametrizations.weight_norm
    model = nn.Sequential(normed(nn.Linear(12, 16)), nn.Sigmoid(), normed(nn.Linear(16, 4)))
    with pytest.raises(gradcheckup.TreatmentError, match="and parameters of the layer"):
        treat(model, "weight_scale", torch.randn(8, 12))


class Stack(nn.Sequential):
    """With a constructor that a slice of it could not call."""

    def __init__(self, *, width: int, count: int) -> None:
        super().__init__(*(nn.Linear(width, width) for _ in range(count)))


class Branches(nn.Module):
    """Layers in containers of every kind, called in an order of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ModuleList(nn.Linear(8, 8) for _ in range(9))
        self.own = Stack(width=8, count=4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))
        self.one, self.last = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        order = (*self.list[:4], self.list[6], self.one, *self.own, *self.list[:6:-1])
        for layer in order:
            x = torch.tanh(layer(x))
        for block in self.blocks:
            x = block(x)
        return self.last(x)


@pytest.mark.parametrize(
    ("build", "width", "rows"),
    [
        (lambda: deep("Tanh", 20, 12).float(), 12, 1),
        # Four of the list are one; then its seventh, `one`, four, two backwards, three blocks.
        (Branches, 8, 12),
    ],
)
def test_layers_alike_are_one_line_of_the_snippet(
    build: Callable[[], nn.Module], width: int, rows: int
) -> None:
    torch.manual_seed(0)
    model = build()
    result = treat(model, "weight_scale:normal", torch.randn(5, width), std=7.0)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    lines = result.snippet.splitlines()
    assert lines.index("):") == rows + 1
    exec(result.snippet, {"model": model, "nn": nn})  # noqa: S102 - what a user does with it
    for name, each in model.named_parameters():
        drawn = name.removesuffix(".weight").removesuffix(".bias") in result.changes[0].layers
        assert drawn != torch.equal(each, before[name]), name
        if drawn and name.endswith("weight"):
            assert float(each.detach().std()) == pytest.approx(7, rel=4 / math.sqrt(2) / width)


def test_layers_with_other_values_are_not_folded() -> None:
    torch.manual_seed(0)
    widths = (12, 12, 12, 12, 48, 48, 48, 48, 3)
    layers = [nn.Linear(*pair) for pair in pairwise(widths)]
    model = nn.Sequential(*(x for each in layers for x in (each, nn.ReLU())))
    snippet = treat(model, "weight_scale:he", torch.randn(5, 12)).snippet
    exec(snippet, {"model": model, "nn": nn})  # noqa: S102 - what a user does with it
    for layer in layers[:-1]:
        std = math.sqrt(2 / layer.in_features)
        error = 4 / math.sqrt(2 * layer.weight.numel())
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=error)
