"""Exchanging parts of a model by name, and the code by which a user does the same."""

from __future__ import annotations

import keyword
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
    return f".{key}" if _is_attribute(key) else f'.get_submodule("{key}")'


def _is_attribute(key: str) -> bool:
    return key.isidentifier() and not keyword.iskeyword(key)


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
    others = {name: _other_names(model, name) for name in expressions}
    for (parent, expression, alone), group in groupby(
        expressions.items(),
        key=lambda item: (item[0].rpartition(".")[0], item[1], bool(others[item[0]])),
    ):
        names = [name for name, _ in group]
        if alone or len(names) < _FEWEST_TO_FOLD:
            lines += [assignment(model, name, expression, others[name]) for name in names]
        else:
            lines += _loop(model, parent, [name.rpartition(".")[2] for name in names], expression)
    return "\n".join(lines)


def _other_names(model: nn.Module, name: str) -> list[str]:
    """Where else a module is registered."""
    module = model.get_submodule(name)
    every = model.named_modules(remove_duplicate=False)
    return [other for other, each in every if each is module and not _is_same(model, name, other)]


def _is_same(model: nn.Module, name: str, other: str) -> bool:
    """Whether two names are of one place, in a parent that has two names itself."""
    (parent, _, key), (holder, _, its) = name.rpartition("."), other.rpartition(".")
    return key == its and model.get_submodule(parent) is model.get_submodule(holder)


def assignment(model: nn.Module, name: str, expression: str, others: Sequence[str] = ()) -> str:
    """Code that puts a new module in the place of one old one, which ``{}`` stands for.

    Args:
        model: As it is before.
        name: Of the old module.
        expression: The new one.
        others: Names under which the old one is registered as well.
    """
    old = reference(model, name)
    lines = [_set(model, name, expression.format(old))]
    lines += [_set(model, other, old) for other in others]
    return "\n".join(lines)


def _set(model: nn.Module, name: str, value: str) -> str:
    parent, _, key = name.rpartition(".")
    place = reference(model, name)
    if place.endswith(")"):  # no name that code could assign to
        return f'setattr({reference(model, parent)}, "{key}", {value})'
    return f"{place} = {value}"


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
