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
        if isinstance(here, (nn.Sequential, nn.ModuleList)):
            text += f"[{key}]"
        elif isinstance(here, nn.ModuleDict):
            text += f"[{key!r}]"
        else:
            text += f".{key}"
        here = here.get_submodule(key)
    return text


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
        names = [name for name, _ in group]
        keys = [name.rpartition(".")[2] for name in names]
        if len(names) < 3:
            references = [reference(model, name) for name in names]
            lines += [f"{each} = {expression.format(each)}" for each in references]
        else:
            lines += _loop(model, parent, keys, expression)
    return "\n".join(lines)


def _loop(model: nn.Module, parent: str, keys: list[str], expression: str) -> Iterator[str]:
    home, holder = reference(model, parent), model.get_submodule(parent)
    if isinstance(holder, (nn.Sequential, nn.ModuleList)):
        yield f"for index in ({', '.join(keys)}):"
        yield f"    {home}[index] = {expression.format(f'{home}[index]')}"
    elif isinstance(holder, nn.ModuleDict):
        yield f"for key in {tuple(keys)}:"
        yield f"    {home}[key] = {expression.format(f'{home}[key]')}"
    else:
        yield f"for name in {tuple(keys)}:".replace("'", '"')
        yield f"    setattr({home}, name, {expression.format(f'getattr({home}, name)')})"
