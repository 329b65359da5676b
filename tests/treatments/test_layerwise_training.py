"""`layerwise_training`: what is frozen stands still, and what is not in yet has no say."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

import gradcheckup

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3
CROSS_ENTROPY = nn.CrossEntropyLoss()


class Mlp(nn.Module):
    """Activations in the forward, a norm between, and a temperature behind the output layer."""

    def __init__(self, widths: tuple[int, ...] = (6, 8, 8, 8, 8, 8)) -> None:
        super().__init__()
        pairs = pairwise(widths)
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairs)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.output = nn.Linear(widths[-1], 3)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = torch.tanh(norm(layer(x)))
        return self.output(x) * self.temperature  # type: ignore[no-any-return]


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 9, 3),
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(3)
        )
        self.output = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.output(x)  # type: ignore[no-any-return]


PICTURES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
NETS = {
    "mlp": (Mlp, X),
    "widths": (lambda: Mlp((6, 8, 9, 10, 11, 12)), X),
    "convolutions": (convolutions, PICTURES),
    "residual": (Residual, X),
}


def treat(
    model: nn.Module, x: Tensor = X, optimizer: Any = None, **options: float
) -> gradcheckup.treating.Treated:
    return gradcheckup.treat(
        model, "layerwise_training", (x, Y), CROSS_ENTROPY, optimizer=optimizer, **options
    )


def planned(name: str, **options: float) -> tuple[gradcheckup.treating.Treated, Tensor]:
    torch.manual_seed(0)
    make, x = NETS[name]
    return treat(make(), x, lambda m: AdamW(m.parameters(), 0.01), **options), x


def train(model: nn.Module, optimizer: Optimizer, x: Tensor, steps: int = 3) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = CROSS_ENTROPY(model(x), Y)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_stages_of_a_chain() -> None:
    result = treat(Mlp())
    stages = result.plan.stages
    assert [each.trains for each in stages] == [
        ("hidden.0", "hidden.1", "output"),
        ("hidden.2", "hidden.3", "output"),
        ("hidden.0", "hidden.1", "hidden.2", "hidden.3", "hidden.4", "output"),
    ]
    assert [each.name for each in stages][-1] == "everything"
    assert [each.index for each in stages] == [0, 1, 2]
    assert len(treat(Mlp(), layers_per_stage=1).plan.stages) == 5
    assert stages[-1].head is None


@pytest.mark.parametrize(
    ("budget", "shares"), [(100, [25, 25, 50]), (101, [25, 25, 51]), (7, [1, 1, 5]), (1, [1, 1, 1])]
)
def test_half_of_a_training_is_for_the_last_stage(budget: int, shares: list[int]) -> None:
    result = treat(Mlp())
    given = []
    for stage, steps, last in result.plan.shared_out(budget):
        given.append(steps)
        assert last == (stage.name == "everything")
        training = {id(each) for each in result.model.parameters() if each.requires_grad}
        assert training == {id(each) for each in stage.parameters()}  # it has begun
    assert given == shares


def test_a_copy_is_trained_in_place_of_a_treated_model() -> None:
    """With its plan, whose optimizers are the copy's own."""
    result = treat(Mlp(), optimizer=lambda model: Adam(model.parameters(), 0.01))
    before = {key: each.detach().clone() for key, each in result.model.named_parameters()}
    twin = result.copy()
    losses = []
    for each in (twin, result):
        losses.append([train(each.model, x.optimizer, X) for x in each.plan.stages])
        if each is twin:
            for key, parameter in result.model.named_parameters():
                assert torch.equal(parameter, before[key])
    assert losses[0] == losses[1]
    assert not torch.equal(result.model.output.weight, before["output.weight"])


def test_a_norm_is_trained_with_its_layer_and_what_is_behind_the_output_always() -> None:
    result = treat(Mlp())
    names = {id(each): name for name, each in result.model.named_parameters()}
    found = {names[id(each)].rpartition(".")[0] for each in result.plan.stages[1].parameters()}
    assert found == {"hidden.2", "hidden.3", "norms.2", "norms.3", "output", ""}
    assert "temperature" in {names[id(each)] for each in result.plan.stages[1].parameters()}


