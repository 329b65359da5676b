"""What callers pass in spite of the types."""

from __future__ import annotations

from typing import Any

from torch import nn

from gradcheckup.errors import UsageError


def check_arguments(*, model: Any, criterion: Any, compute_loss: Any, seed: Any) -> None:
    """Refuses what is no model, no function or no seed.

    Raises:
        UsageError: One of them is not what it should be.
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        name = model.__name__
        raise UsageError(f"expected a model, got the class {name}: pass an instance, {name}(...)")
    if not isinstance(model, nn.Module):
        raise UsageError(f"expected a torch.nn.Module, got {type(model).__name__}")
    for name, value in (("criterion", criterion), ("compute_loss", compute_loss)):
        if isinstance(value, type) and issubclass(value, nn.Module):
            raise UsageError(
                f"expected {name} to be a function, got the class {value.__name__}: "
                f"pass an instance, {value.__name__}()"
            )
        if value is not None and not callable(value):
            raise UsageError(f"expected {name} to be a function, got {type(value).__name__}")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise UsageError(f"expected seed to be a whole number from 0 to 2**32 - 1, got {seed!r}")
