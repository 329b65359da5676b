"""What a diagnosis costs, against the same number of plain training steps.

    python -m benchmarks.cost

Both are timed in turn in one process, on one thread, and compared pair by pair, since machines
drift. torchvision's resnet18, 96 px, batch 8, of which 8 steps are measured; a small net that is
followed to step 64: an MLP of 10 layers of 128 units, batch 64; one that knows nothing by then and
is followed to step 256: 3 such layers of small weights; a recurrent net of 16 units that is to name
the symbol 20 steps back, learns nothing, and is schooled to step 2048; an MLP of 6 layers of 64
units that bears a warning, learns digits, and is let go at step 1024; and one of 2 layers of 128
that bears none, and is let go at step 128. SGD with momentum.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import cycle, islice

import click
import torch
import torchvision
from torch import Tensor, nn

import gradcheckup
from benchmarks.cases import PROBE_STEPS
from benchmarks.networks import SequenceClassifier, initialise, mlp
from benchmarks.tasks import digits, recall

HORIZON, PATIENCE, SCHOOLING = 64, 256, 2048
"""To where a small net is followed, one that knows nothing by then, and one that learns nothing."""
LET_GO, AT_ONCE = 1024, 128
"""By when the MLP that bears a warning knows nearly all, and the one that bears none."""

Batches = list[tuple[Tensor, Tensor]]


def _resnet18() -> tuple[nn.Module, Batches]:
    batch = torch.randn(8, 3, 96, 96), torch.arange(8)
    return torchvision.models.resnet18(num_classes=10), [batch]


def _mlp(depth: int, init: str) -> tuple[nn.Module, Batches]:
    model = initialise(mlp([64, *[128] * depth, 10], nn.ReLU), init)
    return model, [(torch.randn(64, 64), torch.arange(64) % 10)]


def _rnn() -> tuple[nn.Module, Batches]:
    model = SequenceClassifier(nn.RNN(10, 16, batch_first=True), 16)
    return model, list(islice(recall(20).batches(32, 0), 40))


def _warned() -> tuple[nn.Module, Batches]:
    return mlp([64, *[64] * 6, 10], nn.LeakyReLU), list(islice(digits().batches(64, 0), 20))


def _sound() -> tuple[nn.Module, Batches]:
    return mlp([64, 128, 128, 10], nn.ReLU), list(islice(digits().batches(64, 0), 20))


SUBJECTS: Mapping[str, tuple[Callable[[], tuple[nn.Module, Batches]], int]] = {
    "resnet18": (_resnet18, PROBE_STEPS),
    "MLP": (partial(_mlp, 10, "he"), HORIZON),
    "MLP on a plateau": (partial(_mlp, 3, "normal-0.02"), PATIENCE),
    "RNN that learns nothing": (_rnn, SCHOOLING),
    "MLP with a warning": (_warned, LET_GO),
    "MLP that learns": (_sound, AT_ONCE),
}


def plain(model: nn.Module, batches: Batches, steps: int) -> None:
    """The steps that a diagnosis makes, unmeasured."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    for inputs, targets in islice(cycle(batches), steps):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()


def diagnosed(model: nn.Module, batches: Batches, steps: int) -> None:
    """The same, with a report."""
    report = gradcheckup.diagnose(model, batches, nn.CrossEntropyLoss(), steps=PROBE_STEPS)
    made = [len(report.steps), len(report.recording.course)]
    made += [known.steps] if (known := report.recording.generalization) else []
    assert steps == max(made)  # noqa: S101 - as said


def seconds(work: Callable[..., None], *arguments: object) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


@click.command()
@click.option("--pairs", default=5, show_default=True, type=click.IntRange(min=1))
def main(pairs: int) -> None:
    """Print the ratio of a diagnosis to plain training, pair by pair."""
    torch.set_num_threads(1)
    for name, (build, steps) in SUBJECTS.items():
        torch.manual_seed(0)
        model, batches = build()
        ratios = []
        for pair in range(pairs + 1):
            without = seconds(plain, model, batches, steps)
            with_report = seconds(diagnosed, model, batches, steps)
            if pair:  # the first one warms up
                ratios.append(with_report / without)
                times = f"{steps} steps {without:.2f} s, diagnosed {with_report:.2f} s"
                click.echo(f"{name}: {times}: {ratios[-1]:.2f}")
        click.echo(f"{name}: median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
