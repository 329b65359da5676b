"""What regression tells of new batches: by scikit-learn, by theory, and of odd data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge  # type: ignore[import-untyped]
from torch import Tensor, nn

from gradcheckup.probe.regression import unexplained_variance

Batches = list[tuple[Any, Tensor]]
MODEL = nn.Identity()


def cut(inputs: Tensor, targets: Tensor, size: int = 32) -> Batches:
    """Batches of all samples."""
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def left(inputs: Tensor, targets: Tensor) -> float | None:
    """Of the last quarter, by the first three."""
    batches = cut(inputs, targets)
    at = len(batches) * 3 // 4
    return unexplained_variance(batches[:at], batches[at:], MODEL)


def test_it_is_one_of_what_scikit_learn_finds() -> None:
    """Its kernels and penalties are scikit-learn's; which of them, is told by the rest."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 6, generator=generator) * torch.arange(1.0, 7.0) + 3
    targets = inputs[:, :1].sin() + 0.1 * inputs[:, 1:2]
    known, new = inputs[:192].double().numpy(), inputs[192:].double().numpy()
    mean, scale = known.mean(0), known.std(0)
    known, new = (known - mean) / scale, (new - mean) / scale
    wanted, asked = targets[:192].double().numpy(), targets[192:].double().numpy()
    distances = ((known[:, None] - known[None]) ** 2).sum(-1)
    usual = float(torch.tensor(distances).median())
    found = []
    for penalty in (0.01, 0.1, 1.0, 10.0):
        linear = KernelRidge(alpha=penalty * known.shape[1], kernel="linear")
        gaussian = KernelRidge(alpha=penalty, kernel="rbf", gamma=1 / usual)
        for fitted in (linear, gaussian):
            said = fitted.fit(known, wanted - wanted.mean()).predict(new) + wanted.mean()
            spread = ((asked - wanted.mean()) ** 2).sum()
            found.append(float(((said - asked) ** 2).sum() / spread))
    share = left(inputs, targets)
    assert share is not None
    assert np.min(np.abs(np.array(found) - share)) < 1e-6
    assert share < 2 * min(found)  # told by the known samples alone


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_noise_is_what_it_leaves(noise: float) -> None:
    """Of y = x w + e it cannot explain more than var(xw) / (var(xw) + var(e))."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(1024, 5, generator=generator)
    signal = inputs @ torch.ones(5, 1) / 5**0.5
    targets = signal + noise * torch.randn(1024, 1, generator=generator)
    assert left(inputs, targets) == pytest.approx(noise**2 / (1 + noise**2), abs=0.06)


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("samples", [64, 512])
def test_of_targets_at_random_it_explains_nothing(classes: bool, samples: int) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(samples, 20, generator=generator)
        drawn = torch.randn(samples, 1, generator=generator)
        targets = (drawn[:, 0] > 0).long() if classes else drawn
        assert (left(inputs, targets) or 0.0) > 0.9


def test_what_is_not_linear_and_what_are_symbols() -> None:
    generator = torch.Generator().manual_seed(2)
    points = 2 * torch.rand(512, 2, generator=generator) - 1
    assert (left(points, (points.norm(dim=1) > 0.7).long()) or 1.0) < 0.5
    tokens = torch.randint(0, 8, (512, 6), generator=generator)
    assert (left(tokens, tokens[:, 2]) or 1.0) < 0.5
    assert (left(tokens, tokens.roll(1, 0)[:, 2]) or 0.0) > 0.9


def test_where_the_samples_stand() -> None:
    """Time first, in a mapping beside what is no part of it, as complex numbers or truth values."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(256, 4, generator=generator)
    targets = inputs.sum(1, keepdim=True)
    plain = cut(inputs, targets)
    turned = [(x[None].expand(3, -1, -1), y) for x, y in plain]
    named = [{"x": x, "where": torch.arange(7), "labels": y} for x, y in plain]
    numbers = [(torch.complex(x[:, :2], x[:, 2:]), y) for x, y in plain]
    for batches in (plain, turned, named, numbers):
        assert (unexplained_variance(batches[:6], batches[6:], MODEL) or 1.0) < 0.1
    column = [(x, (x[:, :1] > 0).long()) for x, _ in plain]  # classes that stand in a column
    assert (unexplained_variance(column[:6], column[6:], MODEL) or 1.0) < 0.6
    truth = [(x > 0, (x > 0)[:, :1]) for x, _ in plain]
    assert (unexplained_variance(truth[:6], truth[6:], MODEL) or 1.0) < 0.1


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(4, 2),  # no targets
        ("text", torch.arange(4)),
        (torch.zeros(4, 2), torch.zeros(4, 3, dtype=torch.long)),  # a class for each place
        (torch.zeros(4, 2), "text"),
        (torch.randn(4, 2), torch.tensor(1.0)),
        (torch.randn(4, 2), torch.ones(4)),  # always the same
        (torch.eye(4), torch.eye(4) * 2),  # a net may be too narrow to say it all
        (torch.eye(4), torch.ones(4, 3)),  # several of them at once
    ],
    ids=["no targets", "no tensors", "a map", "words", "one for all", "constant", "many", "tags"],
)
def test_what_it_cannot_tell(batch: Any) -> None:
    assert unexplained_variance([batch] * 3, [batch] * 2, MODEL) is None


@pytest.mark.parametrize("kind", [torch.float32, torch.bool, torch.long])
def test_one_of_many_is_a_class(kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 4, generator=generator)
    classes = inputs[:, :3].argmax(dim=1)
    share = left(inputs, nn.functional.one_hot(classes, 3).to(kind))
    assert share == left(inputs, classes)
    assert (share or 1.0) < 0.5


def test_samples_of_different_shapes() -> None:
    batches = [(torch.randn(4, size), torch.arange(4)) for size in (2, 3, 2)]
    assert unexplained_variance(batches[:2], batches[2:], MODEL) is None


def test_what_is_not_finite_tells_nothing() -> None:
    """The outputs of a net may be so; a column of that kind is left out."""
    batches = [(torch.randn(4, 2), torch.arange(4)) for _ in range(4)]
    batches[1][0][2, 1] = torch.inf
    assert (unexplained_variance(batches[:2], batches[2:], MODEL) or 0.0) > 0.5
    assert unexplained_variance(batches[2:], batches[:2], MODEL) is None


def test_of_large_samples_and_batches_it_takes_a_part() -> None:
    inputs = torch.randn(4096, 100, 100)
    targets = inputs.mean(dim=(1, 2))
    inputs += 3 * targets[:, None, None]
    share = unexplained_variance([(inputs, targets)], [(inputs[2048:], targets[2048:])], MODEL)
    assert (share or 1.0) < 0.5
