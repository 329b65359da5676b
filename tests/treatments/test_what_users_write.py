"""Models as users write them: what a treatment does to them, and what its snippet does."""

from __future__ import annotations

import copy
import types
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup
from gradcheckup import TreatmentError, treat

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
Y = torch.randint(4, (32,), generator=torch.Generator().manual_seed(2))
LOSS = nn.CrossEntropyLoss()


def pasted(model: nn.Module, snippet: str, **names: Any) -> nn.Module:
    """The user's model, after the user has pasted a snippet."""
    scope: dict[str, Any] = {"model": model, "nn": nn, "torch": torch, **names}
    exec(snippet, scope)  # noqa: S102 - what a user does with it
    found: nn.Module = scope["model"]
    return found


def kinds(model: nn.Module) -> list[str]:
    """Classes of all modules, as a forward meets them."""
    every = model.named_modules(remove_duplicate=False)
    return [type(each).__name__ for _, each in every if not isinstance(each, nn.Sequential)]


# -- snippets --------------------------------------------------------------------------------------


def test_an_activation_that_stands_at_several_places_is_exchanged_at_all() -> None:
    act = nn.Sigmoid()
    model = nn.Sequential(nn.Linear(16, 16), act, nn.Linear(16, 16), act, nn.Linear(16, 4))
    result = treat(model, "activation", (X, Y), LOSS)
    assert "Sigmoid" not in kinds(result.model)
    assert kinds(pasted(model, result.snippet)) == kinds(result.model)


def test_a_layer_under_two_names_is_normalised_under_both() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc_in, self.mid = nn.Linear(16, 16), nn.Linear(16, 16)
            self.body = nn.Sequential(self.fc_in, nn.Sigmoid(), self.mid, nn.Sigmoid())
            self.out = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(self.body(x))
            return out

    model = Net()
    result = treat(model, "normalization", (X, Y), LOSS)
    found: Any = pasted(model, result.snippet)
    assert found.body[0] is found.fc_in
    assert found.body[2] is found.mid
    found.load_state_dict(result.model.state_dict())
    assert torch.equal(found.eval()(X), result.model.eval()(X))


def test_layers_whose_names_are_words_of_python() -> None:
    layers = {"in": nn.Linear(16, 16), "act": nn.Sigmoid(), "class": nn.Linear(16, 4)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    result = treat(model, "normalization", (X, Y), LOSS)
    assert kinds(pasted(model, result.snippet)) == kinds(result.model)


def test_a_snippet_tells_which_calls_stay() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.gate = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
            self.out = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.sigmoid(self.b(torch.sigmoid(self.a(x))))
            out: Tensor = self.out(x * torch.sigmoid(self.gate(x)))
            return out

    snippet = treat(Gated(), "activation", (X, Y), LOSS).snippet
    line = "F.relu(...) in place of sigmoid between layers; gates and what stands at the loss stay"
    assert f"# in Gated.forward: {line}" in snippet


def _lstm(**settings: Any) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = nn.LSTM(8, 16, batch_first=True, **settings)
            self.out = nn.Linear(settings.get("proj_size", 16), 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(self.core(x)[0][:, -1])
            return out

    return Net()


# Torch says that it has no fast path for projections.
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kind", ["plain", "projected", "frozen", "bfloat16"])
def test_the_weights_of_an_lstm_are_of_the_size_that_was_tried(kind: str) -> None:
    model = _lstm(**({"proj_size": 5} if kind == "projected" else {}))
    inputs = torch.randn(32, 12, 8)
    if kind == "frozen":
        model.core.weight_hh_l0.requires_grad_(False)
    if kind == "bfloat16":
        model, inputs = model.bfloat16(), inputs.bfloat16()
    before = copy.deepcopy(model)
    result = treat(model, "weight_scale", (inputs, Y), LOSS)
    found = pasted(model, result.snippet)
    for name, was in before.core.named_parameters():
        tried, got = (each.core.get_parameter(name).detach() for each in (result.model, found))
        assert torch.equal(got, was) == torch.equal(tried, was), name
        assert float(got.float().norm()) == pytest.approx(float(tried.float().norm()), rel=0.2)


def test_clipping_is_told_for_what_the_optimizer_holds() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    result = treat(model, "gradient_clipping", (X, Y), LOSS, optimizer=optimizer, max_norm=1e-3)
    LOSS(model(X), Y).backward()
    untouched = model[0].weight.grad.clone()
    pasted(model, result.snippet, optimizer=optimizer)
    assert torch.equal(model[0].weight.grad, untouched)
    total = torch.cat([each.grad.flatten() for each in model[2].parameters()]).norm()
    assert float(total) == pytest.approx(1e-3, rel=1e-3)


# -- forwards that a treatment would pass by -------------------------------------------------------


class ByClass(nn.Module):
    """Walks along its layers, and tells them by their class."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                x = torch.sigmoid(layer(x))
        out: Tensor = self.out(x)
        return out


class OwnList(nn.Module):
    """Calls its layers from a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.act = nn.Sigmoid()
        self.steps = [self.a, self.act, self.b, self.act, self.out]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.sigmoid(self.b(torch.sigmoid(self.a(x)))))
        return out


def _patched() -> nn.Module:
    model = Functional()
    model.forward = types.MethodType(Functional.forward, model)  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize(
    ("build", "key", "reason"),
    [
        (ByClass, "normalization", r"forward does not call layers\.0\.0 then; it tells layers by"),
        (OwnList, "normalization", r"forward does not call a\.1 then; .* a list of its own"),
        (OwnList, "activation", "sigmoid is called where it cannot be exchanged"),
        (_patched, "activation", "sigmoid is called where it cannot be exchanged"),
    ],
)
def test_what_a_forward_would_pass_by_is_refused(build: Any, key: str, reason: str) -> None:
    with pytest.raises(TreatmentError, match=reason):
        treat(build(), key, (X, Y), LOSS)


def test_a_sequential_that_is_walked_along_gets_its_skips_around_the_activations() -> None:
    class Walked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)))
            self.out = nn.Linear(16, 4)

        def forward(self, x: Tensor, *, skips: bool = False) -> Tensor:
            for layer in self.layers:
                x = torch.sigmoid(layer(x)) + (x if skips else 0)
            out: Tensor = self.out(x)
            return out

    model = Walked()
    result = treat(model, "skip_connection", (X, Y), LOSS)
    torch.testing.assert_close(result.model(X), model(X, skips=True))


