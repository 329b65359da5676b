"""Attributes that were meant to be `requires_grad` and are silently ignored by torch."""

from __future__ import annotations

import difflib

from torch import nn

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


def _like_requires_grad(attribute: str) -> bool:
    plain = attribute.lower().replace("_", "")
    return difflib.SequenceMatcher(None, plain, "requiresgrad").ratio() > 0.85
