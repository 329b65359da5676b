"""Exchanged optimizers against the update rules, written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradcheckup
from gradcheckup import treat

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[list[Tensor]]:
    """Trains, and returns the gradients of each step."""
    gradients = []
    for _ in range(count):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        gradients.append([each.grad.clone() for each in model.parameters()])  # type: ignore[union-attr]
        optimizer.step()
    return gradients


def updated(kind: str, start: Tensor, gradients: list[Tensor], lr: float) -> Tensor:
    """Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2; Hinton, lecture 6e."""
    w, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for t, g in enumerate(gradients, 1):
        if kind == "rmsprop":
            v = 0.99 * v + 0.01 * g**2
            w = w - lr * g / (v.sqrt() + 1e-8)
            continue
        if kind == "adamw":
            w = w - lr * 0.01 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return w


@pytest.mark.parametrize("kind", ["adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("given", [False, True])
def test_updates_follow_the_rule(kind: str, *, given: bool) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5) if given else None
    result = treat(model, f"optimizer:{kind}", X, optimizer=optimizer, lr=0.02)
    assert result.optimizer is not None
    start = [each.detach().clone() for each in model.parameters()]
    gradients = steps(result.model, result.optimizer, 3)
    for index, found in enumerate(result.model.parameters()):
        expected = updated(kind, start[index], [each[index] for each in gradients], 0.02)
        torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6)
    assert all(map(torch.equal, start, model.parameters()))
    assert all(each.grad is None for each in model.parameters())


def groups_of(optimizer: Any) -> list[tuple[int, float, float]]:
    return [
        (len(each["params"]), each["lr"], each["weight_decay"]) for each in optimizer.param_groups
    ]


@pytest.mark.parametrize("kind", ["adam", "adamw", "rmsprop"])
def test_groups_keep_their_proportions_and_their_decay(kind: str) -> None:
    model = net()
    optimizer = torch.optim.SGD(
        [
            {"params": [model[0].weight], "weight_decay": 0.3},
            {"params": [model[0].bias], "lr": 0.01},
            {"params": model[2].parameters(), "weight_decay": 0.0},
        ],
        lr=0.1,
        weight_decay=0.05,
    )
    result = treat(model, f"optimizer:{kind}", X, optimizer=optimizer)
    expected = [(1, 1e-3, 0.3), (1, 1e-4, 0.05), (2, 1e-3, 0.0)]
    assert [pytest.approx(each) for each in expected] == groups_of(result.optimizer)


@pytest.mark.parametrize("kind", ["adam", "adamw", "rmsprop"])
def test_the_snippet_makes_the_same_optimizer(kind: str) -> None:
    for settings in ({}, {"weight_decay": 0.05}):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **settings)
        result = treat(model, f"optimizer:{kind}", X, optimizer=optimizer)
        names: dict[str, Any] = {"torch": torch, "model": model}
        exec(result.snippet, names)  # noqa: S102 - what a user does with it
        assert type(names["optimizer"]) is type(result.optimizer)
        assert groups_of(names["optimizer"]) == groups_of(result.optimizer)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_snippet_keeps_the_groups(decay: float) -> None:
    """Of a part of the model, with a rate of 0 in front, as at the start of a warm-up."""
    model = net()
    groups: Any = [
        {"params": [model[0].bias], "lr": 0.0},
        {"params": [model[2].weight], "lr": 0.5, "weight_decay": decay},
        {"params": [model[2].bias], "lr": 0.05},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    result = treat(model, "optimizer", X, optimizer=optimizer, lr=0.02)
    names: dict[str, Any] = {"torch": torch, "model": model, "optimizer": optimizer}
    exec(result.snippet, names)  # noqa: S102 - what a user does with it
    found = groups_of(names["optimizer"])
    assert found == [pytest.approx(each) for each in groups_of(result.optimizer)]
    assert [each[1] for each in found] == pytest.approx([0.0, 0.02, 0.002])


def test_the_snippet_trains_what_the_optimizer_held() -> None:
    model = net()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    result = treat(model, "optimizer", X, optimizer=optimizer)
    names: dict[str, Any] = {"torch": torch, "model": model, "optimizer": optimizer}
    exec(result.snippet, names)  # noqa: S102 - what a user does with it
    assert groups_of(names["optimizer"]) == groups_of(result.optimizer) == [(2, 1e-3, 0.0)]


def test_weights_decay_as_they_did() -> None:
    """A weight without a gradient shrinks by decay alone: AdamW's w <- (1 - lr decay) w."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.2)
    result = treat(model, "optimizer:adamw", X, optimizer=optimizer, lr=0.5)
    for each in result.model.parameters():
        each.grad = torch.zeros_like(each)
    assert result.optimizer is not None
    result.optimizer.step()
    for after, before in zip(result.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(after, before * (1 - 0.5 * 0.2))


@pytest.mark.parametrize(
    ("before", "after"),
    [((0.0, 0.0), (1e-3, 1e-3)), ((0.0, 0.1), (0.0, 1e-3)), ((0.1, 0.0), (1e-3, 0.0))],
)
def test_rates_of_zero(before: tuple[float, float], after: tuple[float, float]) -> None:
    """All are 0 in the first step of a warm-up; a single one keeps its group still."""
    model = net()
    groups = [
        {"params": part.parameters(), "lr": rate}
        for part, rate in zip((model[0], model[2]), before, strict=True)
    ]
    result = treat(model, "optimizer", X, optimizer=torch.optim.SGD(groups))
    assert result.optimizer is not None
    assert [each["lr"] for each in result.optimizer.param_groups] == pytest.approx(after)


def test_frozen_parameters_stay_as_they_are() -> None:
    model = net()
    model[0].requires_grad_(requires_grad=False)
    for kind in ("adam", "adamw", "rmsprop"):
        result = treat(model, f"optimizer:{kind}", X)
        assert result.optimizer is not None
        assert sum(len(each["params"]) for each in result.optimizer.param_groups) == 2
        result.model(X).square().sum().backward()
        result.optimizer.step()
        assert torch.equal(result.model[0].weight, model[0].weight)
        assert not torch.equal(result.model[2].weight, model[2].weight)


def test_the_same_one_is_no_treatment() -> None:
    model = net()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    with pytest.raises(gradcheckup.TreatmentError, match=r"is Adam\(lr=0.001\) already"):
        treat(model, "optimizer", X, optimizer=adam)
    other = treat(model, "optimizer", X, optimizer=adam, lr=0.01).optimizer
    assert other is not None
    assert other.param_groups[0]["lr"] == 0.01
