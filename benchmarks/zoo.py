"""torchvision's classification models: built, trained on an easy task, and diagnosed."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn

import gradcheckup
from benchmarks.cases import PROBE_STEPS, Optimizer
from benchmarks.training import AMBIGUOUS, FAILS, LEARNS

CLASSES, BATCH = 10, 16
CHANCE = math.log(CLASSES)
_LEARNT, _CHANCE = 0.8 * CHANCE, 0.95 * CHANCE
_WARM_UP = 4

SETTINGS: dict[str, Optimizer] = {
    "sgd-0.01": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "adam-0.001": functools.partial(torch.optim.Adam, lr=1e-3),
}

# Their initialisation is a choice that torchvision asks for, with a warning; the auxiliary head of
# Inception takes no images under 299 pixels.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": True},
    "inception_v3": {"init_weights": True, "aux_logits": False},
}


class TooLargeError(Exception):
    """A model that this machine or the time given cannot train; the message says by how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a model.

    Attributes:
        label: `learns` where the mean loss of the last quarter is under .8 of chance, `fails` where
            it is over .95 of it or not finite, `ambiguous` between.
        loss: That mean; None where it is not finite.
        peak: The largest loss; None where one was not finite.
        seconds: Wall time of one training step, on average.
    """

    label: str
    loss: float | None
    peak: float | None
    seconds: float


def names() -> list[str]:
    """All classification models that torchvision has."""
    found: list[str] = torchvision.models.list_models(module=torchvision.models)
    return found


def build(name: str, seed: int) -> nn.Module:
    """A model with ten classes, initialised as torchvision does."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = torchvision.models.get_model(
            name, num_classes=CLASSES, **_ARGUMENTS.get(name, {})
        )
    return model


def needs(name: str) -> tuple[int, float]:
    """The smallest image side that a model takes, and GiB for its weights while it is trained.

    Weights, gradients, two moments of Adam, and the copies that a diagnosis makes; activations at
    these sizes are small beside them.
    """
    kinds = [each.meta for each in torchvision.models.get_model_weights(name)]
    side = min(max(each["min_size"]) for each in kinds)
    return side, 8 * 4 * min(each["num_params"] for each in kinds) / 2**30


def criterion(outputs: Any, targets: Tensor) -> Tensor:
    """Cross-entropy; of models with auxiliary heads, of the main one alone."""
    return nn.functional.cross_entropy(getattr(outputs, "logits", outputs), targets)


def batches(side: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Ten fixed random images with noise, to be told apart."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(CLASSES, 3, side, side, generator=generator)
    while True:
        targets = torch.randint(0, CLASSES, (BATCH,), generator=generator)
        noise = torch.randn(BATCH, 3, side, side, generator=generator)
        yield patterns[targets] + 0.5 * noise, targets


def train(name: str, setting: str, *, side: int, steps: int, seed: int, limit: float) -> Outcome:
    """Trains a model from scratch.

    Raises:
        TooLargeError: By its first steps it would take more than `limit` seconds, or that is 0.
    """
    if not limit:
        raise TooLargeError("not trained")
    model = build(name, seed)
    optimizer = SETTINGS[setting](model.parameters())
    losses: list[float] = []
    began = time.perf_counter()
    for inputs, targets in itertools.islice(batches(side, seed), steps):
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        expected = (time.perf_counter() - began) / len(losses) * steps
        if len(losses) == _WARM_UP and expected > limit:
            raise TooLargeError(f"{steps} steps would take {expected:.0f} s of {limit:.0f}")
        if not math.isfinite(losses[-1]):
            break
    pace = (time.perf_counter() - began) / len(losses)
    late = statistics.fmean(losses[-max(1, steps // 4) :])
    if not math.isfinite(losses[-1]):
        return Outcome(label=FAILS, loss=None, peak=None, seconds=pace)
    label = LEARNS if late < _LEARNT else FAILS if late > _CHANCE else AMBIGUOUS
    return Outcome(label=label, loss=late, peak=max(losses), seconds=pace)


def judge(name: str, setting: str, *, side: int, seed: int) -> gradcheckup.Report:
    """Diagnoses a model as it is initialised, on the batches that its training begins with."""
    return gradcheckup.diagnose(
        build(name, seed),
        list(itertools.islice(batches(side, seed), PROBE_STEPS)),
        criterion,
        optimizer=SETTINGS[setting],
        steps=PROBE_STEPS,
        seed=seed,
        subject=name,
    )
