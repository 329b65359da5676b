"""Which module of a wrapper is the user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradcheckup
from gradcheckup.probe.subject import unwrap


class Delegating(nn.Module):
    """Answers for its inner module, as wrappers of peft and many of users' own do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.head = nn.Linear(6, 2)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.inner(x))


class Vague(Delegating):
    """Has every attribute that it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["_modules"].get(name)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def test_what_torch_and_its_wrappers_put_around_a_model_is_taken_off() -> None:
    model = nn.Sequential(nn.Linear(4, 6))
    for wrapped in (
        compiled(model),
        nn.DataParallel(model),
        nn.DataParallel(compiled(model)),
        compiled(nn.DataParallel(model)),
    ):
        assert unwrap(wrapped) is model
    assert unwrap(model) is model


@pytest.mark.parametrize("kind", [Delegating, Vague])
@pytest.mark.parametrize("inside", [compiled, nn.DataParallel, nn.Sequential])
def test_a_wrapper_of_the_users_is_no_wrapper_of_torch(kind: Any, inside: Any) -> None:
    """Nor is it one where it hands on the attributes of what it holds."""
    model = kind(inside(nn.Linear(4, 6)))
    assert unwrap(model) is model


@pytest.mark.parametrize("kind", [Delegating, Vague])
def test_all_layers_of_such_a_wrapper_are_watched_and_diagnosed(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 4), torch.randn(16, 2)
    loss = nn.MSELoss()
    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    for report in (monitor.report(), gradcheckup.diagnose(model, (x, y), loss)):
        assert report.recording.model == kind.__name__
        names = [layer.name for layer in report.layers if layer.kind == "linear"]
        assert names == ["inner.0", "inner.2", "head"]


def test_a_wrapper_around_a_compiled_part_is_seen_whole() -> None:
    torch.manual_seed(0)
    model = Delegating(compiled(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6))))
    report = gradcheckup.diagnose(model, (torch.randn(16, 4), torch.randn(16, 2)), nn.MSELoss())
    assert report.recording.model == "Delegating"
    names = [layer.name for layer in report.layers if layer.kind == "linear"]
    assert names == ["inner.0", "inner.2", "head"]