@pytest.mark.parametrize("name", NETS)
def test_what_is_frozen_stands_still_to_the_bit(name: str) -> None:
    """Under AdamW, whose decay and momentum move what has a zero for a gradient."""
    result, x = planned(name)
    moved_at_all: set[str] = set()
    train(result.model, result.optimizer, x)
    for stage in result.plan.stages:
        chosen = {id(each) for each in stage.parameters()}
        before = {key: each.detach().clone() for key, each in result.model.named_parameters()}
        train(result.model, stage.optimizer, x)
        for key, each in result.model.named_parameters():
            assert each.requires_grad == (id(each) in chosen)
            assert (each.grad is None) == (id(each) not in chosen)
            if id(each) in chosen:
                assert not torch.equal(each, before[key])
                moved_at_all.add(key)
            else:
                assert torch.equal(each, before[key])
    assert moved_at_all == {key for key, _ in result.model.named_parameters()}


@pytest.mark.parametrize("name", NETS)
def test_layers_that_are_not_in_yet_have_no_say(name: str) -> None:
    result, x = planned(name)
    result.model.eval()
    trained: set[int] = set()
    for stage in result.plan.stages:
        trained |= {id(each) for each in stage.parameters()}
        with torch.no_grad():
            outputs = result.model(x)
            kept = copy.deepcopy(result.model.state_dict())
            for key, each in result.model.named_parameters():
                if id(each) not in trained and not key.startswith(("output", "10.")):
                    each.fill_(float("nan"))
            assert torch.equal(result.model(x), outputs)
            result.model.load_state_dict(kept)
            # And every layer that is in has one.
            for each in stage.parameters():
                value = each.clone()
                each.add_(torch.randn_like(each))
                assert not torch.equal(result.model(x), outputs)
                each.copy_(value)


def test_the_output_layer_reads_what_the_next_layer_is_given() -> None:
    """Worked out layer by layer; all but the cut is the user's forward."""
    torch.manual_seed(0)
    model = Mlp()
    result = treat(model)
    stage = result.plan.stages[0]
    stage.begin()
    state = X
    for index in range(2):
        state = torch.tanh(model.norms[index](model.hidden[index](state)))
    assert torch.equal(result.model(X), model.output(state) * model.temperature)
    loss = CROSS_ENTROPY(result.model(X), Y)
    loss.backward()
    CROSS_ENTROPY(model.output(state) * model.temperature, Y).backward()
    for one, other in zip(result.model.parameters(), model.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)
        else:
            assert other.grad is None
    stage.end()
    assert torch.equal(result.model(X), model(X))


@pytest.mark.parametrize("name", NETS)
def test_between_the_stages_the_model_is_whole(name: str) -> None:
    result, x = planned(name)
    original = NETS[name][0]()
    keys = list(original.state_dict())

    def whole() -> None:
        model = copy.deepcopy(result.model)
        assert not any(each._forward_hooks for each in model.modules())
        assert not any(each._forward_pre_hooks for each in model.modules())
        assert all(each.requires_grad for each in model.parameters())
        assert list(model.state_dict()) == keys
        original.load_state_dict(model.state_dict())
        model.eval()
        assert torch.equal(model(x), original.eval()(x))

    whole()
    for stage in result.plan.stages:
        assert list(result.model.state_dict()) == keys
        train(result.model, stage.optimizer, x)
        if stage.index == 1:
            break
    whole()
    result.plan.stages[0].begin()
    result.plan.stages[1].begin()
    assert sum(len(each._forward_pre_hooks) for each in result.model.modules()) <= 2
    result.plan.finish()
    whole()
    result.plan.finish()
    result.plan.stages[0].end()
    whole()
    train(result.model, result.optimizer, x)


def test_an_error_in_a_stage_leaves_the_model_whole() -> None:
    result = treat(Mlp())

    def loop() -> None:
        for _ in result.plan.stages:
            raise RuntimeError("a mistake of the user's")

    with pytest.raises(RuntimeError):
        loop()
    assert all(each.requires_grad for each in result.model.parameters())
    assert not any(each._forward_pre_hooks for each in result.model.modules())


