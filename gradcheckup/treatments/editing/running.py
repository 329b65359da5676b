"""Which modules of a model run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn


def called(model: nn.Module, run: Callable[[nn.Module], Any]) -> set[str]:
    """Names of the modules that are called, on a copy.

    Args:
        model: Stays as it is.
        run: Runs the copy.
    """
    names: set[str] = set()

    def note(name: str, *_: Any) -> None:
        names.add(name)

    twin = copy.deepcopy(model)
    for name, module in twin.named_modules():
        module.register_forward_hook(partial(note, name))
    run(twin)
    return names
