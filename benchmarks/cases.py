"""What a case is, and how its choices are drawn."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn

from benchmarks.tasks import Task

Optimizer = Callable[..., torch.optim.Optimizer]
Value = TypeVar("Value", str, int, float)

PROBE_STEPS = 8
"""What every detector gets to see, and what `diagnose` makes unless told."""
FOLLOWED_STEPS = 64
"""Up to which `diagnose` makes them with the same batches in turn."""

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd-0.01": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "sgd-0.1": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adam-0.001": functools.partial(torch.optim.Adam, lr=1e-3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """What is wrong with a case by construction.

    Attributes:
        codes: Codes of the findings that name it.
        layers: Names of modules in which a finding places it right; empty where it has no place.
        fact: Whether it counts as sick whatever training makes of it.
    """

    codes: frozenset[str]
    layers: frozenset[str]
    fact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A net that has not been built yet, and how to train it.

    Attributes:
        family: Name of its family.
        index: Its number there.
        architecture: What distinguishes the net from others, all but the optimizer.
        optimizer: Name of the optimizer.
        make_optimizer: Makes it from parameters.
        task: What it is trained on.
        build: Makes the net, initialised from torch's random state.
        batch_size: Samples per step.
        culprit: What is wrong, where that is known.
    """

    family: str
    index: int
    architecture: dict[str, str | int | float]
    optimizer: str
    make_optimizer: Optimizer
    task: Task
    build: Callable[[], nn.Module] = field(repr=False)
    batch_size: int = 64
    culprit: Culprit | None = None

    @property
    def half(self) -> str:
        """`calibration` or `held-out`, by a hash of the architecture.

        One net under two optimizers, or with two seeds, is on one side: thresholds fitted on one
        half have seen no architecture of the other.
        """
        text = json.dumps([self.family, self.architecture], sort_keys=True)
        even = hashlib.sha256(text.encode()).digest()[0] % 2 == 0
        return "calibration" if even else "held-out"


class Draw:
    """Choices for one case, each by a hash of family, index and the name of the choice.

    They are the same on every machine, and a choice added later moves none of the others.

    Args:
        family: Name of the family.
        index: The case's number in it.
    """

    def __init__(self, family: str, index: int) -> None:
        self._prefix = f"{family}/{index}"
        self.family = family
        self.index = index
        self.architecture: dict[str, str | int | float] = {}

    def __call__(self, name: str, options: Sequence[Value]) -> Value:
        """Chooses one of the options, and notes it in the architecture."""
        digest = hashlib.sha256(f"{self._prefix}/{name}".encode()).digest()
        chosen = options[int.from_bytes(digest[:8], "big") % len(options)]
        self.architecture[name] = chosen
        return chosen

    def case(
        self,
        task: Task,
        build: Callable[[], nn.Module],
        optimizers: Mapping[str, Optimizer] = OPTIMIZERS,
    ) -> Case:
        """The case with what was chosen so far as its architecture, and one of the optimizers."""
        architecture = dict(self.architecture)
        optimizer = self("optimizer", list(optimizers))
        return Case(
            family=self.family,
            index=self.index,
            architecture={**architecture, "task": task.name},
            optimizer=optimizer,
            make_optimizer=optimizers[optimizer],
            task=task,
            build=build,
        )
