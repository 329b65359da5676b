"""Signal, saturation, dead units, updates and row spread against what a loop by hand finds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup
from gradcheckup import LayerRecord, Report, Step

SLOPE = gradcheckup.Thresholds().saturation_slope


class Through(nn.Module):
    """Puts its input itself through an activation: a test chooses the pre-activations."""

    def __init__(self, activation: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.activation = activation
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.activation(x))
        return out


def _square(model: nn.Module, batch: Any) -> Tensor:
    outputs: Tensor = model(batch[0])
    return outputs.square().mean()


def _seen(activation: Callable[[Tensor], Tensor], z: Tensor, **settings: Any) -> LayerRecord:
    report = gradcheckup.diagnose(
        Through(activation, z.shape[-1]), (z,), compute_loss=_square, steps=1, **settings
    )
    (layer,) = [layer for layer in report.layers if layer.role is gradcheckup.Role.ACTIVATION]
    return layer


def _slopes(activation: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The derivative of an element-wise function, in float64."""
    wide = z.double().requires_grad_()
    (slope,) = torch.autograd.grad(activation(wide).sum(), wide)
    return slope.abs()


# -- saturation ----------------------------------------------------------------------------------

SQUASHING: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softsign": F.softsign,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "hardtanh -0.3 0.8": lambda z: F.hardtanh(z, -0.3, 0.8),
    "hardtanh by name": lambda z: F.hardtanh(z, max_val=2.0, min_val=-0.3),
    "elu": F.elu,
    "elu 0.5": lambda z: F.elu(z, 0.5),
    "elu 0.05": lambda z: F.elu(z, 0.05),
    "elu 1.5": lambda z: F.elu(z, alpha=1.5),
    "celu 2": lambda z: F.celu(z, 2.0),
    "celu 0.5": lambda z: F.celu(z, alpha=0.5),
    "selu": F.selu,
    "nn.Sigmoid": nn.Sigmoid(),
    "nn.Tanh": nn.Tanh(),
    "nn.Softsign": nn.Softsign(),
    "nn.Hardsigmoid": nn.Hardsigmoid(),
    "nn.Hardtanh(-2, 0.5)": nn.Hardtanh(-2.0, 0.5),
    "nn.ELU(0.7)": nn.ELU(0.7),
    "nn.ELU(0.05)": nn.ELU(0.05),
    "nn.CELU(2)": nn.CELU(2.0),
    "nn.SELU": nn.SELU(),
}


@pytest.mark.parametrize("slope", [SLOPE, 0.02, 0.5])
@pytest.mark.parametrize("case", list(SQUASHING))
def test_saturation_is_where_the_derivative_is_small(case: str, slope: float) -> None:
    activation = SQUASHING[case]
    # Off the round numbers, where piecewise linear activations have their kinks.
    z = torch.linspace(-9.013, 9.007, 3200).reshape(32, 100)
    steepest = _slopes(activation, torch.linspace(-9, 9, 200001)).max()
    expected = float((_slopes(activation, z) < slope * steepest).double().mean())
    layer = _seen(activation, z, thresholds={"saturation_slope": slope})
    assert layer.saturation == pytest.approx(expected, abs=1.5 / z.numel())


RECTIFYING: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu in place": lambda z: F.relu(z, inplace=True),
    "nn.ReLU": nn.ReLU(),
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "leaky_relu": F.leaky_relu,
    "hardswish": F.hardswish,
    "nn.PReLU": nn.PReLU(),
}


@pytest.mark.parametrize("case", list(RECTIFYING))
def test_rectifiers_have_no_saturating_zone(case: str) -> None:
    z = torch.linspace(-9.013, 9.007, 320).reshape(32, 10)
    assert _seen(RECTIFYING[case], z).saturation is None


