"""Which names in the user's module are the model, its data, its loss and its optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from torch.nn.modules.loss import _Loss

from gradcheckup.errors import TargetError
from gradcheckup.suggestions import did_you_mean
from gradcheckup.targets.loading import Source, call_user_code


def find_model(source: Source) -> nn.Module:
    """The model that the target names, or the one that its file has.

    Raises:
        TargetError: There is no model, several, or one that cannot be built.
    """
    if source.name is not None:
        return build_model(lookup(source, source.name), source.name, source)
    found = vars(source.module)
    for name in ("model", "build_model"):
        candidate = found.get(name)
        if isinstance(candidate, nn.Module) or _is_factory(candidate):
            return build_model(candidate, name, source)
    loss = found.get("criterion")  # a loss of one's own is a module too
    classes = [
        name
        for name, value in found.items()
        if _is_module_class(value)
        and value.__module__ == source.module.__name__
        and value is not loss
        and value is not type(loss)
    ]
    instances = [
        name for name, value in found.items() if isinstance(value, nn.Module) and value is not loss
    ]
    names = classes if len(classes) == 1 else [*classes, *instances]
    if len(names) == 1:
        return build_model(found[names[0]], names[0], source)
    if names:
        listing = "\n".join(f"  {source.label}:{name}" for name in names)
        raise TargetError(
            f"several models in {source.label}; name one of these, or add a build_model():\n"
            f"{listing}"
        )
    raise TargetError(
        f"no model in {source.label}: expected a model, a build_model() or one nn.Module class"
        f"{_similar_model_names(found)}"
    )


def build_model(value: Any, name: str, source: Source) -> nn.Module:
    """A model from an instance, a class or a factory.

    Raises:
        TargetError: It needs arguments, fails, or gives something else than a model.
    """
    where = f"{name} in {source.label}"
    if isinstance(value, nn.Module):
        return value
    if not _is_factory(value):
        raise TargetError(
            f"{where} is {_a(value)}; expected an nn.Module, a class or a function that returns one"
        )
    missing = required_arguments(value)
    if missing:
        advice = (
            f"add a build_model() to {source.label} that returns "
            f"{name}({', '.join(f'{argument}=...' for argument in missing)})"
            if source.is_file
            else "write a model.py with a build_model() that returns it"
        )
        raise TargetError(
            f"{where} needs arguments: {', '.join(missing)}; {advice}{_ready_instances(source)}"
        )
    model = call_user_code(value, f"{where}")
    if not isinstance(model, nn.Module):
        raise TargetError(f"{where} returned {_a(model)}; expected an nn.Module")
    return model


def find_data(source: Source, option: str | None) -> tuple[Any, str | None, list[str]]:
    """The data, how the user called it, and remarks about names that were passed over."""
    remarks: list[str] = []
    for name in (option,) if option else ("data", "batch", "build_data"):
        value = lookup(source, name) if option else vars(source.module).get(name)
        if value is None or isinstance(value, ModuleType):
            continue
        if inspect.isroutine(value):
            value = _call_without_arguments(value, name, source)
        if value is None or isinstance(value, (str, bytes, Path, int, float, type)):
            problem = f"{name} in {source.label} is {_a(value)}, not batches"
            if option or name == "build_data":
                raise TargetError(f"{problem}: expected (inputs, targets) or a DataLoader")
            remarks.append(f"{problem}: passed over")
            continue
        if _are_loaders(value):
            remarks.append(f"data: the first of the {len(value)} sets that {name} gives")
            value = value[0]
        return value, name, remarks
    return None, None, remarks


def find_criterion(source: Source, option: str | None) -> Any:
    """The criterion of the file, or the one an option names there or in torch.nn; else None."""
    found = vars(source.module)
    if option is None:
        value, name = found.get("criterion"), "criterion"
    elif option.partition(".")[0] in found:
        value, name = lookup(source, option), option
    else:
        losses = {name.lower(): name for name in dir(nn) if name.endswith("Loss")}
        if option.lower() not in losses:
            hint = did_you_mean(option, [*_public(source.module), *losses.values()])
            raise TargetError(f"no criterion {option!r} in {source.label} or torch.nn{hint}")
        name = losses[option.lower()]
        value = getattr(nn, name)
    if value is None or isinstance(value, ModuleType):
        return None
    if inspect.isclass(value):
        missing = required_arguments(value)
        if missing:
            raise TargetError(f"criterion {name} needs arguments: {', '.join(missing)}")
        value = call_user_code(value, f"{name} in {source.label}")
    if not callable(value):
        raise TargetError(
            f"{name} in {source.label} is {_a(value)}; expected criterion(outputs, targets)"
        )
    return value


def find_compute_loss(source: Source) -> Callable[..., Any] | None:
    """`compute_loss(model, batch)` of the file, or None."""
    value = vars(source.module).get("compute_loss")
    return value if callable(value) else None


def lookup(source: Source, dotted: str) -> Any:
    """The attribute with this dotted name.

    Raises:
        TargetError: There is none; names the nearest.
    """
    value: Any = source.module
    where = source.label
    for part in dotted.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            near = did_you_mean(part, _public(value), form=f"{where}:{{}}")
            own = [name for name in _public(value) if _is_users(getattr(value, name, None))]
            listed = f"; it has {', '.join(own[:8])}" if source.is_file and own else ""
            raise TargetError(f"{where} has no {part!r}{near or listed}") from None
        where = f"{where}:{part}" if where == source.label else f"{where}.{part}"
    return value


def required_arguments(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a call must give."""
    return [
        name
        for name, parameter in _parameters(function).items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some callables of C extensions tell nothing
        return {}


def _call_without_arguments(function: Callable[..., Any], name: str, source: Source) -> Any:
    missing = required_arguments(function)
    if missing:
        raise TargetError(
            f"{name}() in {source.label} needs arguments: {', '.join(missing)}; "
            "expected it to be callable without any"
        )
    return call_user_code(function, f"{name}() in {source.label}")


def _is_module_class(value: object) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, nn.Module)
        and not issubclass(value, _Loss)
        and not inspect.isabstract(value)
    )


def _is_factory(value: object) -> bool:
    return callable(value) and not isinstance(value, ModuleType)


def _are_loaders(value: object) -> bool:
    """True for (train, test) pairs of loaders or datasets, which look like (inputs, targets)."""
    from torch.utils.data import DataLoader, Dataset, IterableDataset

    return (
        isinstance(value, (tuple, list))
        and bool(value)
        and all(isinstance(item, (DataLoader, Dataset, IterableDataset)) for item in value)
    )


def _ready_instances(source: Source) -> str:
    """``, or name model.py:net`` where the file has built its model under another name."""
    names = [n for n, value in vars(source.module).items() if isinstance(value, nn.Module)]
    return f", or name {source.label}:{names[0]}, which is built already" if names else ""


def _similar_model_names(found: Iterable[str]) -> str:
    return next(
        (hint for name in ("build_model", "model") if (hint := did_you_mean(name, _plain(found)))),
        "",
    )


def _plain(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith("_")]


def _is_users(value: object) -> bool:
    """True for what can be part of a target, which imported modules cannot."""
    return not isinstance(value, ModuleType)


def _public(value: object) -> list[str]:
    return _plain(dir(value))


def _a(value: object) -> str:
    """``a str``, ``an int``, ``None``."""
    if value is None:
        return "None"
    kind = type(value).__name__ if not inspect.isclass(value) else f"class {value.__name__}"
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
