"""What float16 rounds away, against gradients worked out by hand and in float64."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup
from gradcheckup import statistics

SMALLEST = 2.0**-24
"""The smallest number of float16 above 0; its smallest normal one is 2^-14."""
NORMAL = 2.0**-14
SGD = functools.partial(torch.optim.SGD, lr=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.0, SMALLEST, -NORMAL / 2, NORMAL], 2 / 3),
        ([NORMAL, -2 * NORMAL, 0.0], 0.0),
        ([SMALLEST, -SMALLEST], 1.0),
        ([0.0, 0.0], 1.0),
        ([float("inf"), SMALLEST], 0.5),
    ],
)
def test_the_share_below_the_normal_range_by_hand(values: list[float], expected: float) -> None:
    found = statistics.underflow(torch.tensor(values, dtype=torch.float16))
    assert found is not None
    assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_formats_with_the_range_of_float32_have_no_share(dtype: torch.dtype) -> None:
    assert statistics.underflow(torch.tensor([0.0, 1e-30], dtype=dtype)) is None


def test_nothing_has_no_share() -> None:
    assert statistics.underflow(torch.empty(0, 3, dtype=torch.float16)) is None


# -- a linear layer, whose dL/dy is what the loss says ------------------------------------------


class Weighted(nn.Module):
    """L = sum of y times its targets, in float16 from y on: dL/dy is the targets, rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def _linear(size: float, steps: int = 4) -> tuple[gradcheckup.Report, float]:
    """A diagnosis, and the share that is lost of dL/dW = dL/dy^T x, by hand."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=generator).half()
    targets = size * torch.randn(32, 4, generator=generator, dtype=torch.float64)
    report = gradcheckup.diagnose(
        Weighted().half(),
        (x, targets),
        # A product in float32, whose gradient is cast to that of y: float16.
        lambda y, t: (y.float() * t.float()).sum(),
        optimizer=SGD,
        steps=steps,
    )
    true = targets.T @ x.double()
    rounded = (targets.half().double().T @ x.double()).half().double()
    return report, float(1 - (rounded * true).sum() / (true * true).sum())


@pytest.mark.parametrize("size", [10.0, 1.0, 0.3, 0.2, 0.01])
def test_the_share_that_is_lost_is_that_of_the_rounded_gradient(size: float) -> None:
    report, expected = _linear(size * SMALLEST)
    for step in report.steps[2:]:
        (layer,) = (each for each in step.layers if each.name == "fc")
        assert layer.gradient_underflow == 1.0
        weight = step.parameters[0]
        assert weight.gradient_lost == pytest.approx(expected, abs=2e-3)
    assert (size < 0.1) == (expected > 0.99)


def test_nothing_is_asked_in_the_first_half_nor_where_the_range_suffices() -> None:
    report, _ = _linear(SMALLEST)
    assert [each.gradient_lost is None for each in (s.parameters[0] for s in report.steps)] == [
        *(True, True),
        *(False, False),
    ]
    report, _ = _linear(1.0)
    assert all(step.parameters[0].gradient_lost is None for step in report.steps)
    assert report.layers[0].gradient_underflow < 0.01


# -- zeros that are no underflow ----------------------------------------------------------------


def _autocast(
    dtype: torch.dtype = torch.float16, scale: float = 1.0, enabled: bool = True
) -> Callable[[nn.Module, Any], Tensor]:
    """A loss under autocast, as users write it."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            logits = model(inputs)
        return scale * F.cross_entropy(logits.float(), labels)

    return loss


def _batches(*shape: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(16, *shape, generator=generator), torch.arange(16) % 4) for _ in range(4)]


