"""Exchanging parts of a model by name, and the code by which a user does the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from torch import nn

_FEWEST_TO_FOLD = 3


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


def folded(model: nn.Module, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Elements of a tuple in code: layers with what belongs to each, or layers alone.

    Runs of layers of one container at regular distances that have the same values are one element,
    ``*((layer, 0.7) for layer in model[2:20:2])``.

    Args:
        model: Of which the layers are.
        rows: Name of a layer and its values as code; an empty text for none.
    """
    rest = list(rows)
    while rest:
        name, values = rest[0]
        places = _sliced(model, rest)
        if len(places) < _FEWEST_TO_FOLD:
            yield f"({reference(model, name)}, {values})" if values else reference(model, name)
            rest = rest[1:]
            continue
        step = places[1] - places[0]
        stride = f":{step}" if step > 1 else ""
        home = reference(model, name.rpartition(".")[0])
        layers = f"{home}[{places[0]}:{places[-1] + 1}{stride}]"
        yield f"*((layer, {values}) for layer in {layers})" if values else f"*{layers}"
        rest = rest[len(places) :]


def _sliced(model: nn.Module, rows: Sequence[tuple[str, str]]) -> list[int]:
    """Positions of the first rows in their container, as far as one slice takes them."""
    first, wanted = rows[0]
    home = first.rpartition(".")[0]
    holder = model.get_submodule(home)
    # A subclass has a constructor of its own, which a slice would call.
    if type(holder) not in (nn.Sequential, nn.ModuleList):
        return []
    found: list[int] = []
    for name, values in rows:
        parent, _, key = name.rpartition(".")
        if parent != home or values != wanted or key.isidentifier():
            break
        place = _position(holder, key)
        regular = len(found) < 2 or place - found[-1] == found[1] - found[0]
        if found and (place <= found[-1] or not regular):
            break
        found.append(place)
    return found


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


def _indices(positions: Sequence[int]) -> str:
    """`range(0, 20, 2)`, where that says it."""
    first, step = positions[0], positions[1] - positions[0]
    regular = range(first, positions[-1] + 1, step) if step > 0 else range(0)
    if list(regular) != list(positions):
        return f"({', '.join(map(str, positions))})"
    if step == 1:
        return f"range({f'{first}, ' if first else ''}{positions[-1] + 1})"
    return f"range({first}, {positions[-1] + 1}, {step})"


def _loop(model: nn.Module, parent: str, keys: list[str], expression: str) -> Iterator[str]:
    home, holder = reference(model, parent), model.get_submodule(parent)
    numbered = isinstance(holder, (nn.Sequential, nn.ModuleList))
    if numbered and not any(key.isidentifier() for key in keys):
        yield f"for index in {_indices([_position(holder, key) for key in keys])}:"
        yield f"    {home}[index] = {expression.format(f'{home}[index]')}"
        return
    names = ", ".join(f'"{key}"' for key in keys)
    if isinstance(holder, nn.ModuleDict):
        yield f"for key in ({names}):"
        yield f"    {home}[key] = {expression.format(f'{home}[key]')}"
    else:
        yield f"for name in ({names}):"
        yield f"    setattr({home}, name, {expression.format(f'getattr({home}, name)')})"
