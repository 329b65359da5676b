"""Nets that cannot learn, written as users write them: each under its right code.

A label is the outcome of training with the same optimizer on the same data for 500 steps (chance
is a loss of 2.30 and an accuracy of .10 on the digits), or a fact of the code, such as a detach.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import make_circles
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup

Digits = Callable[..., list[tuple[Tensor, Tensor]]]
Build = Callable[[Digits], dict[str, Any]]

SICK: dict[str, tuple[str, Build]] = {}
SGD = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
PLAIN_SGD = functools.partial(torch.optim.SGD, lr=0.01)
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
CE = nn.CrossEntropyLoss()
_he = functools.partial(nn.init.kaiming_normal_, nonlinearity="relu")
_he_uniform = functools.partial(nn.init.kaiming_uniform_, nonlinearity="relu")


def sick(codes: str) -> Callable[[Build], Build]:
    """Registers a net whose first finding has one of these codes (`GC101 GC203`)."""

    def register(build: Build) -> Build:
        SICK[build.__name__] = codes, build
        return build

    return register


def mlp(
    *widths: int,
    act: Callable[[], nn.Module] = nn.ReLU,
    init: Callable[[Tensor], Any] | None = None,
) -> nn.Sequential:
    """Linear layers of these widths with an activation between them."""
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise(widths):
        linear = nn.Linear(before, width)
        if init:
            init(linear.weight)
            nn.init.zeros_(linear.bias)
        layers += [act(), linear] if layers else [linear]
    return nn.Sequential(*layers)


def case(model: nn.Module, data: Any, criterion: Any = CE, **settings: Any) -> dict[str, Any]:
    return {"model": model, "data": data, "criterion": criterion, "optimizer": SGD} | settings


def _normal(std: float) -> Callable[[Tensor], Any]:
    return functools.partial(nn.init.normal_, std=std)


# -- vanishing, exploding, collapsed ------------------------------------------------------------


class DeepSigmoid(nn.Module):
    """The reference net of the tutorials: sigmoids are made on the fly."""

    def __init__(self, std: float | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64 if k == 0 else 128, 128) for k in range(7))
        self.head = nn.Linear(128, 10)
        if std:
            for layer in (*self.layers, self.head):
                nn.init.normal_(layer.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = nn.Sigmoid()(layer(x))
        return self.head(x)


@sick("GC101")
def deep_sigmoid(digits: Digits) -> dict[str, Any]:  # accuracy .10
    return case(DeepSigmoid(), digits(), optimizer=PLAIN_SGD)


@sick("GC102 GC201")
def deep_sigmoid_with_weights_n_0_100(digits: Digits) -> dict[str, Any]:  # accuracy .10
    return case(DeepSigmoid(10.0), digits(), optimizer=PLAIN_SGD)


def _circle() -> list[tuple[Tensor, Tensor]]:
    points, labels = make_circles(1000, noise=0.1, random_state=1)
    inputs = torch.tensor(points, dtype=torch.float32)
    targets = torch.tensor(labels, dtype=torch.float32)[:, None]
    return [(inputs[k : k + 128], targets[k : k + 128]) for k in range(0, 640, 128)]


def _on_circle(depth: int, act: Callable[[], nn.Module], init: Callable[[Tensor], Any]) -> Build:
    def build(digits: Digits) -> dict[str, Any]:
        del digits
        net = mlp(2, *[5] * depth, 1, act=act, init=init)
        return case(net, _circle(), nn.BCEWithLogitsLoss(), optimizer=ADAM)

    return build


class Exp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


_tiny = functools.partial(nn.init.uniform_, a=-0.05, b=0.05)
# AUTOTRAINER's and DeepDiagnosis' cases; validation .50, loss stays at .693.
for _depth in (8, 9, 11):
    SICK[f"circle_sigmoid_{_depth}"] = "GC101", _on_circle(_depth, nn.Sigmoid, _he_uniform)
SICK["circle_tiny_weights"] = "GC101 GC203", _on_circle(8, nn.ReLU, _tiny)
SICK["circle_exp"] = "GC401", _on_circle(8, Exp, _he_uniform)


@sick("GC101 GC203")
def relu_with_small_weights(digits: Digits) -> dict[str, Any]:  # loss 2.30 -> 2.30
    net = mlp(64, *[128] * 7, 10, init=_normal(0.02))
    return case(net, digits(), optimizer=PLAIN_SGD)


@sick("GC101 GC203")
def deep_default_gelu(digits: Digits) -> dict[str, Any]:  # loss 2.304 -> 2.303
    return case(mlp(64, *[128] * 8, 10, act=nn.GELU), digits(), optimizer=PLAIN_SGD)


@sick("GC101 GC203")
def plain_deep_cnn(digits: Digits) -> dict[str, Any]:  # loss 2.30 -> 2.30
    layers: list[nn.Module] = []
    for k in range(8):
        layers += [nn.Conv2d(12 if k else 1, 12, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
    return case(net, digits(1, 8, 8), optimizer=PLAIN_SGD)


class WholeTensorNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean()) / (x.std() + 1e-5)


@sick("GC101")
def whole_tensor_normalisation_does_not_suffice(digits: Digits) -> dict[str, Any]:  # .09
    layers: list[nn.Module] = []
    for k in range(7):
        layers += [nn.Linear(128 if k else 64, 128), WholeTensorNorm(), nn.Sigmoid()]
    net = nn.Sequential(*layers, nn.Linear(128, 10))
    return case(net, digits(), optimizer=PLAIN_SGD)


@sick("GC201 GC102")
def saturated_tanh(digits: Digits) -> dict[str, Any]:  # loss 11 -> 2.34, accuracy .10
    return case(mlp(64, *[128] * 8, 10, act=nn.Tanh, init=_normal(1.0)), digits())


# -- cut, zero, dead ----------------------------------------------------------------------------


class Cut(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        if self.how == "detach":
            x = F.relu(self.second(x.detach()))
        elif self.how == "numpy":
            x = F.relu(self.second(torch.from_numpy(x.detach().numpy())))
        elif self.how == "no_grad":
            with torch.no_grad():
                x = F.relu(self.second(x))
        elif self.how == "argmax":
            x = F.one_hot(self.second(x).argmax(dim=-1), 32).float()
        elif self.how == "round":
            x = torch.round(torch.sigmoid(self.second(x)))
        elif self.how == "log":
            x = torch.log(self.second(x))
        return self.head(x)


for _how in ("detach", "numpy", "no_grad", "argmax"):
    SICK[f"cut_by_{_how}"] = (
        "GC103",
        lambda digits, how=_how: case(Cut(how), digits()),  # type: ignore[misc]
    )


@sick("GC104")
def rounded_activation(digits: Digits) -> dict[str, Any]:
    return case(Cut("round"), digits())


@sick("GC104")
def softmax_over_one_unit(digits: Digits) -> dict[str, Any]:
    net = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softmax(dim=1))
    data = [(x, (y > 4).float()[:, None]) for x, y in digits()]
    return case(net, data, nn.BCELoss())


class LoRA(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.A = nn.Parameter(torch.zeros(4, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.A.T @ self.B.T


def _trainable(model: nn.Module) -> torch.optim.Optimizer:
    wanted = [each for each in model.parameters() if each.requires_grad]
    return torch.optim.AdamW(wanted, lr=1e-3)


@sick("GC104")
def lora_with_both_factors_zero(digits: Digits) -> dict[str, Any]:
    return case(
        nn.Sequential(LoRA(64, 64), nn.ReLU(), LoRA(64, 10)), digits(), optimizer=_trainable
    )


@sick("GC202")
def all_relu_dead(digits: Digits) -> dict[str, Any]:
    net = mlp(64, 64, 64, 64, 10)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, -10.0)
    return case(net, digits())


@sick("GC202")
def one_dead_layer(digits: Digits) -> dict[str, Any]:
    net = mlp(64, 64, 64, 64, 10, init=_he)
    nn.init.constant_(net[2].bias, -100.0)
    return case(net, digits())


# -- what the optimizer does --------------------------------------------------------------------


@sick("GC303")
def optimizer_of_the_head_only(digits: Digits) -> dict[str, Any]:
    return case(
        mlp(64, 64, 64, 10, init=_he),
        digits(),
        optimizer=lambda model: torch.optim.Adam(model[4].parameters(), lr=1e-3),
    )


@sick("GC303")
def layer_replaced_after_the_optimizer_was_made(digits: Digits) -> dict[str, Any]:
    net = mlp(64, 64, 64, 10, init=_he)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net[4] = nn.Linear(64, 10)
    return case(net, digits(), optimizer=optimizer)


@sick("GC303")
def updates_lost_in_bfloat16(digits: Digits) -> dict[str, Any]:
    data = [(x.bfloat16(), y) for x, y in digits()]
    tiny = functools.partial(torch.optim.SGD, lr=1e-6)
    return case(mlp(64, 64, 64, 10, init=_he).bfloat16(), data, optimizer=tiny)


# -- half precision -----------------------------------------------------------------------------


def _in_half(
    dtype: torch.dtype, scale: float = 1.0
) -> Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]:
    """A segmentation under autocast, whose loss is divided by the number of pixels twice."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, masks = batch
        with torch.autocast("cpu", dtype=dtype):
            logits = model(inputs)
        mean = F.binary_cross_entropy_with_logits(logits.float(), masks)
        return scale * mean / masks.numel()

    return loss


