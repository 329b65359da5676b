"""GC106, on runs that were really thrown back, and on spikes that did no harm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradcheckup
from gradcheckup import Finding


def train(shock: str, *, steps: int = 120, at: int = 60) -> tuple[list[float], list[Finding]]:
    """Losses of a run in which something happens at one step, and what was found."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs = torch.randn(256, 10)
    targets = (inputs[:, :4] * 3).argmax(1)
    losses = []
    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        for index in range(steps):
            part = torch.randint(0, 256, (64,))
            scale = 60.0 if index == at and shock != "none" else 1.0
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                model(inputs[part] * scale), targets[part].roll(1 if scale > 1 else 0)
            )
            loss.backward()
            if shock == "clipped":
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.item())
    return losses, [each for each in monitor.report().findings if each.code == "GC106"]


def test_a_batch_that_throws_the_run_back_is_named_with_its_step() -> None:
    losses, found = train("batch")
    assert min(losses[61:66]) > 2 * max(losses[50:60])  # it did throw it back
    (finding,) = found
    assert finding.severity.value == "warning"
    assert finding.steps == (60,)
    assert finding.observed is not None
    assert finding.observed > 10
    assert finding.prescriptions[0] == "gradient_clipping"


@pytest.mark.parametrize("shock", ["none", "clipped"])
def test_a_run_that_is_not_thrown_back_has_none(shock: str) -> None:
    losses, found = train(shock)
    assert sum(losses[61:66]) < 2 * sum(losses[55:60])
    assert found == []


def test_a_probe_has_no_spikes() -> None:
    report = gradcheckup.diagnose(nn.Linear(4, 2), (torch.randn(8, 4), torch.randint(0, 2, (8,))))
    assert "GC106" not in {each.code for each in report.findings}
