"""A copy of the user's model and optimizer to experiment on; the originals stay as they are."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.jit import RecursiveScriptModule  # type: ignore[attr-defined] # torch's own gap
from torch.optim import Optimizer

from gradcheckup.capture.layers import class_name
from gradcheckup.errors import ModelError, UsageError
from gradcheckup.probe.safekeeping import copied, random_state, restored
from gradcheckup.tracebacks import one_line

_HELD = 1e-3
"""Share of its base learning rate below which a scheduler keeps weights from moving at all."""

OptimizerSource = Optimizer | Callable[..., Optimizer]
"""An optimizer bound to the model, a class or partial of one, or a function of the model."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What the probe works on.

    Attributes:
        model: The copy.
        criterion: Copied along when it is a module: it may own parameters and buffers.
        names: Its modules by qualified name; the root under its class name.
        optimizer: Bound to the copy.
        rates: Learning rate by `id` of each parameter that the optimizer updates.
        described: The optimizer in words, `SGD(lr=0.01, momentum=0.9)`.
        assumptions: What was inferred or changed for the probe.
    """

    model: nn.Module
    criterion: Any
    names: dict[str, nn.Module]
    optimizer: Optimizer
    rates: Mapping[int, float]
    described: str
    assumptions: tuple[str, ...]

    def trained_tensors(self) -> list[Tensor]:
        """Everything that the probe may leave gradients on."""
        modules = [each for each in (self.model, self.criterion) if isinstance(each, nn.Module)]
        return [
            *(parameter for module in modules for parameter in module.parameters()),
            *parameters_of(self.optimizer),
        ]


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside `torch.compile`, DataParallel and DistributedDataParallel."""
    inner: Any = model
    while True:
        if is_compiled(inner):
            inner = inner._orig_mod  # noqa: SLF001 - see below
        elif isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = inner.module
        else:
            return cast(nn.Module, inner)


def is_compiled(module: nn.Module) -> bool:
    """Whether it is what `torch.compile` makes of a module: its own part has the mark of that.

    Not `hasattr`, which the `__getattr__` of a wrapper may answer for the module inside.
    """
    return "_orig_mod" in vars(module).get("_modules", ())


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by qualified name; the root under its class name.

    Scripted ones, which take no hooks, are left out with all inside.
    """
    return {
        name or class_name(model): module
        for name, module in model.named_modules()
        if not _is_scripted(module)
    }


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, RecursiveScriptModule)


def unwrap_inside(model: nn.Module) -> None:
    """Puts what is inside compiled and data-parallel parts of a model in their places.

    A hook that is set after the first compiled call would be ignored; and names lose prefixes that
    the user did not write.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            inner = unwrap(child)
            if inner is not child:
                module._modules[name] = inner  # noqa: SLF001 - what setattr does, less its checks


@contextmanager
def rehearsal(
    model: nn.Module, source: OptimizerSource | None, criterion: Any, seed: int
) -> Iterator[Subject]:
    """Yields a copy to train on, with seeded random numbers; afterwards all is as before.

    Where a model cannot be deep-copied, the model itself is used and restored: parameters,
    buffers, gradients, flags and optimizer state.

    Raises:
        ModelError: The model has nothing to train, or parameters without values.
        UsageError: The optimizer does not fit the model.
    """
    model = unwrap(model)
    check_trainable(model)
    bound = source if isinstance(source, Optimizer) else None
    loss = criterion if isinstance(criterion, nn.Module) else None
    with random_state(seed):
        try:
            memo: dict[int, Any] = {}
            twin, twin_loss = copy.deepcopy((model, loss), memo)
            optimizer = copied(bound, memo) if bound else None
            _check_leaves(twin)
        except Exception:  # noqa: BLE001 - whatever the __deepcopy__ of foreign code raises
            with restored([model] if loss is None else [model, loss], bound):
                note = "the model cannot be deep-copied: it is probed in place and restored"
                yield _subject(model, criterion, bound, source, [note])
        else:
            yield _subject(twin, twin_loss or criterion, optimizer, source, [])


def _check_leaves(twin: nn.Module) -> None:
    """A scripted part is copied with its graph; no optimizer takes the parameters of that."""
    if not all(each.is_leaf for each in twin.parameters()):
        raise RuntimeError("expected parameters that are leaves")


