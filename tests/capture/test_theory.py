"""Measured gradient gains against mean-field theory, computed here by quadrature.

Fully connected, width n, weights N(0, sw^2/n), biases N(0, sb^2) (Poole et al. 2016; Schoenholz et
al. 2017): q' = sw^2 E[phi(sqrt(q) z)^2] + sb^2, and the squared gain of a layer is
sw^2 E[phi'(sqrt(q) z)^2], with z standard normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import erf, expit
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup
from gradcheckup import LayerRecord, Report, Role

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

WIDTH = 1000
HIDDEN = 6
BATCH = 256
DEFAULT = 1 / 3  # sw^2 of torch's default: U(-1/sqrt(n), 1/sqrt(n)) has variance 1/(3n)

# An even number of nodes puts none on the kink of a ReLU, and half of them on either side.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(200)


def expectation(function: Function, q: float) -> float:
    """E[function(sqrt(q) z)] over a standard normal z."""
    values = function(math.sqrt(q) * _NODES)
    return float((_WEIGHTS * values).sum() / _WEIGHTS.sum())


def _gauss(z: Array) -> Array:
    return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _normal(z: Array) -> Array:
    return (1 + erf(z / math.sqrt(2))) / 2


# Activation, its derivative and the function under test; derivatives are written out by hand.
ACTIVATIONS: dict[str, tuple[Function, Function, Callable[[Tensor], Tensor]]] = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float), F.relu),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2, torch.tanh),
    "sigmoid": (expit, lambda z: expit(z) * (1 - expit(z)), torch.sigmoid),
    "gelu": (lambda z: z * _normal(z), lambda z: _normal(z) + z * _gauss(z), F.gelu),
    "silu": (
        lambda z: z * expit(z),
        lambda z: expit(z) * (1 + z * (1 - expit(z))),
        F.silu,
    ),
    "softplus": (lambda z: np.logaddexp(0, z), expit, F.softplus),
}


def predicted_gains(
    kind: str, weight: float, bias: float, first: float, layers: int = HIDDEN
) -> list[float]:
    """Gain of each hidden layer but the last, from the pre-activation variance of the first."""
    phi, slope, _ = ACTIVATIONS[kind]
    q, gains = first, []
    for _ in range(layers - 1):
        gains.append(math.sqrt(weight * expectation(lambda z: slope(z) ** 2, q)))
        q = weight * expectation(lambda z: phi(z) ** 2, q) + bias
    return gains


class Plain(nn.Module):
    """HIDDEN equally wide layers and a readout of the same width."""

    def __init__(self, kind: str, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[kind][2]
        self.hidden = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(hidden))
        self.readout = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = self.activation(layer(x))
        out: Tensor = self.readout(x)
        return out


def _batch(seed: int, size: int = BATCH, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(size, width, generator=random), torch.randn(size, 10, generator=random)


def _random_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sends a random gradient of fixed size into the readout, whatever the outputs are."""
    return (outputs * targets).sum()


def _diagnosed(model: nn.Module, seed: int, size: int = BATCH) -> Report:
    return gradcheckup.diagnose(model, _batch(seed, size), _random_loss, steps=1)


def _weights(report: Report, prefix: str = "hidden") -> list[LayerRecord]:
    return [
        layer
        for layer in report.layers
        if layer.role is Role.WEIGHT and layer.name.startswith(prefix)
    ]


def _mean_gain(layers: list[LayerRecord]) -> float:
    """Geometric mean of the per-layer gains, from the `gain` fields alone."""
    gains = [layer.gain for layer in layers]
    assert all(gain is not None and gain > 0 for gain in gains)
    return math.exp(sum(math.log(gain) for gain in gains if gain) / len(gains))


