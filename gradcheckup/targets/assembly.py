"""Everything that a checkup needs, from one TARGET and a few options."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from gradcheckup.errors import UsageError
from gradcheckup.targets import discovery
from gradcheckup.targets.inference import infer_data, materialize
from gradcheckup.targets.inputs import parse_input
from gradcheckup.targets.loading import Source, load_source
from gradcheckup.targets.optimizers import find_optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What to diagnose, ready for `gradcheckup.diagnose`.

    Attributes:
        subject: What the user called it: the TARGET.
        model: The model, in the state in which its file left it.
        data: A batch or an iterable of batches.
        criterion: `criterion(outputs, targets)`, or None to have it inferred.
        optimizer: An Optimizer bound to the model, a class or partial of one, or None.
        compute_loss: `compute_loss(model, batch)`, or None.
        assumptions: What was not given and had to be guessed, one line each.
        names: What the file calls its `model`, `optimizer`, `criterion` and `data`, where these
            are variables of it under other names.
    """

    subject: str
    model: nn.Module
    data: Any
    criterion: Any = None
    optimizer: Any = None
    compute_loss: Callable[..., Any] | None = None
    assumptions: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """What the command line or the settings say about a target; None leaves it to the file.

    Attributes:
        model: Name of the model in the file.
        data: Name of the data in the file.
        input: Shapes of random inputs, one an input, as ``8,3,64,64`` or ``8,128:1000``.
        criterion: Name of the criterion in the file or in torch.nn.
        optimizer: Name of the optimizer in the file or in torch.optim, whatever the case.
        hyperparameters: Of the optimizer, as ``{"lr": 0.1}``.
        default_input: Like `input`, for a file that has no data.
        default_optimizer: Like `optimizer`, for a file that has none.
        default_lr: Learning rate where the file has no optimizer and no option names one.
        seed: For the weights and for random data.
    """

    model: str | None = None
    data: str | None = None
    input: Sequence[str] = ()
    criterion: str | None = None
    optimizer: str | None = None
    hyperparameters: dict[str, float] = field(default_factory=dict)
    default_input: Sequence[str] = ()
    default_optimizer: str | None = None
    default_lr: float | None = None
    seed: int = 0


def load_target(spec: str, options: TargetOptions | None = None) -> Target:
    """Import a TARGET, find its parts by name, and guess what is missing.

    The random generators are seeded first, so that a model built without a seed of its own has
    the same weights every time. `gradcheckup.targets.loading` says what an import leaves behind.

    Args:
        spec: ``model.py``, ``model.py:Name`` or ``package.module:Name``.
        options: What goes before the names in the file.

    Raises:
        TargetError: It does not lead to a model that runs.
        UsageError: An option makes no sense.
        MissingDependencyError: It is a package that is not installed.
    """
    options = options or TargetOptions()
    shapes = [parse_input(text) for text in options.input]
    if options.data and shapes:
        raise UsageError("--data and --input both say what the inputs are; give one of them")
    _seed(options.seed)
    source = load_source(spec)
    if options.model:
        source = _renamed(source, options.model)
    model = discovery.find_model(source)
    remarks: list[str] = []
    data, found_as = None, None
    if not shapes:
        data, found_as, remarks = discovery.find_data(source, options.data)
    criterion = discovery.find_criterion(source, options.criterion)
    compute_loss = discovery.find_compute_loss(source) if not options.criterion else None
    if found_as is None:
        given = shapes or [parse_input(text) for text in options.default_input]
        inferred = infer_data(model, given, options.seed)
        data = inferred.data
        criterion = criterion or inferred.criterion
        remarks.extend(inferred.assumptions)
    else:
        remarks.append(f"data from {source.label}:{found_as}")
    if materialize(model, data):
        remarks.append("lazy layers got their shapes from the first batch")
    optimizer, passed_over = find_optimizer(
        source,
        model,
        options.optimizer,
        options.hyperparameters,
        default=(options.default_optimizer, options.default_lr),
    )
    return Target(
        subject=spec,
        model=model,
        data=data,
        criterion=criterion,
        optimizer=optimizer,
        compute_loss=compute_loss,
        assumptions=(*remarks, *passed_over),
        names=_names(source, model=model, optimizer=optimizer, criterion=criterion, data=data),
    )


def _names(source: Source, **parts: Any) -> dict[str, str]:
    """By part, the variable of the file that holds it."""
    found = {}
    for part, value in parts.items():
        called = [name for name, held in vars(source.module).items() if held is value]
        if value is not None and called and part not in called:
            found[part] = called[0]
    return found


def _renamed(source: Source, name: str) -> Source:
    if source.name is not None and source.name != name:
        raise UsageError(f"--model {name} and {source.label}:{source.name} name different models")
    return Source(module=source.module, label=source.label, name=name, is_file=source.is_file)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - user code draws from the global generator
    torch.manual_seed(seed)
