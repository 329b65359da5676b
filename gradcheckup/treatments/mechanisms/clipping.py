"""Optimizers that clip gradients on their own, so that the training loop stays as it is."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch.nn import utils
from torch.optim import Optimizer

from gradcheckup.probe.subject import parameters_of


@dataclass(frozen=True, slots=True)
class Clip:
    """How gradients are clipped.

    Attributes:
        by: ``norm``, the L2 norm of all gradients together; or ``value``, each element.
        bound: What it is clipped to.
    """

    by: str
    bound: float

    def __call__(self, optimizer: Optimizer) -> None:
        """Clips the gradients of all parameters that an optimizer holds, in place."""
        held = list(parameters_of(optimizer))
        if self.by == "norm":
            utils.clip_grad_norm_(held, self.bound)
        else:
            utils.clip_grad_value_(held, self.bound)


class ClippedOptimizer:
    """What the class of an optimizer that clips has beside that of the optimizer itself.

    Attributes:
        clip: How it clips. Of the class, so that copies have it, of which torch keeps groups and
            state alone.
        plain: The class without clipping.
    """

    clip: ClassVar[Clip]
    plain: ClassVar[type[Optimizer]]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class is made on the fly: pickle finds it by what it is made of.
        _, *rest = cast(tuple[Any, ...], super().__reduce_ex__(protocol))
        return _new, (self.plain, self.clip), *rest[1:]


def clipped(optimizer: Optimizer, clip: Clip) -> None:
    """Has an optimizer clip before each update; the class that it was of stays as it is.

    With a closure, the gradients of each evaluation are clipped.
    """
    # A scheduler may have put a step of the plain class into the object.
    vars(optimizer).pop("step", None)
    # GradScaler would leave the division by its scale to a fused step, which comes too late here.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined] # noqa: SLF001
    plain: Any = type(optimizer)
    optimizer.__class__ = _class(plain, clip)


def clip_of(optimizer: Optimizer) -> Clip | None:
    """How an optimizer clips; None where it does not."""
    return optimizer.clip if isinstance(optimizer, ClippedOptimizer) else None


@functools.cache
def _class(plain: type[Optimizer], clip: Clip) -> type[Optimizer]:
    # With the signature of the plain step, which tells whether a closure is needed.
    @functools.wraps(plain.step)
    def step(
        self: Optimizer, closure: Callable[[], Any] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        if closure is None:
            clip(self)
            return plain.step(self, *args, **kwargs)

        def evaluate() -> Any:
            with torch.enable_grad():
                loss = closure()
            clip(self)
            return loss

        return plain.step(self, evaluate, *args, **kwargs)

    # The plain step calls the hooks of torch.optim already.
    step.hooked = True  # type: ignore[attr-defined]
    body = {"clip": clip, "plain": plain, "step": step, "__doc__": plain.__doc__}
    name, bases = f"Clipped{plain.__name__}", (ClippedOptimizer, plain)
    return cast(
        type[Optimizer], types.new_class(name, bases, exec_body=lambda new: new.update(body))
    )


def _new(plain: Any, clip: Clip) -> Optimizer:
    kind = _class(plain, clip)
    return kind.__new__(kind)