def _segmentation(digits: Digits, loss: Any) -> dict[str, Any]:
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        nn.Conv2d(8, 1, 1),
    )
    data = [(x + 0.5 * torch.randn_like(x), (x > 0).float()) for x, _ in digits(1, 8, 8, batch=64)]
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    return case(net, data, None, compute_loss=loss, optimizer=adam)


@sick("GC403")
def float16_without_a_loss_scale(digits: Digits) -> dict[str, Any]:
    # Cross-entropy .70 -> .69; .13 in float32, in bfloat16 and with a scaled loss.
    return _segmentation(digits, _in_half(torch.float16))


@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 1.0), (torch.float16, 2.0**16)])
def test_bfloat16_and_a_loss_scale_help(dtype: torch.dtype, scale: float, digits: Digits) -> None:
    report = gradcheckup.diagnose(**_segmentation(digits, _in_half(dtype, scale)))
    assert report.findings == (), str(report)


@sick("GC403")
def half_net_with_a_loss_of_little_weight(digits: Digits) -> dict[str, Any]:
    # Cross-entropy 3.88 -> 3.52; .03 with float() in place of half().

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        return 1e-7 * CE(model(inputs.half()).float(), labels)

    sgd = functools.partial(torch.optim.SGD, lr=6e4, momentum=0.9)
    net = mlp(64, 64, 64, 10, init=_he).half()
    return case(net, digits(), None, compute_loss=loss, optimizer=sgd)


