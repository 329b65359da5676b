"""The optimizer: what the file has, what ``--optimizer`` names, and ``--lr`` on top of either."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from gradcheckup.errors import TargetError, UsageError
from gradcheckup.probe.subject import parameters_of
from gradcheckup.suggestions import nearest
from gradcheckup.targets.discovery import lookup, required_arguments
from gradcheckup.targets.loading import Source, call_user_code


def find_optimizer(
    source: Source,
    model: nn.Module,
    option: str | None,
    settings: dict[str, float],
    *,
    default: tuple[str | None, float | None] = (None, None),
) -> tuple[Any, list[str]]:
    """What `diagnose` takes as its optimizer, and remarks about what was passed over.

    Args:
        source: The user's module.
        model: The model to train.
        option: A name in the file or in torch.optim; None for the file's own.
        settings: Hyper-parameters from options, as ``{"lr": 0.1}``; they win over the file's.
        default: Name and learning rate for a file that has no optimizer.

    Returns:
        An Optimizer bound to `model`, an Optimizer class or partial of one, or None for the
        default; and the remarks.

    Raises:
        TargetError: The file's optimizer is none, or building it failed.
        UsageError: There is no such optimizer, or it does not take one of `settings`.
    """
    remarks: list[str] = []
    if option is None:
        found, remarks = _of_file(source, model)
        if found is None:
            name, rate = default
            found = _of_torch(name, source) if name else None
            settings = settings if rate is None else {"lr": rate, **settings}
    elif option.partition(".")[0] in vars(source.module):
        found = _usable(lookup(source, option), option, source, model)
        if found is None:
            raise TargetError(
                f"{option} in {source.label} does not train the parameters of this model"
            )
    else:
        found = _of_torch(option, source)
    if not settings:
        return found, remarks
    if found is None:
        found = functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9)
    return _with_settings(found, settings), remarks


def _of_file(source: Source, model: nn.Module) -> tuple[Any, list[str]]:
    """`optimizer`, else `build_optimizer(model)`, else None."""
    for name in ("optimizer", "build_optimizer"):
        value = vars(source.module).get(name)
        if value is None or isinstance(value, ModuleType):
            continue
        found = _usable(value, name, source, model)
        if found is None:
            remark = f"{name} in {source.label} trains another model's parameters: passed over"
            return None, [remark]
        return found, []
    return None, []


def _usable(value: Any, name: str, source: Source, model: nn.Module) -> Any:
    """The value in a form that `diagnose` takes; None when it belongs to another model."""
    where = f"{name} in {source.label}"
    if isinstance(value, functools.partial):
        return value
    if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer):
        return value
    if not isinstance(value, torch.optim.Optimizer):
        if not callable(value):
            raise TargetError(f"{where} is a {type(value).__name__}; expected an Optimizer")
        needed = required_arguments(value)
        if len(needed) > 1:
            raise TargetError(
                f"{where} needs arguments: {', '.join(needed)}; expected {name}(model)"
            )
        value = call_user_code(
            functools.partial(value, model) if needed else value, f"{name}() in {source.label}"
        )
        if not isinstance(value, torch.optim.Optimizer):
            raise TargetError(f"{where} returned a {type(value).__name__}; expected an Optimizer")
    held = {id(parameter) for parameter in parameters_of(value)}
    return value if any(id(parameter) in held for parameter in model.parameters()) else None


def _of_torch(option: str, source: Source) -> type[torch.optim.Optimizer]:
    """The class of torch.optim with this name, whatever the case."""
    known = {
        name.lower(): value
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
    }
    del known["optimizer"]
    if option.lower() not in known:
        names = [value.__name__ for value in known.values()]
        in_file = [name for name in vars(source.module) if "optim" in name.lower()]
        found = nearest(option, [*names, *in_file])
        raise UsageError(
            f"no optimizer {option!r} in {source.label} or torch.optim; "
            + (f"did you mean {found}?" if found else f"torch has {', '.join(sorted(names))}")
        )
    return known[option.lower()]


def _with_settings(found: Any, settings: dict[str, float]) -> Any:
    """The optimizer with hyper-parameters from options in place of its own."""
    if isinstance(found, torch.optim.Optimizer):
        return _override(found, settings)
    _check_settings(found, settings)
    return functools.partial(found, **settings)


def _override(optimizer: torch.optim.Optimizer, settings: dict[str, float]) -> Any:
    for group in optimizer.param_groups:
        for name, value in settings.items():
            if name not in group:
                raise UsageError(f"{type(optimizer).__name__} takes no {_option(name)}")
            group[name] = value
    return optimizer


def _check_settings(factory: Callable[..., Any], settings: dict[str, float]) -> None:
    base = factory.func if isinstance(factory, functools.partial) else factory
    taken = inspect.signature(base).parameters
    for name in settings:
        if name not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            raise UsageError(f"{getattr(base, '__name__', base)} takes no {_option(name)}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
