"""How outputs answer an update, against autograd by hand in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradcheckup
from gradcheckup.records import Response

Optimizer = Callable[..., torch.optim.Optimizer]


def _net(act: Callable[[], nn.Module] = nn.Tanh, depth: int = 2) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(6, 16), act()]
    for _ in range(depth - 1):
        layers += [nn.Linear(16, 16), act()]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def _batches(count: int = 4, size: int = 12) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 6, generator=generator),
            torch.randint(3, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def _by_hand(
    model: nn.Module, data: list[tuple[Tensor, Tensor]], make: Optimizer
) -> list[dict[str, float]]:
    """The same numbers from a plain training loop in float64."""
    model = copy.deepcopy(model).double()
    optimizer = make(model.parameters())
    found = []
    for inputs, targets in data:
        optimizer.zero_grad()
        outputs = model(inputs.double())
        (gradient,) = torch.autograd.grad(
            nn.functional.cross_entropy(outputs, targets), outputs, retain_graph=True
        )
        nn.functional.cross_entropy(outputs, targets).backward()
        optimizer.step()
        with torch.no_grad():
            change = model(inputs.double()) - outputs
        rows = len(inputs)
        centre = torch.eye(rows, dtype=torch.float64) - 1 / rows
        mean = torch.full((rows, rows), 1 / rows, dtype=torch.float64)
        found.append(
            {
                "gradient_common": float((mean @ gradient).norm()),
                "gradient_distinct": float((centre @ gradient).norm()),
                "change_common": float((mean @ change).norm()),
                "change_distinct": float((centre @ change).norm()),
                "progress": -float((gradient * (centre @ change)).sum()),
            }
        )
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    ],
)
def test_response_agrees_with_autograd_in_float64(make: Optimizer) -> None:
    torch.manual_seed(0)
    model, data = _net(), _batches()
    report = gradcheckup.diagnose(
        model, data, nn.CrossEntropyLoss(), optimizer=lambda net: make(net.parameters()), steps=4
    )
    assert [step.response is None for step in report.steps] == [True, True, False, False]
    for step, expected in list(zip(report.steps, _by_hand(model, data, make), strict=True))[2:]:
        for name, value in expected.items():
            assert getattr(step.response, name) == pytest.approx(value, rel=1e-3), name


def test_a_linear_model_has_the_condition_of_its_kernel() -> None:
    """With f = w·x and SGD, Δf = -lr·K·g: the kernel K says how much faster outputs move together.

    Inputs (1, ±e) make K = 1 + e²·ss': its eigenvalue is n for the mean, e²·n for the rest.
    """
    small = 1e-2
    signs = torch.tensor([1.0, -1.0] * 8)
    inputs = torch.stack([torch.ones(16), small * signs], dim=1)
    targets = (signs + 0.3)[:, None]
    model = nn.Linear(2, 1, bias=False)
    report = gradcheckup.diagnose(
        model,
        (inputs, targets),
        nn.MSELoss(),
        optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=1e-2),
        steps=2,
    )
    response = report.steps[1].response
    assert response is not None
    assert response.condition == pytest.approx(1 / small**2, rel=0.02)


def test_dropout_draws_the_same_masks_again() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    report = gradcheckup.diagnose(
        model,
        _batches(),
        nn.CrossEntropyLoss(),
        optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=1e-9),
        steps=4,
    )
    response = report.steps[-1].response
    # Other masks would change the outputs by their own size, about 1 each.
    assert response is not None
    assert response.change_distinct < 1e-5


def test_running_statistics_see_a_batch_once() -> None:
    """What a measured net has become is what a plain loop makes of it."""
    seen: list[Tensor] = []

    class Counting(nn.BatchNorm1d):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
            seen.append(self.running_mean.clone())  # type: ignore[union-attr]
            return super().forward(input)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Counting(8), nn.Linear(8, 3))
    plain = copy.deepcopy(model)
    gradcheckup.diagnose(model, _batches(), nn.CrossEntropyLoss(), optimizer=_sgd, steps=4)
    measured, seen[:] = list(seen), []
    optimizer = _sgd(plain)
    for inputs, targets in _batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(inputs), targets).backward()
        optimizer.step()
    # Steps 2 and 3 run twice, the second time from where the first one ended.
    once = [measured[k] for k in (0, 1, 2, 4)]
    for mean, expected in zip(once, seen, strict=True):
        torch.testing.assert_close(mean, expected, rtol=0, atol=0)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class TwoForwards(nn.Module):
    """Counts how often it is called, and refuses to be called too often."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.layer, self.calls, self.most = nn.Linear(6, 3), 0, most

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        if self.calls > self.most:
            raise RuntimeError("called too often")
        return self.layer(x)


def test_a_model_that_cannot_run_again_is_judged_without_it() -> None:
    report = gradcheckup.diagnose(
        TwoForwards(2), _batches(2), nn.CrossEntropyLoss(), optimizer=_sgd, steps=2
    )
    assert report.steps[1].response is None


def test_a_batch_of_one_and_compute_loss_have_no_response() -> None:
    single = [(inputs[:1], targets[:1]) for inputs, targets in _batches()]
    report = gradcheckup.diagnose(_net(), single, nn.CrossEntropyLoss(), optimizer=_sgd, steps=4)
    assert all(step.response is None for step in report.steps)

    def compute_loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    report = gradcheckup.diagnose(
        _net(), _batches(), compute_loss=compute_loss, optimizer=_sgd, steps=4
    )
    assert all(step.response is None for step in report.steps)


@pytest.mark.parametrize("missing", ["gradient_common", "gradient_distinct"])
def test_condition_needs_both_gradients(missing: str) -> None:
    values = dict.fromkeys(
        ("gradient_common", "gradient_distinct", "change_common", "change_distinct"), 1.0
    )
    whole = Response(**values, resolution=0.0, progress=0.0)
    assert whole.condition == 1.0
    assert Response(**values | {missing: 0.0}, resolution=0.0, progress=0.0).condition is None


def test_a_change_below_the_resolution_counts_as_the_resolution() -> None:
    response = Response(
        gradient_common=1.0,
        gradient_distinct=1.0,
        change_common=1.0,
        change_distinct=0.0,
        resolution=1e-3,
        progress=0.0,
    )
    assert math.isclose(response.condition or 0.0, 1e3)