def test_a_stage_has_an_optimizer_of_the_same_kind_and_settings() -> None:
    def make(model: nn.Module) -> Optimizer:
        assert isinstance(model, Mlp)
        return Adam(
            [
                {"params": model.hidden.parameters(), "lr": 0.5},
                {"params": [*model.norms.parameters(), *model.output.parameters()]},
            ],
            lr=0.1,
            betas=(0.8, 0.9),
        )

    result = treat(Mlp(), optimizer=make)
    stage = result.plan.stages[0]
    with pytest.raises(gradcheckup.UsageError, match="stage 0 has not begun"):
        _ = stage.optimizer
    stage.begin()
    assert type(stage.optimizer) is Adam
    assert [each["lr"] for each in stage.optimizer.param_groups] == [0.5, 0.1]
    assert stage.optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    held = [id(each) for group in stage.optimizer.param_groups for each in group["params"]]
    temperature = id(result.model.temperature)
    assert set(held) == {id(each) for each in stage.parameters()} - {temperature}
    assert not stage.optimizer.state
    # The user's own goes on from where it was.
    assert sum(len(group["params"]) for group in result.optimizer.param_groups) == 22


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda m: torch.optim.LBFGS(m.parameters(), lr=0.1, max_iter=2),
        lambda m: SGD(m.parameters(), lr=torch.tensor(0.1), foreach=False),
    ],
)
def test_optimizers_of_other_kinds(make: Any, used: bool) -> None:
    model = Mlp((6, 8, 9, 10))
    own = make(model)
    if used:
        CROSS_ENTROPY(model(X), Y).backward()
        own.step(lambda: CROSS_ENTROPY(model(X), Y))
    result = treat(model, optimizer=own, layers_per_stage=1)
    for stage in result.plan.stages:
        optimizer = stage.optimizer
        before = [each.detach().clone() for each in stage.parameters()]

        def closure(optimizer: Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = CROSS_ENTROPY(result.model(X), Y)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert not any(map(torch.equal, before, stage.parameters()))


def test_clipping_goes_into_the_stages() -> None:
    result = gradcheckup.treat(
        Mlp(), "gradient_clipping + layerwise_training", (X, Y), CROSS_ENTROPY, max_norm=1e-3
    )
    for stage in result.plan.stages:
        train(result.model, stage.optimizer, X, 1)
        total = torch.cat([each.grad.flatten() for each in stage.parameters()]).norm()
        assert total == pytest.approx(1e-3, rel=1e-2)


def test_what_the_user_froze_stays_frozen() -> None:
    model = Mlp()
    model.hidden[0].requires_grad_(False)
    result = treat(model)
    for stage in result.plan.stages:
        train(result.model, stage.optimizer, X)
        assert not result.model.hidden[0].weight.requires_grad
    assert torch.equal(result.model.hidden[0].weight, model.hidden[0].weight)
    assert not result.model.hidden[0].weight.requires_grad


def test_a_head_reads_pictures_and_follows_the_model() -> None:
    torch.manual_seed(0)
    result = treat(convolutions().double(), PICTURES.double(), layers_per_stage=1)
    for stage in result.plan.stages:
        assert (stage.head is None) == (stage.name == "everything")
        assert all(each.dtype is torch.float64 for each in stage.parameters())
        assert result.model(PICTURES.double()).shape == (16, 3)
    assert stage.name == "everything"


@pytest.mark.parametrize("sequence_first", [True, False])
def test_a_head_reads_the_mean_of_a_sequence(sequence_first: bool) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lookup = nn.Embedding(10, 4)
            self.layers = nn.ModuleList(
                nn.LSTM(4, 4, batch_first=not sequence_first) for _ in range(3)
            )
            self.output = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.lookup(x)
            for layer in self.layers:
                x, _ = layer(x)
            return self.output(x[-1] if sequence_first else x[:, -1])  # type: ignore[no-any-return]

    tokens = torch.randint(10, (5, 16) if sequence_first else (16, 5))
    torch.manual_seed(0)
    result = gradcheckup.treat(
        Tagger(),
        "layerwise_training",
        (tokens, Y),
        CROSS_ENTROPY,
        compute_loss=lambda model, each: CROSS_ENTROPY(model(each[0]), each[1]),
        layers_per_stage=1,
    )
    stages = result.plan.stages
    assert [each.name for each in stages] == ["layers.0", "layers.1", "everything"]
    found = {id(each) for each in stages[0].parameters()}
    assert id(result.model.lookup.weight) in found
    stages[0].begin()
    inner, _ = result.model.layers[0](result.model.lookup(tokens))
    mean = inner.mean(0 if sequence_first else 1)
    torch.testing.assert_close(result.model(tokens), stages[0].head[1](mean))


def test_diagnose_sees_the_net_as_it_is_in_a_stage() -> None:
    """Eight sigmoids are too many for the gradient, two are not."""
    torch.manual_seed(0)
    layers = [nn.Linear(16, 16) for _ in range(8)]
    pairs = [each for layer in layers for each in (layer, nn.Sigmoid())]
    model = nn.Sequential(*pairs, nn.Linear(16, 3))
    data = (torch.randn(16, 16), Y)
    result = gradcheckup.treat(model, "layerwise_training", data, CROSS_ENTROPY)
    whole = gradcheckup.diagnose(result.model, data, CROSS_ENTROPY, optimizer=result.optimizer)
    assert "GC101" in {each.code for each in whole.findings}
    stage = result.plan.stages[0]
    stage.begin()
    values = copy.deepcopy(result.model.state_dict())
    early = gradcheckup.diagnose(result.model, data, CROSS_ENTROPY, optimizer=stage.optimizer)
    assert early.end_to_end_ratio > 0.05
    assert all(map(torch.equal, values.values(), result.model.state_dict().values()))


def test_compiled_models_follow_the_stages() -> None:
    torch.manual_seed(0)
    result = treat(Mlp())
    compiled = torch.compile(result.model, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(X), result.model(X))
        for _ in result.plan.stages:
            assert torch.allclose(compiled(X), result.model(X))
    torch._dynamo.reset()


def test_the_snippet_is_a_loop_over_the_stages() -> None:
    torch.manual_seed(0)
    model = Mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    result = treat(model, optimizer=optimizer)
    scope: dict[str, Any] = {
        "gradcheckup": gradcheckup,
        "model": model,
        "data": [(X, Y)],
        "criterion": CROSS_ENTROPY,
        "optimizer": optimizer,
    }
    exec(result.snippet, scope)  # noqa: S102 - what a user pastes
    for stage in result.plan.stages:
        train(result.model, stage.optimizer, X, 1)
    pairs = zip(result.model.parameters(), scope["treated"].model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


class Unrolled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.RNNCell(6, 6) for _ in range(3))
        self.output = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = [x, x, x]
        for _ in range(4):
            below = x
            for index, cell in enumerate(self.cells):
                below = states[index] = cell(below, states[index])
        return self.output(states[-1])  # type: ignore[no-any-return]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
        self.one = nn.Linear(6, 3)
        self.other = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return self.one(x) + self.other(x)  # type: ignore[no-any-return]


class SideBySide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.output = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(sum(torch.relu(each(x)) for each in self.branches))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (
            Mlp((6, 8, 8)),
            {},
            "expected at least 3 hidden layers to train one after the other, got 2",
        ),
        (Mlp(), {"layers_per_stage": 5}, "no place behind 5 of the 5 hidden layers"),
        (Unrolled(), {}, "cells.0 is called 4 times"),
        (TwoHeads(), {}, "one output layer behind all others, got one, other"),
        (SideBySide(), {}, "no place behind 2 of the 4 hidden layers"),
    ],
)
def test_where_it_does_not_apply_it_says_why(
    model: nn.Module, options: dict[str, float], said: str
) -> None:
    with pytest.raises(gradcheckup.TreatmentError, match=said):
        treat(model, **options)


def test_stages_are_planned_last() -> None:
    with pytest.raises(gradcheckup.TreatmentError, match="name the treatment that plans them last"):
        gradcheckup.treat(Mlp(), "layerwise_training + gradient_clipping", (X, Y), CROSS_ENTROPY)
    assert gradcheckup.treat(Mlp(), "gradient_clipping", (X, Y), CROSS_ENTROPY).plan is None