def test_an_error_of_the_model_in_the_middle_of_a_treatment_is_a_refusal() -> None:
    class Collecting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(16, 16), nn.Sigmoid(), nn.Linear(16, 4)])

        def forward(self, x: Tensor) -> Tensor:
            seen = []
            for part in self.parts:
                x = part(x)
                if isinstance(part, nn.Sigmoid):
                    seen.append(x.detach().mean())
            return x + 0 * torch.stack(seen).sum()

    with pytest.raises(TreatmentError, match="the model cannot be changed so: RuntimeError: stack"):
        treat(Collecting(), "activation", (X, Y), LOSS)


@pytest.mark.parametrize("call", [torch.relu_, F.sigmoid, Tensor.relu_, torch.tanh])
def test_a_compiled_model_calls_the_new_activation_as_well(call: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(call(self.b(call(self.a(x)))))
            return out

    model = Net()
    treated = treat(model, "activation:gelu", (X, Y), LOSS).model
    model.load_state_dict(treated.state_dict())
    with torch.no_grad():
        found = torch.compile(treated, backend="eager")(X)
        torch.testing.assert_close(found, treated(X))
        assert not torch.allclose(found, model(X))


# -- what is the user's stays the user's -----------------------------------------------------------


def test_a_registry_of_classes_is_not_told_of_classes_made_on_the_fly() -> None:
    registry: dict[str, type] = {}

    class Registered(nn.Module):
        def __init_subclass__(cls, *, tag: str, **settings: Any) -> None:
            super().__init_subclass__(**settings)
            registry[tag] = cls

    class Net(Functional, Registered, tag="net"):
        pass

    result = treat(Net(), "activation", (X, Y), LOSS)
    assert registry == {"net": Net}
    assert not torch.equal(result.model(X), Net()(X))


def test_a_criterion_with_a_state_of_its_own_stays_as_it_is() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.calls += 1
            return self.scale * F.cross_entropy(outputs, targets)

    criterion = Counting()
    treat(Functional(), "normalization", (X, Y), criterion)
    assert float(criterion.calls) == 0
    assert criterion.scale.grad is None


@dataclass
class Answer:
    loss: Tensor


def test_a_loss_in_an_object_of_the_users_own() -> None:
    class Own(Functional):
        def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
            return Answer(F.cross_entropy(super().forward(x), y))

    result = treat(Own(), "normalization", {"x": X, "y": Y})
    assert "BatchNorm1d behind" in str(result.changes)


def test_widened_weights_stay_in_the_group_that_they_were_in() -> None:
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)), nn.Linear(16, 4))
    decayed = [each.weight for each in model]
    plain: Any = [each.bias for each in model]
    groups: Any = [{"params": decayed, "weight_decay": 0.1, "lr": 0.5}, {"params": plain}]
    plain.append(nn.Parameter(torch.zeros(1)))  # of the loss, so that this group is the largest
    optimizer = torch.optim.SGD(groups, lr=0.001)
    result = treat(model, "skip_connection:dense", (X, Y), LOSS, optimizer=optimizer)
    assert result.optimizer is not None
    names = {id(each): name for name, each in result.model.named_parameters()}
    first, second = (
        [names[id(each)] for each in group["params"] if id(each) in names]
        for group in result.optimizer.param_groups
    )
    assert first
    assert all(name.endswith("weight") for name in first)
    assert all(name.endswith("bias") for name in second)


# -- what counts as learning -----------------------------------------------------------------------


def prescribed(model: nn.Module, batch: Any, criterion: Any) -> gradcheckup.Prescription:
    return gradcheckup.prescribe(
        model,
        [batch],
        criterion,
        optimizer=lambda net: torch.optim.Adam(net.parameters(), lr=0.01),
        budget=80,
    )


def test_one_logit_has_no_classes_to_count() -> None:
    targets = (X[:, 0] > 0).long()

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs.squeeze(1), labels.float())

    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    found = prescribed(model, (X, targets), criterion)
    assert found.nothing is not None
    assert found.nothing.accuracy is None
    assert found.learns
    assert not found.needed


@pytest.mark.parametrize("ignored", [False, True])
def test_classes_stand_where_the_loss_looks_for_them(ignored: bool) -> None:
    """As many places as classes, in dimension 1; some of them are padding."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(20, 32), nn.Linear(32, 5)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(torch.relu(self.table(tokens))).transpose(1, 2)  # type: ignore[no-any-return]

    tokens = torch.randint(20, (32, 5), generator=torch.Generator().manual_seed(0))
    targets = tokens % 5
    if ignored:
        targets[:, 2:] = -100
    found = prescribed(Tagger(), (tokens, targets), LOSS)
    assert found.nothing is not None
    assert found.nothing.accuracy == 1.0
    assert found.nothing.outcomes[0].samples == (64 if ignored else 160)
    assert found.learns
