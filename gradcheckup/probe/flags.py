"""What torch silently ignores: a misspelt `requires_grad`, and layers in a plain list."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn

from gradcheckup.records import ParameterRecord

_ALIKE = 0.85


def misspelt_flags(model: nn.Module) -> tuple[str, ...]:
    """Names of such attributes, behind those of their parameters and modules.

    `p.require_grad = False` sets a new attribute of the parameter; `layer.requires_grad = False`
    one of the module, where `requires_grad_()` is a method that does the work.
    """
    found = []
    for name, parameter in model.named_parameters():
        found += [
            f"{name}.{attribute}"
            for attribute in vars(parameter)
            if attribute != "requires_grad" and _like_requires_grad(attribute)
        ]
    for name, module in model.named_modules():
        found += [
            f"{name}.{attribute}".lstrip(".")
            for attribute, value in vars(module).items()
            if isinstance(value, bool) and _like_requires_grad(attribute)
        ]
    return tuple(found)


@functools.lru_cache(maxsize=1024)  # modules of a kind have the same attributes
def _like_requires_grad(attribute: str) -> bool:
    plain = attribute.lower().replace("_", "")
    return difflib.SequenceMatcher(None, plain, "requiresgrad").ratio() > _ALIKE


def unregistered(model: nn.Module, leaves: Collection[int]) -> tuple[ParameterRecord, ...]:
    """Tensors that the model keeps where `model.parameters()` does not look, and could learn.

    In a list, tuple or dict of modules or parameters, or as a plain tensor that requires grad. A
    module that is in eval mode is left out: so is one that helps to compute a loss.

    Args:
        model: The model.
        leaves: The `id` of all leaves of the loss that are not the model's or the optimizer's.
    """
    found: dict[int, ParameterRecord] = {}
    for owner, module in model.named_modules():
        for attribute, value in vars(module).items():
            for local, tensor in _held(value, attribute):
                if id(tensor) in leaves:
                    name = f"{owner}.{local}".lstrip(".")
                    found[id(tensor)] = ParameterRecord(
                        name=name,
                        layer=name.rpartition(".")[0],
                        shape=tuple(tensor.shape),
                        trainable=True,
                    )
    return tuple(found.values())


def _held(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in an attribute that is not registered, as `layers[0].weight`."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, nn.Module) and value.training:
        yield from ((f"{name}.{local}", each) for local, each in value.named_parameters())
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from _held(each, f"{name}[{index}]")
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _held(each, f"{name}[{key!r}]")
