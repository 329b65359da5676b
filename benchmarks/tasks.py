"""What the nets are trained on: small tasks, each with the score from which a net has learnt it.

Between `fails` and `learns` the outcome is ambiguous: slow, or stopped half way. The limits are
stated beside each task with their reason; they are fixed before any verdict is looked at.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import (  # type: ignore[import-untyped]
    load_digits,
    make_blobs,
    make_circles,
)
from torch import Tensor, nn

Score = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Data with a loss and a yardstick.

    Attributes:
        name: What it is called in a case's architecture.
        inputs: Training inputs, samples first.
        targets: Training targets.
        held_inputs: Validation inputs.
        held_targets: Validation targets.
        criterion: Makes the loss.
        score: From validation outputs and targets to a number, 1 at best.
        learns: Validation score from which a net has learnt the task.
        fails: Validation score up to which it has not.
        budget: Optimizer steps unless the command says otherwise.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    held_inputs: Tensor
    held_targets: Tensor
    criterion: Callable[[], nn.Module]
    score: Score
    learns: float
    fails: float
    budget: int

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches without end; an incomplete last one of an epoch is left out."""
        shuffle = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.inputs), generator=shuffle)
            for start in range(0, len(order) - size + 1, size):
                rows = order[start : start + size]
                yield self.inputs[rows], self.targets[rows]


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of the samples whose largest output is at the target; one-hot targets as well."""
    wanted = targets.argmax(1) if targets.dim() > 1 else targets
    return float((outputs.argmax(1) == wanted).float().mean())


def binary_accuracy(threshold: float) -> Score:
    """Share of the samples on the right side: of 0 for logits, of one half for probabilities."""

    def score(outputs: Tensor, targets: Tensor) -> float:
        return float(((outputs > threshold) == (targets > 0.5)).float().mean())

    return score


def explained_variance(outputs: Tensor, targets: Tensor) -> float:
    """1 - squared error over variance; at most as low as 0, which is what a constant reaches."""
    return max(0.0, float(1 - (outputs - targets).square().mean() / targets.var()))


def _held_out(inputs: Tensor, targets: Tensor, *, behind: int) -> dict[str, Tensor]:
    """The samples of a `Task`: the first to train on, the rest to score on."""
    return {
        "inputs": inputs[:behind],
        "targets": targets[:behind],
        "held_inputs": inputs[behind:],
        "held_targets": targets[behind:],
    }


@functools.cache
def digits(*shape: int, one_hot: bool = False) -> Task:
    """scikit-learn's 8x8 digits, standardised; 500 of 1797 held out.

    Ten classes: chance is .10, logistic regression reaches .96. A net below .85 has not done what
    a net without hidden layers does at once (the limit of the study behind the thresholds).
    """
    pixels, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(pixels, dtype=torch.float32)
    inputs = ((inputs - inputs.mean()) / inputs.std()).reshape(len(inputs), *(shape or (64,)))
    targets = torch.tensor(labels)
    if one_hot:
        targets = nn.functional.one_hot(targets, 10).float()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    train, held = order[500:], order[:500]
    return Task(
        name="digits" + "".join(f"-{size}" for size in shape),
        inputs=inputs[train],
        targets=targets[train],
        held_inputs=inputs[held],
        held_targets=targets[held],
        criterion=nn.MSELoss if one_hot else nn.CrossEntropyLoss,
        score=accuracy,
        learns=0.85,
        fails=0.5,
        budget=500,
    )


@functools.cache
def recall(length: int) -> Task:
    """Name the symbol that came first, after `length` - 1 steps of noise.

    Ten symbols: chance is .10, and there is no way to be right but to remember, so that a net has
    learnt it or has not; the limits are those of the digits.
    """
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 10, (2000,), generator=generator)
    inputs = 0.3 * torch.randn(2000, length, 10, generator=generator)
    inputs[:, 0] = nn.functional.one_hot(targets, 10).float()
    return Task(
        name=f"recall-{length}",
        **_held_out(inputs, targets, behind=1500),
        criterion=nn.CrossEntropyLoss,
        score=accuracy,
        learns=0.85,
        fails=0.5,
        budget=500,
    )


@functools.cache
def lookup(pairs: int) -> Task:
    """Pairs of a key and a value, then one of the keys: name the value that belongs to it.

    A token is a one-hot key beside a one-hot value; the question at the end has no value. Chance is
    .10 among ten values, and about 1 / `pairs` for who names any of those shown: to be right one
    has to attend to the pair in question. Transformers of 1 to 6 layers, as PyTorch initialises
    them, reach 1.00 within the budget.
    """
    generator = torch.Generator().manual_seed(0)
    keys = torch.rand(6000, 10, generator=generator).argsort(1)[:, :pairs]
    values = torch.randint(0, 10, (6000, pairs), generator=generator)
    asked = torch.randint(0, pairs, (6000, 1), generator=generator)
    shown = torch.cat([nn.functional.one_hot(each, 10) for each in (keys, values)], dim=-1)
    question = nn.functional.one_hot(keys.gather(1, asked), 10)
    question = torch.cat([question, torch.zeros_like(question)], dim=-1)
    inputs = torch.cat([shown, question], dim=1).float()
    targets = values.gather(1, asked).squeeze(1)
    return Task(
        name=f"lookup-{pairs}",
        **_held_out(inputs, targets, behind=5000),
        criterion=nn.CrossEntropyLoss,
        score=accuracy,
        learns=0.85,
        fails=0.5,
        budget=1000,
    )


@functools.cache
def circle(*, probability: bool = False) -> Task:
    """Two rings with noise, as AUTOTRAINER (ICSE 2021) trains on them.

    Two classes: chance is .50, a support vector machine reaches .85, so .75 is most of the way and
    .62 is a line through the plane. 900 steps are the 150 epochs of the original.
    """
    points, labels = make_circles(1000, noise=0.1, random_state=1)
    inputs = torch.tensor(points, dtype=torch.float32)
    targets = torch.tensor(labels, dtype=torch.float32)[:, None]
    return Task(
        name="circle",
        **_held_out(inputs, targets, behind=700),
        criterion=nn.BCELoss if probability else nn.BCEWithLogitsLoss,
        score=binary_accuracy(0.5 if probability else 0.0),
        learns=0.75,
        fails=0.62,
        budget=900,
    )


@functools.cache
def blob() -> Task:
    """Three overlapping clouds, from the same study.

    Chance is .33, logistic regression reaches .85: .75 is most of the way, .6 is two clouds of
    three.
    """
    points, labels, *_ = make_blobs(1000, centers=3, n_features=2, cluster_std=2, random_state=2)
    inputs, targets = torch.tensor(points, dtype=torch.float32), torch.tensor(labels)
    return Task(
        name="blob",
        **_held_out(inputs, targets, behind=700),
        criterion=nn.CrossEntropyLoss,
        score=accuracy,
        learns=0.75,
        fails=0.6,
        budget=900,
    )


@functools.cache
def parabola() -> Task:
    """Regression of 5x² on [-20, 20] with targets as they are, up to 2000.

    The score is the explained variance: .85 is a recognisable parabola, .5 a tilted line.
    """
    shuffle = torch.Generator().manual_seed(0)
    inputs = torch.linspace(-20, 20, 1000)[torch.randperm(1000, generator=shuffle), None]
    targets = 5 * inputs.square()
    return Task(
        name="parabola",
        **_held_out(inputs, targets, behind=700),
        criterion=nn.MSELoss,
        score=explained_variance,
        learns=0.85,
        fails=0.5,
        budget=500,
    )
