"""Faults at which a naive check sees nothing, each found under its code.

What hides them is measured by hand beside it: a gradient that rises, a norm that looks usual.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup

Batches = list[tuple[Tensor, Tensor]]
Digits = Callable[..., Batches]
Function = Callable[[Tensor], Tensor]
CE = nn.CrossEntropyLoss()
SGD = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)


def found(model: nn.Module, data: Any, criterion: Any = CE, **settings: Any) -> Any:
    """The first finding of an unhealthy report."""
    report = gradcheckup.diagnose(model, data, criterion, **settings)
    assert not report.healthy, str(report)
    return report.findings[0]


# -- activations that are no modules -------------------------------------------------------------


class Deep(nn.Module):
    def __init__(self, act: Function, std: float | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64 if k == 0 else 128, 128) for k in range(7))
        self.head = nn.Linear(128, 10)
        self.act = act
        for layer in self.layers:
            if std:
                nn.init.normal_(layer.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        out: Tensor = self.head(x)
        return out


def fresh(kind: Callable[[], nn.Module]) -> Function:
    """A module that is made anew in every forward."""

    def act(x: Tensor) -> Tensor:
        out: Tensor = kind()(x)
        return out

    return act


SIGMOIDS: dict[str, Function] = {
    "torch": torch.sigmoid,
    "functional": F.sigmoid,
    "method": lambda x: x.sigmoid(),
    "in_place": lambda x: x.sigmoid_(),
    "special": torch.special.expit,
    "in_forward": fresh(nn.Sigmoid),
}


@pytest.mark.parametrize("form", SIGMOIDS)
def test_functional_sigmoids(form: str, digits: Digits) -> None:
    torch.manual_seed(0)
    sgd = functools.partial(torch.optim.SGD, lr=0.01)
    first = found(Deep(SIGMOIDS[form]), digits(), optimizer=sgd)
    assert (first.code, first.cause) == ("GC101", "squashing-activation")


def test_a_sigmoid_written_as_a_formula(digits: Digits) -> None:
    torch.manual_seed(0)
    sgd = functools.partial(torch.optim.SGD, lr=0.01)
    assert found(Deep(lambda x: 1 / (1 + torch.exp(-x))), digits(), optimizer=sgd).code == "GC101"


@pytest.mark.parametrize("act", [torch.tanh, F.tanh, Tensor.tanh, fresh(nn.Tanh)])
def test_functional_saturated_tanh(act: Function, digits: Digits) -> None:
    torch.manual_seed(0)
    first = found(Deep(act, 1.0), digits(), optimizer=SGD)
    assert "GC201" in {each.code for each in first.walk()}


@pytest.mark.parametrize("act", [torch.relu, F.relu, Tensor.relu, fresh(nn.ReLU)])
def test_functional_dead_units(act: Function, digits: Digits) -> None:
    torch.manual_seed(0)
    model = Deep(act, 0.12)
    nn.init.constant_(model.layers[3].bias, -100.0)
    first = found(model, digits(), optimizer=SGD)
    assert (first.code, first.observed) == ("GC202", 1.0)


# -- attention -----------------------------------------------------------------------------------


class Attention(nn.Module):
    """One head of attention over the rows, its logits times a factor."""

    def __init__(self, form: str, factor: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32))
        self.head = nn.Linear(32, 10)
        self.multi: nn.MultiheadAttention | None = None
        if form == "module":
            self.multi = nn.MultiheadAttention(32, 1, batch_first=True)
            self.multi.in_proj_weight.data[:32] *= factor
        else:
            self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.form, self.factor = form, factor

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.multi is not None:
            mixed = self.multi(x, x, x)[0]
        elif self.form == "fused":
            q = self.factor * self.q(x)
            mixed = F.scaled_dot_product_attention(q, self.k(x), self.v(x))
        else:
            scores = self.factor * self.q(x) @ self.k(x).transpose(1, 2) / 32**0.5
            mixed = scores.softmax(dim=-1) @ self.v(x)
        out: Tensor = self.head((x + mixed).mean(dim=1))
        return out

    @property
    def queries(self) -> Tensor:
        return self.q.weight if self.multi is None else self.multi.in_proj_weight


@pytest.mark.parametrize("form", ["by_hand", "fused", "module"])
def test_saturated_attention_whose_query_gradient_rises(form: str, digits: Digits) -> None:
    data = digits(8, 8)
    gradients = []
    for factor in (1.0, 100.0):
        torch.manual_seed(0)
        model = Attention(form, factor)
        CE(model(data[0][0]), data[0][1]).backward()
        assert model.queries.grad is not None
        gradients.append(float(model.queries.grad[:32].norm()))
        model.zero_grad()
    if form != "module":  # there the factor is in the weights, and not in their gradient
        assert gradients[1] > 2 * gradients[0]
    report = gradcheckup.diagnose(model, data, CE, optimizer=ADAM)
    # It learns the digits, which need no attention.
    assert report.findings[0].code == "GC204", str(report)
    assert report.findings[0].observed is not None
    assert report.findings[0].observed < 0.1


# -- time ----------------------------------------------------------------------------------------


class Last(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.rnn, self.head = kind(10, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM])
def test_recurrent_weights_with_a_usual_gradient(kind: Any, recall: Callable[..., Batches]) -> None:
    torch.manual_seed(0)
    model, data = Last(kind), recall(100)
    inputs = data[0][0].clone().requires_grad_()
    CE(model(inputs), data[0][1]).backward()
    assert model.rnn.weight_hh_l0.grad.norm() > 0.01 * model.head.weight.grad.norm()
    assert inputs.grad is not None
    assert inputs.grad[:, 0].norm() < 1e-12 * inputs.grad[:, -1].norm()
    assert found(model, data, optimizer=ADAM).code == "GC105"


# -- cut, zero -----------------------------------------------------------------------------------


class Cut(nn.Module):
    def __init__(self, how: Function) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.second(self.how(F.relu(self.first(x))))))
        return out


CUTS: dict[str, Function] = {
    "data": lambda x: x.data,
    "item": lambda x: x.new_tensor([[each.item() for each in row] for row in x]),
    "list": lambda x: torch.tensor(x.tolist()),
    "rank": lambda x: x.topk(32).indices / 32,
    "comparison": lambda x: (x > 0.1).float(),
    "integers": lambda x: (4 * x).long().float(),
}


@pytest.mark.parametrize("how", CUTS)
def test_a_value_that_left_the_graph(how: str, digits: Digits) -> None:
    torch.manual_seed(0)
    first = found(Cut(CUTS[how]), digits(), optimizer=SGD)
    assert (first.code, first.layers, first.fact("behind")) == ("GC103", ("first",), "second")


def test_a_detached_branch_beside_a_skip(digits: Digits) -> None:
    class Branch(Cut):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.first(x))
            out: Tensor = self.head(x + F.relu(self.second(x)).detach())
            return out

    torch.manual_seed(0)
    first = found(Branch(torch.relu), digits(), optimizer=SGD)
    assert (first.code, first.layers) == ("GC103", ("second",))


class Adapted(nn.Module):
    """LoRA of two linear layers, both of them zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, 4, bias=False), nn.Linear(4, outputs, bias=False)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