def check_trainable(model: nn.Module) -> None:
    """Refuses models whose layers cannot be seen, or that have nothing to train.

    Raises:
        ModelError: It is TorchScript, or has no trainable parameter or ones without values.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "expected a plain nn.Module, got a TorchScript module, whose layers cannot be seen: "
            "take the module it was made from"
        )
    parameters = list(model.parameters())
    if any(map(nn.parameter.is_lazy, parameters)):
        raise ModelError(
            "expected a model with initialised parameters, got lazy ones: "
            "run one batch through the model first"
        )
    if any(each.device.type == "meta" for each in parameters):
        raise ModelError(
            "expected parameters with values, got some on the meta device: "
            "materialise the model with model.to_empty(device=...) and initialise it"
        )
    if not parameters:
        raise ModelError(f"expected parameters to train, {type(model).__name__} has none")
    if not any(each.requires_grad for each in parameters):
        raise ModelError(
            f"expected a trainable parameter, but all {len(parameters)} of "
            f"{type(model).__name__} have requires_grad=False: unfreeze at least one"
        )


def _subject(
    model: nn.Module,
    criterion: Any,
    optimizer: Optimizer | None,
    source: OptimizerSource | None,
    notes: list[str],
) -> Subject:
    unwrap_inside(model)
    if not any(module.training for module in model.modules()):
        model.train()
        notes.append("the model was in eval mode: probed in train mode")
    if optimizer is None and source is None:
        optimizer = default_optimizer(model)
        notes.append("optimizer SGD(lr=0.01, momentum=0.9), as none was given")
    elif optimizer is None:
        optimizer = build_optimizer(source, model)
    check_bound(optimizer, model)
    scripted = [name for name, each in model.named_modules() if _is_scripted(each)]
    if scripted:
        notes.append(f"{scripted[0]} is TorchScript: its layers are not seen")
    for group in optimizer.param_groups:
        held, base = group.get("lr"), group.get("initial_lr")
        if held is not None and base and held < _HELD * base:
            group["lr"] = base
            notes.append(f"a scheduler holds the learning rate at {held:g}: probed at {base:g}")
    return Subject(
        model=model,
        criterion=criterion,
        names=named_modules(model),
        optimizer=optimizer,
        rates=learning_rates(optimizer),
        described=described(optimizer),
        assumptions=tuple(notes),
    )


def parameters_of(*optimizers: Optimizer) -> Iterator[Tensor]:
    """What some optimizers update."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            yield from group["params"]


def learning_rates(*optimizers: Optimizer) -> dict[int, float]:
    """Learning rate now, by `id` of each parameter that some optimizers update."""
    return {
        id(each): float(group.get("lr", 1.0))
        for optimizer in optimizers
        for group in optimizer.param_groups
        for each in group["params"]
    }


def rate_share(optimizer: Optimizer) -> float:
    """The learning rate over the one that a scheduler started from; the smallest of all groups."""
    rates = [(group.get("lr"), group.get("initial_lr")) for group in optimizer.param_groups]
    return min([1.0, *(float(now / base) for now, base in rates if now and base)])


def default_optimizer(model: nn.Module) -> Optimizer:
    """What trains a model where no optimizer is given."""
    trained = [each for each in model.parameters() if each.requires_grad]
    return torch.optim.SGD(trained, lr=0.01, momentum=0.9)


def check_bound(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuses an optimizer of other parameters than the model's.

    Raises:
        UsageError: It holds none of them.
    """
    own = {id(each) for each in model.parameters()}
    if not any(id(each) in own for each in parameters_of(optimizer)):
        raise UsageError(
            f"expected an optimizer of the model's parameters, but {type(optimizer).__name__} "
            "holds none of them: create it after the model is built, moved or wrapped"
        )


def build_optimizer(source: Any, model: nn.Module) -> Optimizer:
    """An optimizer of a model, from a class, a partial of one or a function of the model.

    Raises:
        UsageError: It is none of these, or fails.
    """
    inner = source.func if isinstance(source, functools.partial) else source
    takes_parameters = inspect.isclass(inner) and issubclass(inner, Optimizer)
    if not callable(source):
        raise UsageError(
            "expected an optimizer, a class or partial of one, or a function of the model, got "
            f"{type(source).__name__}"
        )
    try:
        try:
            built = source(model.parameters()) if takes_parameters else source(model)
        except TypeError:
            if takes_parameters:
                raise
            built = source(model.parameters())  # `lambda params: SGD(params, lr=0.1)`
    except Exception as error:
        raise UsageError(f"the optimizer cannot be created: {one_line(error)}") from error
    if not isinstance(built, Optimizer):
        raise UsageError(
            f"expected the optimizer function to return a torch.optim.Optimizer, got "
            f"{type(built).__name__}"
        )
    return built


def described(optimizer: Optimizer) -> str:
    """The settings that differ from the optimizer's defaults, the learning rate always."""
    signature = inspect.signature(type(optimizer).__init__).parameters
    group = optimizer.param_groups[0]
    rates = sorted({float(each["lr"]) for each in optimizer.param_groups if "lr" in each})
    said = ["lr=" + " … ".join(f"{rate:g}" for rate in rates)] if rates else []
    for name, value in group.items():
        plain = isinstance(value, (int, float, tuple)) and name not in ("lr", "initial_lr")
        if plain and name in signature and signature[name].default != value:
            said.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    return f"{type(optimizer).__name__}({', '.join(said)})"
