"""How much of a criterion its gradient accounts for, against shares known by construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup
from gradcheckup.probe.slope import accounted

CLASSES = torch.arange(64) % 10
Loss = Callable[[Any], Tensor]


def _entropy(outputs: Tensor) -> Tensor:
    return F.cross_entropy(outputs, CLASSES)


def _partly(share: float) -> Loss:
    """Of whose value this share has a gradient, whatever the direction."""
    return lambda outputs: (1 - share) * _entropy(outputs).detach() + share * _entropy(outputs)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 1e-3])
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_the_share_that_has_a_gradient(share: float, size: float) -> None:
    outputs = size * torch.randn(64, 10)
    assert accounted(_partly(share), outputs) == pytest.approx(share, rel=0.1)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_units_of_the_loss_do_not_matter(factor: float) -> None:
    loss = _partly(0.5)
    found = accounted(lambda outputs: factor * loss(outputs), torch.randn(64, 10))
    assert found == pytest.approx(0.5, rel=0.1)


def test_no_gradient_at_all_is_a_share_of_0() -> None:
    weight = torch.ones(3, requires_grad=True)
    assert accounted(lambda out: _entropy(out.detach()) + weight.sum(), torch.randn(64, 10)) == 0


def test_noise_is_the_same_each_time() -> None:
    found = accounted(lambda outputs: _entropy(F.dropout(outputs)), torch.randn(64, 10))
    assert found == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(
    "outputs",
    [
        (torch.randn(64, 10), torch.arange(64)),
        {"a": torch.randn(64, 10), "b": "text"},
        [torch.randn(64, 10)],
    ],
)
def test_outputs_in_structures(outputs: Any) -> None:
    def loss(given: Any) -> Tensor:
        return _partly(0.5)(next(iter(given.values() if isinstance(given, dict) else given)))

    assert accounted(loss, outputs) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.cross_entropy(out, out.softmax(1).detach()),  # its own teacher
        lambda out: (out.argmax(1) != CLASSES).float().mean() + 0 * out.sum(),
        lambda out: _entropy(out) / _entropy(out).detach(),  # its value is 1 everywhere
        lambda out: (out + (out.round() - out).detach()).square().mean(),  # straight through
        lambda out: 0 * out.sum(),
    ],
)
def test_what_cannot_be_told(loss: Loss) -> None:
    assert accounted(loss, torch.randn(64, 10)) is None


def test_outputs_without_numbers_cannot_be_told() -> None:
    assert accounted(lambda _: torch.ones(()), torch.arange(3)) is None


# -- in a diagnosis --------------------------------------------------------------------------------


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))


DATA = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), CLASSES


def _decayed(outputs: Tensor) -> Tensor:
    return 1e-3 * outputs.square().mean()


MISTAKES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "detach": lambda out, to: F.cross_entropy(out.detach(), to) + _decayed(out),
    "item": lambda out, to: F.cross_entropy(out, to).item() + _decayed(out),
    "new tensor": lambda out, to: torch.tensor(F.cross_entropy(out, to).tolist()) + _decayed(out),
    "numpy": lambda out, to: (
        torch.from_numpy((out.detach().numpy() - 1) ** 2).mean() + to.max() * 0 + _decayed(out)
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_penalty_that_is_left_does_not_hide_a_detached_loss(name: str) -> None:
    report = gradcheckup.diagnose(_net(), DATA, MISTAKES[name])
    assert not report.healthy
    assert (report.findings[0].code, report.findings[0].culprit) == ("GC103", "2"), str(report)
    assert "detached" in str(report)


def _focal(outputs: Tensor, targets: Tensor) -> Tensor:
    each = F.cross_entropy(outputs, targets, reduction="none")
    return ((1 - (-each).exp().detach()) ** 2 * each).mean()


def _sampled(outputs: Tensor, targets: Tensor) -> Tensor:
    kept = torch.rand(len(targets)) < 0.5
    return F.cross_entropy(outputs[kept], targets[kept])


SOUND: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "smoothed": lambda out, to: F.cross_entropy(out, to, label_smoothing=0.1),
    "focal": _focal,
    "sampled": _sampled,
    "soft targets": lambda out, to: F.kl_div(
        out.log_softmax(1), F.one_hot(to, 10).float(), reduction="batchmean"
    ),
    "of hard mistakes": lambda out, to: F.multi_margin_loss(out, to, margin=0.5),
    "and a log": lambda out, to: F.cross_entropy(out, to) + 0.1 * out.detach().square().mean(),
}


@pytest.mark.parametrize("name", SOUND)
def test_losses_that_are_sound(name: str) -> None:
    report = gradcheckup.diagnose(_net(), DATA, SOUND[name])
    assert not [each for each in report.findings if each.code == "GC103"], str(report)
    assert report.recording.accounted is None or report.recording.accounted > 0.3


def test_torchs_own_losses_are_known_to_be_sound() -> None:
    for criterion in (F.cross_entropy, nn.CrossEntropyLoss()):
        assert gradcheckup.diagnose(_net(), DATA, criterion).recording.accounted is None


def test_a_criterion_that_counts_its_calls_is_not_measured() -> None:
    calls = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 8:
            raise RuntimeError("only eight")
        return F.cross_entropy(outputs, targets)

    assert gradcheckup.diagnose(_net(), DATA, loss).recording.accounted is None
