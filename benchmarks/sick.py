"""Sick nets to be treated, and the best that is known of each architecture."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from benchmarks import networks
from benchmarks.cases import OPTIMIZERS, Case, Draw
from benchmarks.tasks import digits, recall
from benchmarks.training import Training

_BEST = (
    ("batch", "relu", "he", "adam-0.001"),
    ("batch", "relu", "he", "sgd-0.1"),
    ("none", "relu", "he", "adam-0.001"),
    ("layer", "gelu", "he", "adam-0.001"),
)
"""Norm, activation, initialisation and optimizer that are known to work, of feedforward nets."""


def cases(count: int) -> Iterator[Case]:
    """The first `count` drawn nets; which of them are sick, training shows."""
    return (case(index) for index in range(count))


def weights(case: Case) -> int:
    """How many weights the net of a case has."""
    return sum(each.numel() for each in case.build().parameters())


def case(index: int) -> Case:
    """One of them."""
    draw = Draw("treatable", index)
    kind = draw("kind", ["mlp", "mlp", "mlp", "mlp", "cnn", "rnn"])
    if kind == "rnn":
        task = recall(draw("length", [10, 20, 30, 50]))
        core = draw("core", ["rnn-tanh", "rnn-tanh", "rnn-relu", "lstm"])
        width = draw("width", [32, 64])
        init = draw("init", ["default", "normal-0.02", "normal-0.3"])
        return draw.case(task, functools.partial(networks.recurrent, core, 10, width, 1, init))
    activation = networks.ACTIVATIONS[draw("activation", ["sigmoid", "sigmoid", "tanh", "relu"])]
    init = draw("init", ["default", "normal-0.02", "uniform-0.05", "normal-1", "normal-10"])
    if kind == "cnn":
        depth = draw("depth", [6, 8, 10, 14])
        return draw.case(
            digits(1, 8, 8), lambda: networks.initialise(networks.cnn(depth, 16, activation), init)
        )
    depth = draw("depth", [5, 8, 12, 20, 30])
    width = draw("width", [16, 32, 64, 128, 256, 512])
    return draw.case(digits(), lambda: networks.initialise(_mlp(depth, width, activation), init))


def _mlp(depth: int, width: int, activation: type[nn.Module], norm: str = "none") -> nn.Module:
    return networks.mlp([64, *[width] * depth, 10], activation, norm=norm)


def score(
    case: Case, model: nn.Module, stages: Iterable[tuple[torch.optim.Optimizer, int]], seed: int
) -> float:
    """Validation score of a model after training; 0 where training broke.

    Args:
        case: The task.
        model: Trained in place.
        stages: Optimizers, each with the steps to make with it.
        seed: Of batches and dropout.
    """
    torch.manual_seed(seed)
    training = Training(case, model, seed)
    for optimizer, steps in stages:
        training.advance(optimizer, steps)
        if not training.finite:
            break
    return training.score() or 0.0


def whole(case: Case, optimizer: torch.optim.Optimizer) -> list[tuple[torch.optim.Optimizer, int]]:
    """Ordinary training: all steps with one optimizer."""
    return [(optimizer, case.task.budget)]


def best_known(case: Case, seed: int) -> float:
    """The best score of some configurations of the architecture that are known to work."""
    return max(_scores(case, seed))


def _scores(case: Case, seed: int) -> Iterator[float]:
    choices = case.architecture
    if choices["kind"] == "rnn":
        # Another kind of recurrent layer would be another architecture.
        for init in ("identity", "default"):
            torch.manual_seed(seed)
            width = int(choices["width"])
            model: nn.Module = networks.recurrent(str(choices["core"]), 10, width, 1, init)
            adam = torch.optim.Adam(model.parameters(), lr=1e-3)
            yield score(case, model, whole(case, adam), seed)
        return
    for norm, activation, init, optimizer in _BEST:
        torch.manual_seed(seed)
        act, depth = networks.ACTIVATIONS[activation], int(choices["depth"])
        if choices["kind"] == "cnn":
            norm_of_cnn = "group" if norm == "layer" else norm
            net: nn.Module = networks.cnn(depth, 16, act, norm=norm_of_cnn)
        else:
            net = _mlp(depth, int(choices["width"]), act, norm)
        model = networks.initialise(net, init)
        yield score(case, model, whole(case, OPTIMIZERS[optimizer](model.parameters())), seed)
