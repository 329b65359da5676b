"""What `diagnose` says to a caller who got an argument wrong, and what it makes of right ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gradcheckup

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 3
CROSS_ENTROPY = nn.CrossEntropyLoss()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": nn.Linear}, "UsageError", "the class Linear: pass an instance"),
        ({"model": "resnet18"}, "UsageError", "expected a torch.nn.Module, got str"),
        ({"data": "digits"}, "DataError", "expected a batch"),
        ({"data": None}, "DataError", "got NoneType"),
        ({"data": []}, "DataError", "the list is empty"),
        ({"data": (np.zeros((6, 4)), Y)}, "DataError", "got a numpy array of shape (6, 4)"),
        ({"data": {"x": np.zeros(3)}}, "DataError", "torch.as_tensor"),
        ({"data": X}, "LossError", "they carry no targets"),
        ({"data": (X.to("meta"), Y)}, "DataError", "batch 0 has one on the meta device"),
        ({"data": (X * float("nan"), Y)}, "DataError", "batch 0 has 24 NaN or Inf"),
        ({"criterion": nn.CrossEntropyLoss}, "UsageError", "an instance, CrossEntropyLoss()"),
        ({"criterion": 5}, "UsageError", "expected criterion to be a function, got int"),
        ({"compute_loss": 5}, "UsageError", "expected compute_loss to be a function"),
        ({"compute_loss": lambda *_: torch.zeros(())}, "LossError", "to require grad"),
        ({"compute_loss": lambda *_: 0.5}, "LossError", "to be a scalar tensor, got float"),
        ({"criterion": nn.CrossEntropyLoss(reduction="none")}, "LossError", "shape (6,)"),
        ({"optimizer": "adam"}, "UsageError", "got str"),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)},
            "UsageError",
            "holds none of them",
        ),
        ({"optimizer": lambda _: None}, "UsageError", "to return a torch.optim.Optimizer"),
        (
            {"optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=-1)},
            "UsageError",
            "cannot be created: ValueError",
        ),
        ({"steps": 0}, "UsageError", "at least 1, got 0"),
        ({"steps": 1.5}, "UsageError", "got 1.5"),
        ({"steps": "8"}, "UsageError", "got '8'"),
        ({"steps": True}, "UsageError", "got True"),
        ({"batches": 0}, "UsageError", "batches to be a whole number of at least 1, got 0"),
        ({"batches": 9}, "UsageError", "got batches=9: give steps=9 as well"),
        ({"steps": 2, "batches": 3}, "UsageError", "at most as many batches as steps, 2"),
        ({"seed": -1}, "UsageError", "got -1"),
        ({"thresholds": 3}, "UsageError", "a mapping, got int"),
        ({"thresholds": {"dead_warnin": 0.3}}, "UsageError", "did you mean dead_warning?"),
        ({"thresholds": {1: 2}}, "UsageError", "unknown threshold 1"),
        ({"select": 5}, "UsageError", "expected rule codes or names, got 5"),
        ({"ignore": [5]}, "UsageError", "got [5]"),
        ({"data": (torch.randn(0, 4), Y[:0])}, "DataError", "batch 0 is empty"),
        ({"thresholds": {"dead_warning": "0.3"}}, "UsageError", "must be a number"),
        ({"select": ["GC109"]}, "UsageError", "got 'GC109': did you mean GC10"),
        ({"select": ["GC101"], "ignore": ["GC1"]}, "UsageError", "is ignored as well"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], error: str, said: str) -> None:
    given = {"model": net(), "data": (X, Y), "criterion": CROSS_ENTROPY, **arguments}
    with pytest.raises(getattr(gradcheckup, error)) as caught:
        gradcheckup.diagnose(given.pop("model"), given.pop("data"), **given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_shape_names_the_layer_and_what_ran() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(9, 3))
    with pytest.raises(gradcheckup.ModelError) as caught:
        gradcheckup.diagnose(model, (X, Y), CROSS_ENTROPY)
    assert "the forward failed in 2 (Linear)" in str(caught.value)
    assert "0 6x4" in str(caught.value)


def test_an_error_of_the_users_code_comes_with_their_lines() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).missing  # type: ignore[no-any-return]

    with pytest.raises(gradcheckup.ModelError) as caught:
        gradcheckup.diagnose(Broken(), (X, Y), CROSS_ENTROPY)
    assert "the forward failed in Broken (Broken): AttributeError" in str(caught.value)
    assert "return self.layer(x).missing" in (caught.value.traceback_text or "")


@pytest.mark.parametrize("model", [nn.Identity(), net().requires_grad_(False), nn.LazyLinear(3)])
def test_a_model_with_nothing_to_train(model: nn.Module) -> None:
    with pytest.raises(gradcheckup.ModelError):
        gradcheckup.diagnose(model, (X, Y), CROSS_ENTROPY)


def _batches() -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(3):
        yield X, Y


@pytest.mark.parametrize(
    "data",
    [(X, Y), [X, Y], [(X, Y)] * 2, _batches(), TensorDataset(X, Y)],
    ids=["tuple", "list", "batches", "generator", "dataset"],
)
def test_every_kind_of_data(data: Any) -> None:
    assert gradcheckup.diagnose(net(), data, CROSS_ENTROPY).healthy


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_as_many_steps_as_asked_for(steps: int) -> None:
    seen: list[tuple[int, int]] = []
    report = gradcheckup.diagnose(
        net(),
        (X, Y),
        CROSS_ENTROPY,
        steps=steps,
        follow=0,
        on_step=lambda *count: seen.append(count),
    )
    assert [step.index for step in report.steps] == list(range(steps))
    assert seen == [(done, steps) for done in range(1, steps + 1)]


@pytest.mark.parametrize(
    ("batches", "order"),
    [(None, [0, 1, 2, 3, 4]), (2, [0, 1, 0, 1, 0]), (1, [0] * 5), (5, [0, 1, 2, 3, 4])],
)
def test_as_many_batches_as_asked_for(batches: int | None, order: list[int]) -> None:
    """With a learning rate of 0, the loss of a step tells its batch."""
    model, read = net(), []

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(9):
            read.append(number)
            yield X + number, Y

    still = partial(torch.optim.SGD, lr=0.0)
    report = gradcheckup.diagnose(
        model, stream(), CROSS_ENTROPY, optimizer=still, steps=5, batches=batches, follow=0
    )
    wanted = [CROSS_ENTROPY(model(X + number), Y).item() for number in order]
    assert [step.loss for step in report.steps] == pytest.approx(wanted)
    assert read == sorted(set(order))  # no more than it takes
    assert report.recording.batches == len(read)


def test_assert_healthy_shows_the_report() -> None:
    layers = [nn.Sequential(nn.Linear(16, 16), nn.Sigmoid()) for _ in range(8)]
    report = gradcheckup.diagnose(
        nn.Sequential(*layers, nn.Linear(16, 3)), (torch.randn(32, 16), torch.arange(32) % 3)
    )
    with pytest.raises(AssertionError, match="GC101 vanishing-gradient") as caught:
        gradcheckup.assert_healthy(report)
    assert isinstance(caught.value, gradcheckup.UnhealthyError)
    gradcheckup.assert_healthy(gradcheckup.diagnose(net(), (X, Y), CROSS_ENTROPY))


def test_the_same_seed_gives_the_same_report() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    one, two, other = (
        gradcheckup.diagnose(model, (X, Y), CROSS_ENTROPY, seed=seed) for seed in (0, 0, 1)
    )
    assert one == two
    assert one != other


def test_data_that_fails_on_the_way_is_the_users() -> None:
    def broken() -> Iterator[tuple[Tensor, Tensor]]:
        yield X, Y
        raise OSError("disk gone")

    with pytest.raises(gradcheckup.DataError, match="failed after 1 batches: OSError: disk gone"):
        gradcheckup.diagnose(net(), broken(), CROSS_ENTROPY)


def test_assert_healthy_wants_a_report() -> None:
    with pytest.raises(gradcheckup.UsageError, match="expected a report of diagnose, got NoneType"):
        gradcheckup.assert_healthy(None)  # type: ignore[arg-type]