def _geometric(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _initialise(model: Plain, weight: float, bias: float) -> None:
    for layer in model.hidden:
        assert isinstance(layer, nn.Linear)
        nn.init.normal_(layer.weight, std=math.sqrt(weight / WIDTH))
        nn.init.normal_(layer.bias, std=math.sqrt(bias))


def test_the_quadrature_agrees_with_closed_forms() -> None:
    # E[relu'^2] = 1/2 and E[relu^2] = q/2 for every q; E[z^2] = q.
    assert expectation(ACTIVATIONS["relu"][1], 0.7) == pytest.approx(0.5, rel=1e-9)
    assert expectation(lambda z: np.maximum(z, 0) ** 2, 0.7) == pytest.approx(0.35, rel=1e-9)
    assert expectation(lambda z: z**4, 2.0) == pytest.approx(12, rel=1e-9)
    for kind, (phi, slope, torch_function) in ACTIVATIONS.items():
        z = torch.linspace(-6, 6, 40, dtype=torch.float64, requires_grad=True)
        y = torch_function(z)
        (derivative,) = torch.autograd.grad(y.sum(), z)
        grid = z.detach().numpy()
        np.testing.assert_allclose(phi(grid), y.detach().numpy(), atol=1e-8, err_msg=kind)
        np.testing.assert_allclose(slope(grid), derivative.numpy(), atol=1e-8, err_msg=kind)


@pytest.mark.parametrize("kind", list(ACTIVATIONS))
def test_gain_at_the_default_initialisation(kind: str) -> None:
    report = _diagnosed(Plain(kind), seed=5)
    hidden = _weights(report)[:-1]
    # Inputs are standard normal and torch draws biases with the variance of a weight, 1/(3n).
    expected = _geometric(predicted_gains(kind, DEFAULT, DEFAULT / WIDTH, DEFAULT))
    assert _mean_gain(hidden) == pytest.approx(expected, rel=0.02)
    first, last = report.layers[0].gradient_norm, _weights(report)[-1].gradient_norm
    assert first is not None
    assert last is not None
    assert first / last == pytest.approx(expected ** len(hidden), rel=0.1)
    assert report.end_to_end_ratio == pytest.approx(first / last, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "weight", "bias"),
    [
        ("relu", 2.0, 0.0),
        ("relu", 1.0, 0.0),
        ("tanh", 1.76, 0.05),
        ("tanh", 6.25, 0.0),
        ("sigmoid", 1.0, 0.0),
        ("sigmoid", 16.0, 0.0),
    ],
)
def test_gain_at_other_initialisations(kind: str, weight: float, bias: float) -> None:
    model = Plain(kind)
    _initialise(model, weight, bias)
    expected = _geometric(predicted_gains(kind, weight, bias, weight + bias))
    assert _mean_gain(_weights(_diagnosed(model, seed=5))[:-1]) == pytest.approx(expected, rel=0.02)


def test_signal_of_a_relu_net_shrinks_as_the_correlation_map_says() -> None:
    """The batch signal of layer l is sqrt(q_l (1 - c_l)) up to the batch correction.

    In a bias-free net with orthogonal inputs the off-diagonal covariance of a ReLU layer follows
    the arc-cosine kernel: c' = (sqrt(1 - c^2) + c (pi - arccos c)) / pi at sw^2 = 2.
    """
    model = Plain("relu")
    _initialise(model, 2.0, 0.0)
    layers = _weights(_diagnosed(model, seed=5))
    correlation, first = 0.0, 1.0
    for depth, layer in enumerate(layers):
        expected = math.sqrt(1 - correlation)
        if depth == 0:
            first = expected
        assert layer.signal_ratio == pytest.approx(expected / first, rel=0.05), layer.name
        angle = math.acos(correlation)
        correlation = (math.sqrt(1 - correlation**2) + correlation * (math.pi - angle)) / math.pi


class Normalised(nn.Module):
    def __init__(self, blocks: int = 8) -> None:
        super().__init__()
        width = 500
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(blocks))
        self.readout = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        out: Tensor = self.readout(x)
        return out


def test_batch_normalised_relu_net_grows_by_yang_et_al() -> None:
    torch.manual_seed(1)
    report = gradcheckup.diagnose(Normalised(), _batch(1, 256, 500), _random_loss, steps=1)
    norms = [layer.gradient_norm for layer in report.layers if layer.kind == "batchnorm1d"]
    assert len(norms) == 8
    # The transient of the first layers, where samples are still independent, is longer than one.
    first, last = norms[2], norms[-1]
    assert first is not None
    assert last is not None
    growth = (first / last) ** (2 / (len(norms) - 3))
    assert growth == pytest.approx(math.pi / (math.pi - 1), rel=0.02)