class Masked(nn.Module):
    """ReLUs, dropout, padding and pooling: most elements of the gradients are exactly 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.drop = nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(F.pad(x, (3, 3, 3, 3)))), 2)
        x = self.drop(F.relu(self.norm(self.conv2(x))))
        return self.head(x.amax(dim=(2, 3)))


def _shares(report: gradcheckup.Report) -> list[float | None]:
    return [each.gradient_lost for each in report.steps[-1].parameters if len(each.shape) > 1]


def test_masks_dropout_and_padding_lose_nothing() -> None:
    torch.manual_seed(0)
    report = gradcheckup.diagnose(
        Masked(), _batches(2, 8, 8), compute_loss=_autocast(scale=1e-2), optimizer=SGD
    )
    assert all(share is not None and abs(share) < 0.02 for share in _shares(report))
    assert not any(each.code in ("GC403", "GC104") for each in report.findings)


def test_a_zero_that_a_scale_does_not_lift_is_a_zero_gradient() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softmax(dim=1))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            share = model(batch[0])
        return F.mse_loss(share.float(), torch.zeros(16, 1))

    report = gradcheckup.diagnose(net, _batches(6), compute_loss=loss, optimizer=SGD)
    assert [each.code for each in report.findings] == ["GC104"]
    assert _shares(report) == [None, None]


@pytest.mark.parametrize(
    "loss",
    [
        _autocast(torch.bfloat16, 1e-7),
        _autocast(scale=1e-7, enabled=False),
        _autocast(scale=2.0**14),
    ],
    ids=["bfloat16", "float32", "scaled"],
)
def test_other_formats_and_scaled_losses_are_not_asked(loss: Any) -> None:
    torch.manual_seed(0)
    report = gradcheckup.diagnose(
        nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)),
        _batches(6),
        compute_loss=loss,
        optimizer=torch.optim.Adam,
    )
    assert all(share is None for share in _shares(report))
    assert report.healthy


# -- the measurement ----------------------------------------------------------------------------


def test_asking_changes_no_loss() -> None:
    """Dropout, running statistics and momentum go on as in a plain loop."""
    torch.manual_seed(0)
    model, data, loss = Masked(), _batches(2, 8, 8), _autocast(scale=1e-4)
    plain = copy.deepcopy(model)
    make = functools.partial(torch.optim.SGD, lr=300.0, momentum=0.9)
    report = gradcheckup.diagnose(model, data, compute_loss=loss, optimizer=make, seed=3)
    assert all(share is not None for share in _shares(report))
    torch.manual_seed(3)
    optimizer = make(plain.parameters())
    for step, batch in zip(report.steps, [*data, *data], strict=True):
        optimizer.zero_grad()
        value = loss(plain, batch)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert step.loss == float(value.detach())


def test_a_loss_that_cannot_be_evaluated_again_is_one_measure_less() -> None:
    calls = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        calls.append(len(calls))
        if calls[-1] == 3:  # after the third step, which is the first of the second half
            raise RuntimeError("no more")
        return _autocast(scale=1e-6)(model, batch)

    report = gradcheckup.diagnose(
        nn.Linear(6, 4), _batches(6), compute_loss=loss, optimizer=SGD, steps=4
    )
    assert _first_shares(report) == [True, True, True, False]


def _first_shares(report: gradcheckup.Report) -> list[bool]:
    return [step.parameters[0].gradient_lost is None for step in report.steps]


# -- one cause, one finding ---------------------------------------------------------------------


def test_a_gradient_that_vanishes_is_not_blamed_on_float16() -> None:
    """float32 does not help a deep sigmoid net, whose first layer float16 takes for 0."""
    torch.manual_seed(0)
    layers = [(nn.Linear(6 if k == 0 else 64, 64), nn.Sigmoid()) for k in range(7)]
    net = nn.Sequential(*(each for pair in layers for each in pair), nn.Linear(64, 4))
    report = gradcheckup.diagnose(net, _batches(6), compute_loss=_autocast(), optimizer=SGD)
    (found,) = report.findings
    assert found.code == "GC101"
    assert "GC403" in {each.code for each in found.consequences}


def test_a_gradient_that_only_float16_loses_does_not_vanish() -> None:
    torch.manual_seed(0)
    layers = [(nn.Linear(6 if k == 0 else 64, 64), nn.Tanh()) for k in range(4)]
    net = nn.Sequential(*(each for pair in layers for each in pair), nn.Linear(64, 4))
    report = gradcheckup.diagnose(
        net, _batches(6), compute_loss=_autocast(scale=3e-7), optimizer=SGD
    )
    (found,) = report.findings
    assert (found.code, found.severity.value) == ("GC403", "critical")
    assert found.layers == ("0", "2", "4", "6", "8")
    assert found.observed == 1.0
