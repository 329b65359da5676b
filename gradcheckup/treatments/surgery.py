"""Exchanging parts of a model by name, and the code by which a user does the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from torch import nn


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Puts a module in the place of another one, wherever that one is registered."""
    old = model.get_submodule(name)
    new.train(old.training)
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):  # noqa: SLF001 - once for each name
            if child is old:
                parent._modules[key] = new  # noqa: SLF001 - setattr refuses the keys of Sequential


def reference(model: nn.Module, name: str) -> str:
    """How code gets at a module: ``model.blocks[3].conv1``."""
    text, here = "model", model
    for key in filter(None, name.split(".")):
        text += _access(here, key)
        here = here.get_submodule(key)
    return text


def _access(holder: nn.Module, key: str) -> str:
    if isinstance(holder, nn.ModuleDict):
        return f'["{key}"]'
    if isinstance(holder, (nn.Sequential, nn.ModuleList)) and not key.isidentifier():
        return f"[{_position(holder, key)}]"
    return f".{key}" if key.isidentifier() else f'.get_submodule("{key}")'


def _position(holder: nn.Module, key: str) -> int:
    return list(holder._modules).index(key)  # noqa: SLF001 - named_children skips repeated modules


def assignments(model: nn.Module, expressions: Mapping[str, str]) -> str:
    """Code that puts new modules in the place of old ones.

    Args:
        model: As it is before.
        expressions: By name of the old module, the new one, with ``{}`` for the old one.
    """
    lines: list[str] = []
    for (parent, expression), group in groupby(
        expressions.items(), key=lambda item: (item[0].rpartition(".")[0], item[1])
    ):
        keys = [name.rpartition(".")[2] for name, _ in group]
        if len(keys) < 3:
            lines += [assignment(model, f"{parent}.{key}".strip("."), expression) for key in keys]
        else:
            lines += _loop(model, parent, keys, expression)
    return "\n".join(lines)


def assignment(model: nn.Module, name: str, expression: str) -> str:
    """Code that puts a new module in the place of one old one, which ``{}`` stands for."""
    parent, _, key = name.rpartition(".")
    old = reference(model, name)
    if old.endswith(")"):  # no name that code could assign to
        return f'setattr({reference(model, parent)}, "{key}", {expression.format(old)})'
    return f"{old} = {expression.format(old)}"


def _loop(model: nn.Module, parent: str, keys: list[str], expression: str) -> Iterator[str]:
    home, holder = reference(model, parent), model.get_submodule(parent)
    numbered = isinstance(holder, (nn.Sequential, nn.ModuleList))
    if numbered and not any(key.isidentifier() for key in keys):
        positions = [str(_position(holder, key)) for key in keys]
        yield f"for index in ({', '.join(positions)}):"
        yield f"    {home}[index] = {expression.format(f'{home}[index]')}"
        return
    names = ", ".join(f'"{key}"' for key in keys)
    if isinstance(holder, nn.ModuleDict):
        yield f"for key in ({names}):"
        yield f"    {home}[key] = {expression.format(f'{home}[key]')}"
    else:
        yield f"for name in ({names}):"
        yield f"    setattr({home}, name, {expression.format(f'getattr({home}, name)')})"