class NeverZeroed(torch.optim.SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        del set_to_none


@sick("GC304")
def zero_grad_without_effect(digits: Digits) -> dict[str, Any]:
    optimizer = functools.partial(NeverZeroed, lr=0.01)
    return case(mlp(64, 64, 64, 10, init=_he), digits(), optimizer=optimizer)


@sick("GC102 GC302 GC401")
def learning_rate_100(digits: Digits) -> dict[str, Any]:  # NaN
    optimizer = functools.partial(torch.optim.SGD, lr=100.0, momentum=0.9)
    return case(mlp(64, 64, 64, 10, init=_he), digits(), optimizer=optimizer)


@sick("GC102 GC302 GC401")
def quadratic_regression(digits: Digits) -> dict[str, Any]:  # DeepDiagnosis: exploding
    del digits
    x = torch.linspace(-10, 10, 128)[:, None]
    optimizer = functools.partial(torch.optim.SGD, lr=0.1)
    return case(mlp(1, 50, 30, 1), (x, 5 * x * x), nn.MSELoss(), optimizer=optimizer)


@sick("GC102 GC302 GC401")
def inputs_up_to_a_thousand(digits: Digits) -> dict[str, Any]:  # NaN
    del digits
    x = torch.linspace(0, 1000, 128)[:, None]
    return case(mlp(1, 64, 64, 1), (x, 3 * x + 2), nn.MSELoss(), optimizer=PLAIN_SGD)


@sick("GC102 GC302 GC401")
def linear_784_30_10(digits: Digits) -> dict[str, Any]:  # AUTOTRAINER: exploding -> NaN
    targets = [F.one_hot(y, 10).float() for _, y in digits(count=4)]
    net = nn.Sequential(nn.Linear(784, 30), nn.Linear(30, 10))
    for layer in net:
        nn.init.normal_(layer.weight)
    optimizer = functools.partial(torch.optim.SGD, lr=3.0)
    data = [(torch.rand(32, 784), each) for each in targets]
    return case(net, data, nn.MSELoss(), optimizer=optimizer)


# -- the same output for every sample -----------------------------------------------------------


class OverBatch(nn.Module):
    """A mean over the wrong dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=0, keepdim=True).expand_as(x)


def _mean_over_the_batch(place: int) -> nn.Sequential:
    layers = list(mlp(64, 64, 64, 10, init=_he))
    return nn.Sequential(*layers[:place], OverBatch(), *layers[place:])


for _place, _kind in itertools.product((2, 4), (ADAM, SGD)):
    SICK[f"mean_over_the_batch_{_place}_{_kind.func.__name__}"] = (
        "GC203",
        lambda digits, place=_place, kind=_kind: case(  # type: ignore[misc]
            _mean_over_the_batch(place), digits(), optimizer=kind
        ),
    )


# -- NaN ----------------------------------------------------------------------------------------


@sick("GC401")
def log_of_a_negative(digits: Digits) -> dict[str, Any]:
    return case(Cut("log"), digits())


@sick("GC401")
def infinite_loss(digits: Digits) -> dict[str, Any]:
    def careless(logits: Tensor, targets: Tensor) -> Tensor:
        chance = torch.sigmoid(100 * logits)
        return -(targets * chance.log() + (1 - targets) * (1 - chance).log()).mean()

    data = [(x, (y > 4).float()[:, None]) for x, y in digits()]
    return case(mlp(64, 32, 1), data, careless, optimizer=ADAM)


@sick("GC402")
def square_root_at_zero(digits: Digits) -> dict[str, Any]:
    """The distance between equal embeddings: sqrt(0) has an infinite slope."""

    class Distance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(64, 32, 16)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return (self.net(left) - self.net(right)).pow(2).sum(dim=-1).sqrt()

    data = [(x, x.clone(), torch.zeros(len(x))) for x, _ in digits()]
    return case(Distance(), data, nn.MSELoss())


# -- symmetric ----------------------------------------------------------------------------------


def _constant(value: float) -> nn.Sequential:
    net = mlp(64, 64, 64, 10, act=nn.Tanh)
    for parameter in net.parameters():
        nn.init.constant_(parameter, value)
    return net


for _value in (0.0, 0.01, 0.1):
    SICK[f"all_weights_{_value:g}"] = (
        "GC504",
        lambda digits, value=_value: case(_constant(value), digits()),  # type: ignore[misc]
    )


@sick("GC504")
def one_constant_hidden_layer(digits: Digits) -> dict[str, Any]:
    net = mlp(64, 64, 64, 10, act=nn.Tanh)
    nn.init.constant_(net[2].weight, 0.02)
    nn.init.zeros_(net[2].bias)
    nn.init.constant_(net[4].weight, 0.02)
    return case(net, digits())


def _diagnosed(name: str, digits: Digits, **settings: Any) -> gradcheckup.Report:
    return gradcheckup.diagnose(**SICK[name][1](digits), **settings)


@pytest.mark.parametrize("name", SICK)
def test_a_sick_net_is_found_under_its_code(name: str, digits: Digits) -> None:
    report = _diagnosed(name, digits)
    assert not report.healthy, str(report)
    assert report.findings[0].code in SICK[name][0].split(), str(report)
    # One cause, one finding.
    assert sum(each.severity.value == "critical" for each in report.findings) == 1, str(report)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "name",
    [
        "deep_sigmoid",
        "circle_sigmoid_11",
        "saturated_tanh",
        "plain_deep_cnn",
        "quadratic_regression",
    ],
)
def test_a_seed_does_not_heal_it(name: str, seed: int, digits: Digits) -> None:
    torch.manual_seed(seed)
    report = _diagnosed(name, digits, seed=seed)
    assert not report.healthy, str(report)
    assert report.findings[0].code in SICK[name][0].split(), str(report)


def test_a_deep_sigmoid_net_is_one_finding(digits: Digits) -> None:
    # A deep sigmoid net fades in gradient and in signal: 13 findings elsewhere, one here.
    (found,) = _diagnosed("deep_sigmoid", digits).findings
    assert found.code == "GC101"
    assert "layers.0" in found.layers
    assert {each.code for each in found.consequences} <= {"GC203", "GC301"}


@pytest.mark.parametrize("name", ["cut_by_detach", "cut_by_argmax"])
def test_a_cut_names_the_layer_before_it(name: str, digits: Digits) -> None:
    found = _diagnosed(name, digits).findings[0]
    assert found.culprit == {"cut_by_detach": "first", "cut_by_argmax": "second"}[name]


@pytest.mark.parametrize("name", ["deep_sigmoid", "cut_by_detach", "one_dead_layer"])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_loss_scale_changes_no_verdict(name: str, scale: float, digits: Digits) -> None:
    settings = SICK[name][1](digits)
    plain = gradcheckup.diagnose(**SICK[name][1](digits))
    scaled = gradcheckup.diagnose(
        **settings
        | {
            "criterion": lambda outputs, targets: scale * CE(outputs, targets),
            "optimizer": functools.partial(torch.optim.SGD, lr=0.01 / scale, momentum=0.9),
        }
    )
    assert [each.code for each in scaled.findings] == [each.code for each in plain.findings]


@pytest.mark.parametrize("batch", [8, 32, 128])
@pytest.mark.parametrize("name", ["deep_sigmoid", "relu_with_small_weights", "all_weights_0.1"])
def test_a_batch_size_changes_no_verdict(name: str, batch: int, digits: Digits) -> None:
    report = _diagnosed(name, functools.partial(digits, batch=batch))
    assert not report.healthy
    assert report.findings[0].code in SICK[name][0].split(), str(report)


# -- warnings and information -------------------------------------------------------------------


def _only(report: gradcheckup.Report) -> gradcheckup.Finding:
    assert report.healthy, str(report)
    (found,) = report.findings
    return found


def test_half_of_the_channels_dead_is_a_warning(digits: Digits) -> None:
    # Accuracy .15 … .26 after 500 steps; the norm over the layer shows nothing of it.
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    net = nn.Sequential(
        *layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )
    with torch.no_grad():
        net[2].bias[:8] = -20.0
    found = _only(gradcheckup.diagnose(**case(net, digits(1, 8, 8))))
    assert (found.code, found.layers) == ("GC202", ("3",))
    assert found.observed is not None
    assert math.isclose(found.observed, 0.5, abs_tol=0.07)


def test_misspelt_requires_grad_is_a_warning(digits: Digits) -> None:
    net = mlp(64, 64, 10, init=_he)
    for parameter in net[0].parameters():
        parameter.require_grad = False  # type: ignore[attr-defined]
    found = _only(gradcheckup.diagnose(**case(net, digits())))
    assert (found.code, found.layers) == (
        "GC503",
        ("0.weight.require_grad", "0.bias.require_grad"),
    )


def test_unused_and_frozen_parameters_are_told_apart(digits: Digits) -> None:
    class Spare(Cut):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.first(x)))

    found = _only(gradcheckup.diagnose(**case(Spare("none"), digits())))
    assert (found.code, found.severity.value) == ("GC501", "warning")
    assert found.layers == ("second.weight", "second.bias")

    net = mlp(64, 64, 64, 10, init=_he)
    net[0].requires_grad_(False)
    found = _only(gradcheckup.diagnose(**case(net, digits())))
    assert (found.code, found.severity.value) == ("GC502", "information")


def test_a_layer_with_next_to_no_learning_rate_is_starved(digits: Digits) -> None:
    def rates(model: nn.Module) -> torch.optim.Optimizer:
        first, *rest = [list(each.parameters()) for each in model if list(each.parameters())]
        groups = [{"params": first, "lr": 1e-9}, {"params": list(itertools.chain(*rest))}]
        return torch.optim.SGD(groups, lr=0.01)

    settings = case(mlp(64, 64, 64, 64, 10, init=_he), digits(), optimizer=rates)
    found = _only(gradcheckup.diagnose(**settings))
    assert (found.code, found.layers) == ("GC301", ("0",))


def test_what_is_fading_at_the_end_is_looked_at_for_as_long_again(digits: Digits) -> None:
    """30 layers of GELU and LayerNorm: after 500 steps .15 of these digits, at lr 0.01 and 0.02."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before in (64, *[64] * 29):
        layers += [nn.Linear(before, 64), nn.LayerNorm(64), nn.GELU()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    sgd = functools.partial(torch.optim.SGD, lr=0.02, momentum=0.9)
    told: list[tuple[int, int]] = []
    report = gradcheckup.diagnose(
        model, digits(), CE, optimizer=sgd, on_step=lambda *step: told.append(step)
    )
    first, again = ([(done, end) for done in range(end - 7, end + 1)] for end in (8, 16))
    assert told[:16] == first + again
    assert len(report.steps) == 16
    assert not report.healthy
    assert report.findings[0].code == "GC203"
    signal = [step.end_to_end_signal or 0.0 for step in report.steps]
    assert max(signal[8:]) < 0.05 * signal[0]