@pytest.mark.parametrize("activation", [F.relu6, nn.ReLU6(), nn.ReLU6(inplace=True)])
def test_relu6_saturates_above_only(activation: Callable[[Tensor], Tensor]) -> None:
    z = torch.linspace(-9.013, 9.007, 320).reshape(32, 10)
    layer = _seen(activation, z)
    assert layer.kind == "relu6"
    assert layer.saturation == pytest.approx(float((z > 6).double().mean()), abs=1e-7)
    assert layer.dead_fraction == 0.0


def test_saturation_is_that_of_the_pre_activation_before_it_is_overwritten() -> None:
    z = 10 * torch.randn(16, 20)
    plain, inplace = _seen(torch.sigmoid, z), _seen(lambda x: x.sigmoid_(), z.clone())
    assert plain.saturation == inplace.saturation
    assert plain.saturation == pytest.approx(
        float((_slopes(torch.sigmoid, z) < SLOPE / 4).double().mean()), abs=1e-7
    )


# -- dead units ----------------------------------------------------------------------------------


def _dead(report: Report, name: str) -> list[float | None]:
    return [
        layer.dead_fraction for step in report.steps for layer in step.layers if layer.name == name
    ]


@pytest.mark.parametrize(
    ("kind", "activation"),
    [("relu", nn.ReLU(inplace=True)), ("relu", nn.ReLU()), ("relu6", nn.ReLU6())],
)
def test_dead_features_over_several_batches(kind: str, activation: nn.Module) -> None:
    """Brute force over the batches so far in each half of the probe, with a learning rate of 0."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 40), activation, nn.Linear(40, 3))
    with torch.no_grad():
        model[0].bias.copy_(torch.linspace(-3.0, 1.0, 40))
    batches = [(torch.randn(4, 6), torch.randint(0, 3, (4,))) for _ in range(5)]
    frozen = partial(torch.optim.SGD, lr=0.0)
    report = gradcheckup.diagnose(
        model, batches, nn.CrossEntropyLoss(), optimizer=frozen, steps=5, follow=0
    )
    expected = []
    for index, (x, _) in enumerate(batches):
        if index in {0, 2}:  # a unit that died on the way is dead in the second half
            fired = torch.zeros(40, dtype=torch.bool)
        fired |= (model[0](x) > 0).any(dim=0)
        expected.append(float((~fired).double().mean()))
    assert expected[0] > expected[1]  # else the test would show nothing
    assert expected[2] > expected[-1] > 0
    assert _dead(report, "1") == pytest.approx(expected, abs=1e-7)
    assert report.layers[1].kind == kind


def test_unit_that_dies_on_the_way_is_dead_in_the_second_half() -> None:
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 1))
    with torch.no_grad():
        model[0].bias.fill_(1.0)
        model[2].weight.fill_(1.0)
    x = torch.randn(64, 6)
    # One step down the sum of the outputs pushes every bias 64 below zero.
    report = gradcheckup.diagnose(
        model,
        (x,),
        compute_loss=lambda net, batch: net(batch[0]).sum(),
        optimizer=partial(torch.optim.SGD, lr=1.0),
        steps=4,
    )
    assert _dead(report, "1") == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d, partial(nn.GroupNorm, 4)])
@pytest.mark.parametrize("functional", [False, True])
def test_dead_channels(norm: Callable[[int], nn.Module] | None, functional: bool) -> None:
    class Channels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3)
            self.norm = norm(16) if norm else nn.Identity()
            self.relu = nn.ReLU()
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.conv(x))
            x = F.relu(x) if functional else self.relu(x)
            out: Tensor = self.head(x.mean((2, 3)))
            return out

    model = Channels()
    last = model.norm if norm else model.conv
    with torch.no_grad():
        last.bias[:7] = -100.0  # type: ignore[index, operator]
    # As wide as there are channels: counting along another axis would not show in the shape.
    batch = torch.randn(4, 3, 18, 18), torch.randint(0, 3, (4,))
    report = gradcheckup.diagnose(model, batch, nn.CrossEntropyLoss(), steps=2)
    assert _dead(report, "relu") == [pytest.approx(7 / 16, abs=1e-7)] * 2


@pytest.mark.parametrize("dims", [1, 3])
def test_dead_channels_of_other_convolutions(dims: int) -> None:
    conv = (nn.Conv1d, nn.Conv3d)[dims // 2](2, 8, 3)
    with torch.no_grad():
        assert conv.bias is not None
        conv.bias[:3] = -100.0
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8**dims, 3))
    batch = torch.randn(4, 2, *[10] * dims), torch.randint(0, 3, (4,))
    report = gradcheckup.diagnose(model, batch, nn.CrossEntropyLoss(), steps=1)
    assert _dead(report, "1") == [pytest.approx(3 / 8, abs=1e-7)]


def test_dead_features_of_a_sequence() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8, 3))
    with torch.no_grad():
        model[0].bias[:5] = -100.0
    batch = torch.randn(4, 8, 6), torch.randint(0, 3, (4,))  # as many positions as features
    report = gradcheckup.diagnose(model, batch, nn.CrossEntropyLoss(), steps=1)
    assert _dead(report, "1") == [pytest.approx(5 / 8, abs=1e-7)]


@pytest.mark.parametrize("custom", ["functional convolution", "scaled block"])
def test_dead_channels_behind_custom_modules(custom: str) -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight)

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha = nn.Parameter(torch.zeros(()))
            self.conv = nn.Conv2d(3, 8, 3)
            self.inner = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x + self.alpha * self.inner(x)

    class Net(nn.Module):
        shift: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.part = Weighted() if custom == "functional convolution" else Scaled()
            shift = torch.tensor([-100.0] * 3 + [0.0] * 5)
            self.register_buffer("shift", shift[:, None, None])
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(self.part(x) + self.shift).mean((2, 3)))
            return out

    batch = torch.randn(4, 3, 10, 10), torch.randint(0, 3, (4,))
    report = gradcheckup.diagnose(Net(), batch, nn.CrossEntropyLoss(), steps=1)
    assert _dead(report, "relu") == [pytest.approx(3 / 8, abs=1e-7)]


@pytest.mark.parametrize("kind", ["gelu", "silu", "mish", "hardswish", "softplus", "threshold"])
def test_dead_bound_is_where_little_gradient_passes(kind: str) -> None:
    """A unit far on the flat side is dead, one that stays just above the bound is not."""
    activation: Callable[[Tensor], Tensor] = {
        "gelu": F.gelu,
        "silu": F.silu,
        "mish": F.mish,
        "hardswish": F.hardswish,
        "softplus": lambda z: F.softplus(z, beta=2.0),
        "threshold": lambda z: F.threshold(z, 0.4, 0.0),
    }[kind]
    levels = torch.linspace(-12.01, 3.02, 60)
    z = levels - torch.rand(16, 60)
    z[0] = levels  # the peak of each unit
    layer = _seen(activation, z)
    dead = round((layer.dead_fraction or 0) * 60)
    assert 0 < dead < 60
    # Units are dead up to some level; everything a dead unit ever sees passes at most 2%.
    assert float(_slopes(activation, z[:, :dead]).max()) < 0.02
    # And a unit that passes 10% of a gradient at its peak and above is alive.
    alive = _slopes(activation, levels)[dead:]
    assert alive.numel()
    first = int((_slopes(activation, levels) > 0.1).nonzero()[0])
    assert dead <= first


@pytest.mark.parametrize("activation", [torch.tanh, torch.sigmoid, F.leaky_relu, nn.PReLU()])
def test_other_activations_cannot_be_dead(activation: Callable[[Tensor], Tensor]) -> None:
    assert _seen(activation, torch.randn(8, 5) - 50).dead_fraction is None


# -- signal --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 12), (5, 7, 12), (2, 12), (300, 3, 4, 12)])
def test_signal_is_the_spread_over_the_batch(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4))
    x = torch.randn(shape)
    report = gradcheckup.diagnose(model, (x,), compute_loss=_square, steps=1)
    wide = copy.deepcopy(model).double()
    y, first = x.double(), None
    for layer, module in zip(report.layers, wide, strict=True):
        y = module(y)
        features = y.detach().reshape(shape[0], -1)
        # RMS over features of the standard deviation with n - 1
        expected = float(features.var(dim=0, correction=1).mean().sqrt())
        first = first or expected
        assert layer.signal == pytest.approx(expected, rel=1e-5)
        assert layer.signal_ratio == pytest.approx(expected / first, rel=1e-5)
        assert layer.shape == tuple(y.shape)


def test_signal_of_a_small_spread_around_a_large_mean() -> None:
    """What vanishes is the difference between samples, not the size of the activation."""
    model = nn.Sequential(nn.Linear(12, 20, dtype=torch.float64), nn.Sigmoid(), nn.Linear(20, 4))
    model.double()
    x = torch.ones(8, 12, dtype=torch.float64) + 1e-9 * torch.randn(8, 12, dtype=torch.float64)
    report = gradcheckup.diagnose(model, (x,), compute_loss=_square, steps=1)
    spread = float(model[0](x).detach().var(dim=0).mean().sqrt())
    assert report.layers[0].signal == pytest.approx(spread, rel=1e-6)
    assert spread < 1e-8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_signal_in_half_precision(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4)).to(dtype)
    x = torch.randn(64, 12).to(dtype)
    report = gradcheckup.diagnose(model, (x,), compute_loss=_square, steps=1)
    y = model[0](x).detach().double()
    assert report.layers[0].signal == pytest.approx(float(y.var(dim=0).mean().sqrt()), rel=1e-5)


def test_single_sample_has_no_signal_but_is_finite() -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4))
    report = gradcheckup.diagnose(model, (torch.randn(1, 12),), compute_loss=_square, steps=1)
    assert [layer.signal for layer in report.layers] == [None] * 3
    assert [layer.finite for layer in report.layers] == [True] * 3


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_non_finite_outputs(value: float, rows: int) -> None:
    class Breaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(12, 12), nn.Linear(12, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            bad = torch.zeros_like(h)
            bad[-1, -1] = value
            out: Tensor = self.b(torch.tanh(h) + bad)
            return out

    report = gradcheckup.diagnose(
        Breaking(), (torch.randn(rows, 12),), compute_loss=_square, steps=4
    )
    assert [layer.finite for layer in report.layers] == [True, True, False]
    assert len(report.steps) == 1


# -- updates -------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1),
    "nesterov": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=3e-3),
    "adamw": partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.1),
}


def _norm(*tensors: Tensor) -> float:
    return math.sqrt(sum(float(each.detach().double().square().sum()) for each in tensors))


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_updates_are_the_differences_of_a_loop_by_hand(optimizer: str, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.GELU(), nn.Linear(20, 4))
    model.to(dtype)
    batches = [(torch.randn(16, 12, dtype=dtype), torch.randint(0, 4, (16,))) for _ in range(2)]
    make = OPTIMIZERS[optimizer]
    report = gradcheckup.diagnose(model, batches, nn.CrossEntropyLoss(), optimizer=make, steps=5)
    twin = copy.deepcopy(model)
    by_hand = make(twin.parameters())
    for index, step in enumerate(report.steps):
        x, y = batches[index % 2]
        before = {name: value.detach().clone() for name, value in twin.named_parameters()}
        by_hand.zero_grad()
        loss = F.cross_entropy(twin(x), y)
        loss.backward()
        by_hand.step()
        assert step.loss == float(loss.detach())
        after = dict(twin.named_parameters())
        assert [record.name for record in step.parameters] == list(after)
        for record in step.parameters:
            was, now = before[record.name], after[record.name]
            assert now.grad is not None
            change = _norm(now - was)
            assert record.update_norm == pytest.approx(change, rel=1e-6)
            assert record.weight_norm == pytest.approx(_norm(was), rel=1e-6, abs=0)
            assert record.gradient_norm == pytest.approx(_norm(now.grad), rel=1e-6)
            assert record.carried_norm is None
            ratio = change / _norm(was) if _norm(was) else None
            assert record.update_ratio == (ratio and pytest.approx(ratio, rel=1e-6))
        for name in ("0", "1", "3"):
            own = [key for key in after if key.rpartition(".")[0] == name]
            change = _norm(*(after[key] - before[key] for key in own))
            ratio = change / _norm(*(before[key] for key in own))
            (layer,) = [each for each in step.layers if each.name == name]
            assert layer.update_ratio == pytest.approx(ratio, rel=1e-6)
        assert [layer.update_ratio for layer in step.layers if layer.name == "2"] == [None]


def _parameter(step: Step, name: str) -> gradcheckup.ParameterRecord:
    (found,) = [each for each in step.parameters if each.name == name]
    return found


def test_parameters_outside_the_optimizer_have_no_update() -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4))
    batch = torch.randn(8, 12), torch.randint(0, 4, (8,))
    optimizer = torch.optim.SGD(
        [{"params": model[2].weight, "lr": 0.5}, {"params": [model[2].bias], "lr": 0.25}]
    )
    report = gradcheckup.diagnose(model, batch, nn.CrossEntropyLoss(), optimizer=optimizer, steps=2)
    for step in report.steps:
        outside = _parameter(step, "0.weight")
        assert (outside.learning_rate, outside.update_norm) == (None, None)
        assert outside.gradient_norm
        rates = [_parameter(step, name).learning_rate for name in ("2.weight", "2.bias")]
        assert rates == [0.5, 0.25]
        assert {layer.name: layer.update_ratio is None for layer in step.layers} == {
            "0": True,
            "1": True,
            "2": False,
        }
    # Each step's gradient stands alone, although no optimizer clears it.
    first, second = (_parameter(step, "0.weight").gradient_norm for step in report.steps)
    assert first == pytest.approx(second, rel=0.5)


def test_carried_gradient_is_what_zero_grad_left() -> None:
    class Forgetful(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            """Forgets."""

    model = nn.Linear(12, 4)
    batch = torch.randn(8, 12), torch.randint(0, 4, (8,))
    report = gradcheckup.diagnose(
        model, batch, nn.CrossEntropyLoss(), optimizer=partial(Forgetful, lr=0.1), steps=3
    )
    carried = [_parameter(step, "weight").carried_norm for step in report.steps]
    gradients = [_parameter(step, "weight").gradient_norm for step in report.steps]
    assert carried[0] is None
    assert carried[1:] == gradients[:-1]


# -- row spread ----------------------------------------------------------------------------------


def _spread(weight: Tensor) -> float | None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, x: Tensor) -> Tensor:
            return (self.weight * x).sum().abs()

    report = gradcheckup.diagnose(
        Holder(), (torch.ones((), dtype=weight.dtype),), compute_loss=_square, steps=1
    )
    return report.steps[0].parameters[0].row_spread


@pytest.mark.parametrize("shape", [(5, 3), (64, 3, 3, 3), (2, 2)])
def test_row_spread_by_hand(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    wide = weight.double()
    expected = _norm(wide - wide.mean(0)) / _norm(wide)
    assert _spread(weight) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.1, 0.0, 1e-20, 0.5])
def test_row_spread_of_equal_rows_is_below_the_limit(dtype: torch.dtype, value: float) -> None:
    spread = _spread(torch.full((1000, 7), value, dtype=dtype))
    assert spread is not None
    assert spread < gradcheckup.Thresholds().symmetric_spread


def test_row_spread_of_small_weights() -> None:
    weight = torch.randn(20, 30)
    assert _spread(weight * 1e-25) == pytest.approx(_spread(weight), rel=1e-5)


@pytest.mark.parametrize("shape", [(7,), (1, 7), ()])
def test_no_row_spread_without_rows(shape: tuple[int, ...]) -> None:
    assert _spread(torch.randn(shape)) is None