@pytest.mark.parametrize("fitted", [False, True])
def test_two_zero_factors(fitted: bool, digits: Digits) -> None:
    """Also where the frozen net already fits the data: there is an outcome, and no adaptation."""
    torch.manual_seed(0)
    model = nn.Sequential(Adapted(64, 64), nn.ReLU(), Adapted(64, 10))
    data = digits(count=4)
    if fitted:
        base = [each.requires_grad_() for n, each in model.named_parameters() if "base" in n]
        optimizer = torch.optim.SGD(base, lr=0.1, momentum=0.9)
        for step in range(400):
            optimizer.zero_grad()
            loss = CE(model(data[step % 4][0]), data[step % 4][1])
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.01
        for each in base:
            each.requires_grad_(False)
    first = found(model, data, optimizer=_adapters)
    assert (first.code, first.cause) == ("GC104", "zero-factors")


def _adapters(model: nn.Module) -> torch.optim.Optimizer:
    wanted = [each for each in model.parameters() if each.requires_grad]
    return torch.optim.AdamW(wanted, lr=1e-3)


def test_cross_entropy_over_one_logit(digits: Digits) -> None:
    """A loss of exactly 0 from the first step on: met by construction, not by learning."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    data = [(x, (y > 4).float()[:, None]) for x, y in digits()]
    assert CE(model(data[0][0]), data[0][1]).item() == 0
    assert found(model, data, optimizer=SGD).code == "GC104"


# -- parameters ----------------------------------------------------------------------------------


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise(widths):
        layers += [nn.ReLU()] if layers else []
        layers.append(nn.Linear(before, width))
    return nn.Sequential(*layers)


def test_a_layer_missing_from_the_parameter_groups(digits: Digits) -> None:
    model = _mlp(64, 64, 64, 10)
    groups = [{"params": model[0].parameters()}, {"params": model[4].parameters(), "lr": 1e-2}]
    first = found(model, digits(), optimizer=torch.optim.Adam(groups, lr=1e-3))
    assert (first.code, first.layers) == ("GC303", ("2.weight", "2.bias"))


class Listed(nn.Module):
    """Keeps its layers in whatever holds them."""

    def __init__(self, hold: Callable[[list[nn.Module]], Any]) -> None:
        super().__init__()
        self.layers = hold([nn.Linear(64, 64), nn.Linear(64, 64)])
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        layers = self.layers.values() if isinstance(self.layers, dict) else self.layers
        for layer in layers:
            x = F.relu(layer(x))
        out: Tensor = self.head(x)
        return out


def _named(layers: list[nn.Module]) -> dict[str, nn.Module]:
    return dict(zip(("first", "second"), layers, strict=True))


@pytest.mark.parametrize(
    ("hold", "name"),
    [(list, "layers[0].weight"), (tuple, "layers[0].weight"), (_named, "layers['first'].weight")],
)
def test_layers_in_a_plain_container(hold: Any, name: str, digits: Digits) -> None:
    torch.manual_seed(0)
    model = Listed(hold)
    assert [each for each, _ in model.named_parameters()] == ["head.weight", "head.bias"]
    report = gradcheckup.diagnose(model, digits(), CE, optimizer=SGD)
    (first,) = report.findings
    assert (first.code, first.cause, first.severity.value) == (
        "GC303",
        "not-registered",
        "critical",
    )
    assert (first.layers[0], len(first.layers)) == (name, 4)
    assert "4 of 6 parameters got a gradient and did not change" in str(report)
    assert all(each.grad is None for layer in Listed(list).layers for each in layer.parameters())


def test_a_weight_that_is_no_parameter(digits: Digits) -> None:
    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = (torch.randn(64, 64) / 8).requires_grad_()
            self.head = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(F.relu(x @ self.weight))
            return out

    torch.manual_seed(0)
    first = found(Loose(), digits(), optimizer=SGD)
    assert (first.code, first.layers) == ("GC303", ("weight",))


@pytest.mark.parametrize("how", ["registered", "in_the_optimizer", "frozen", "eval", "no_grad"])
def test_what_is_kept_in_a_list_on_purpose(how: str, digits: Digits) -> None:
    """Layers that the optimizer has all the same; a helper that is frozen or never asked."""

    class Helped(Listed):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                shift = self.layers[0](x)
            out: Tensor = self.head(x + shift)
            return out

    torch.manual_seed(0)
    hold = nn.ModuleList if how == "registered" else list
    model = Helped(hold) if how == "no_grad" else Listed(hold)
    for layer in model.layers:
        if how == "eval":
            layer.eval()
        layer.requires_grad_(how != "frozen")
    own = [*model.parameters()]
    if how == "in_the_optimizer":
        own += [each for layer in model.layers for each in layer.parameters()]
    optimizer = torch.optim.SGD(own, lr=0.01, momentum=0.9)
    assert gradcheckup.diagnose(model, digits(), CE, optimizer=optimizer).healthy


def test_a_backbone_frozen_by_accident_is_listed(digits: Digits) -> None:
    """It cannot be known whether it was meant, so it is said and is no failure."""
    model = _mlp(64, 64, 64, 10).requires_grad_(False)
    model[4] = nn.Linear(64, 10)
    report = gradcheckup.diagnose(model, digits(), CE, optimizer=SGD)
    (said,) = report.findings
    assert said.code == "GC502"
    assert said.layers == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert "GC502" in str(report)


def test_freezing_a_module_by_assignment_is_misspelt(digits: Digits) -> None:
    model = _mlp(64, 64, 64, 10)
    model[0].requires_grad = False  # type: ignore[assignment]
    (said,) = gradcheckup.diagnose(model, digits(), CE, optimizer=SGD).findings
    assert (said.code, said.layers) == ("GC503", ("0.requires_grad",))


# -- NaN -----------------------------------------------------------------------------------------


class Steps(nn.Module):
    def __init__(self, how: Function) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(64, 64) for _ in range(3))
        self.head = nn.Linear(64, 10)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.how(self.second(F.relu(self.first(x))))
        out: Tensor = self.head(F.relu(self.third(x)))
        return out


BROKEN: dict[str, Function] = {
    "log": torch.log,
    "root": torch.sqrt,
    "division": lambda x: x / F.relu(x),
    "norm_of_zeros": lambda x: 0 * x / (0 * x).norm(dim=1, keepdim=True),
    "masked_softmax": lambda x: torch.softmax(x.masked_fill(x < 9, -math.inf), dim=-1),
}


@pytest.mark.parametrize("how", BROKEN)
def test_nan_is_named_where_it_arose(how: str, digits: Digits) -> None:
    torch.manual_seed(0)
    report = gradcheckup.diagnose(Steps(BROKEN[how]), digits(), CE, optimizer=SGD)
    (first,) = report.findings
    assert first.code == "GC401"
    # Nothing in front of it is blamed: the first layer at fault is the softmax, or what comes next.
    assert first.culprit in {"softmax", "third"}
    assert "vanish" not in str(report)


def test_nan_that_comes_later(digits: Digits) -> None:
    """One batch has a row of zeros, which cannot be brought to unit length."""
    torch.manual_seed(0)
    data = digits()
    data[5][0][3] = 0
    model = nn.Sequential(Normalised(), *_mlp(64, 32, 10))
    first = found(model, data, optimizer=SGD)
    assert first.code in {"GC401", "GC402"}
    assert first.steps == (5,)


class Normalised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=1, keepdim=True)
