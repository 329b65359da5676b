"""What a diagnosis costs, against the same number of plain training steps.

    python -m benchmarks.cost

Both are timed in turn in one process, on one thread, and compared pair by pair, since machines
drift. torchvision's resnet18, 96 px, batch 8, SGD with momentum, 8 steps.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import click
import torch
import torchvision
from torch import Tensor, nn

import gradcheckup
from benchmarks.cases import PROBE_STEPS


def plain(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """The steps that the probe makes, unmeasured."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    for _ in range(PROBE_STEPS):
        optimizer.zero_grad()
        criterion(model(batch[0]), batch[1]).backward()
        optimizer.step()


def diagnosed(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """The same, with a report."""
    gradcheckup.diagnose(model, batch, nn.CrossEntropyLoss(), steps=PROBE_STEPS)


def seconds(work: Callable[..., None], model: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work(model, batch)
    return time.perf_counter() - began


@click.command()
@click.option("--pairs", default=5, show_default=True, type=click.IntRange(min=1))
def main(pairs: int) -> None:
    """Print the ratio of a diagnosis to plain training, pair by pair."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    batch = torch.randn(8, 3, 96, 96), torch.arange(8)
    ratios = []
    for pair in range(pairs + 1):
        without, with_report = seconds(plain, model, batch), seconds(diagnosed, model, batch)
        if pair:  # the first one warms up
            ratios.append(with_report / without)
            click.echo(f"plain {without:.2f} s, diagnosed {with_report:.2f} s: {ratios[-1]:.2f}")
    click.echo(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