class Residual(nn.Module):
    """Blocks h += V relu(W h), bias-free, with weight variances sv^2/n and sw^2/n."""

    def __init__(self, weight: float, value: float, blocks: int = 4) -> None:
        super().__init__()
        self.w = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(blocks))
        self.v = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(blocks))
        self.readout = nn.Linear(WIDTH, 10)
        for modules, variance in ((self.w, weight), (self.v, value)):
            for each in modules:
                assert isinstance(each, nn.Linear)
                nn.init.normal_(each.weight, std=math.sqrt(variance / WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        for w, v in zip(self.w, self.v, strict=True):
            x = x + v(torch.relu(w(x)))
        out: Tensor = self.readout(x)
        return out


@pytest.mark.parametrize(("weight", "value"), [(2.0, 1.0), (1.0, 1.0), (2.0, 0.25)])
def test_residual_net_grows_by_yang_and_schoenholz(weight: float, value: float) -> None:
    report = _diagnosed(Residual(weight, value), seed=5, size=64)
    # dL/d(V relu(W h)) is dL/dh behind the block, as the sum passes it on unchanged.
    norms = [layer.gradient_norm for layer in _weights(report, "v")]
    first, last = norms[0], norms[-1]
    assert first is not None
    assert last is not None
    growth = (first / last) ** (2 / (len(norms) - 1))
    assert growth == pytest.approx(1 + value * weight / 2, rel=0.02)
    # Paths start at the first layer, w.0, so the first branch is on all of them; the others not.
    assert [layer.bottleneck for layer in _weights(report, "v")][1:] == [False] * (len(norms) - 1)


def test_weights_times_gradients_are_one_number_in_a_bias_free_relu_net() -> None:
    """<W, dL/dW> is the same in every layer; plain SGD shows it in the reported norms.

    |W - lr dL/dW|^2 = |W|^2 - 2 lr <W, dL/dW> + lr^2 |dL/dW|^2, and all three norms are reported:
    those of the weights before the first and before the second step, and of the gradient.
    """
    torch.manual_seed(2)
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(40, 40, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(40, 10, bias=False)).double()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    x, y = (each.double() for each in _batch(3, 32, 40))
    rate = 1e-2
    report = gradcheckup.diagnose(
        model, (x, y), nn.MSELoss(), optimizer=partial(torch.optim.SGD, lr=rate), steps=2
    )
    products = []
    for before, after in zip(report.steps[0].parameters, report.steps[1].parameters, strict=True):
        assert before.weight_norm is not None
        assert before.gradient_norm is not None
        assert after.weight_norm is not None
        squares = before.weight_norm**2 - after.weight_norm**2 + (rate * before.gradient_norm) ** 2
        products.append(squares / (2 * rate))
    loss = nn.functional.mse_loss(model(x), y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    pairs = zip(model.parameters(), gradients, strict=True)
    by_hand = [float((weight.detach() * gradient).sum()) for weight, gradient in pairs]
    assert np.ptp(by_hand) < 1e-12 * abs(by_hand[0])  # the theorem itself
    assert products == pytest.approx(by_hand, rel=1e-9)


def test_squared_jacobian_of_a_he_initialised_relu_net_loses_half_of_beta() -> None:
    """Hanin and Nica: ln |J^T v|^2 has mean -beta/2, beta = 5 sum 1/n, over initialisations."""
    width, hidden, trials = 20, 12, 60
    logs = []
    for trial in range(trials):
        torch.manual_seed(100 + trial)
        layers: list[nn.Module] = []
        for _ in range(hidden):
            layer = nn.Linear(width, width, bias=False)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / width))
            layers += [layer, nn.ReLU()]
        report = gradcheckup.diagnose(
            nn.Sequential(*layers, nn.Linear(width, 10)),
            _batch(trial, 1, width),
            _random_loss,
            steps=1,
            select=["GC401"],
        )
        norms = [layer.gradient_norm for layer in report.layers if layer.kind == "linear"]
        assert norms[0] is not None
        assert norms[-2] is not None
        if norms[0] > 0:
            logs.append(2 * math.log(norms[0] / norms[-2]))
    beta = 5 * (hidden - 1) / width
    error = math.sqrt(beta / trials)
    assert np.mean(logs) == pytest.approx(-beta / 2, abs=3 * error)
