"""Other activations for modules that call theirs as functions, or make them on the fly."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gradcheckup.activations import FUNCTIONS
from gradcheckup.treatments.weights.gains import function


@dataclass(frozen=True, slots=True)
class Swap:
    """What a module's forward is to call in place of an activation.

    Attributes:
        target: Kind of the new activation.
        kept: Which calls of the old kind stay as they are, counted from 0 in each forward pass:
            gates, what stands at the loss, and those of modules inside that are not treated.
    """

    target: str
    kept: frozenset[int] = field(default_factory=frozenset)


class _Swapping(TorchFunctionMode):
    """Calls other activations, in the place of the values too where the old one worked there."""

    def __init__(self, swaps: Mapping[str, Swap]) -> None:
        super().__init__()
        self.swaps = swaps
        self.calls = dict.fromkeys(swaps, 0)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        known = FUNCTIONS.get(func)
        swap = self.swaps.get(known.kind) if known else None
        named = kwargs or {}
        if known is None or swap is None:
            return func(*args, **named)
        call = self.calls[known.kind]
        self.calls[known.kind] += 1
        if call in swap.kept:
            return func(*args, **named)
        given = args[0] if args else named["input"]
        in_place = func.__name__.endswith("_") or named.get("inplace", False)
        if in_place:
            return given.copy_(function(swap.target)(given.clone()))
        return function(swap.target)(given)


class _Tracing(TorchFunctionMode):
    """Tells whether `torch.compile` would show a function mode all activations that are called.

    It does not show functions that work in place (it does methods), nor what `F.sigmoid` and
    `F.tanh` call.

    Attributes:
        shown: Whether it would.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: bool = True

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        caller = sys._getframe(1).f_code  # noqa: SLF001 - as `inspect` does, and quicker
        in_place = func.__name__.endswith("_") and func not in _METHODS
        if func in FUNCTIONS and (in_place or caller in _INLINED):
            self.shown = False
        return func(*args, **(kwargs or {}))


_INLINED = frozenset(each.__code__ for each in (F.sigmoid, F.tanh))
_METHODS = frozenset(
    each for each in FUNCTIONS if getattr(torch.Tensor, each.__name__, None) is each
)


def is_traceable(run: Callable[[], Any]) -> bool:
    """Whether `torch.compile` shows all activations that a function calls."""
    with _Tracing() as tracing:
        run()
    shown: bool = tracing.shown
    return shown


def swap_functions(module: nn.Module, swaps: Mapping[str, Swap], *, traceable: bool = True) -> None:
    """Has a module's own forward call other activations, from the next call on.

    The module becomes an instance of a subclass of its class, which can be copied and pickled.
    `torch.compile` traces it as it traces the class; TorchScript cannot.

    Args:
        module: Changed in place.
        swaps: By kind, what to call instead.
        traceable: Whether `torch.compile` may trace the forward; else it runs as it is.
    """
    module.__class__ = _swapped(type(module), traceable)  # type: ignore[arg-type]
    module.swapped_functions = dict(swaps)  # type: ignore[assignment]


def _run(base: type[nn.Module], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with _Swapping(module.swapped_functions):
        return base.forward(module, *args, **kwargs)


@functools.cache
def _swapped(base: type[nn.Module], traceable: bool) -> type[nn.Module]:
    # To switch it off imports the compiler, which takes seconds.
    run = _run if traceable else torch.compiler.disable(_run)  # type: ignore[no-untyped-call]

    @functools.wraps(base.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return run(base, self, args, kwargs)

    # TorchScript would find the old source there, and compile that.
    del forward.__wrapped__
    forward.__signature__ = inspect.signature(base.forward)  # type: ignore[attr-defined]

    def reduce(self: Any, _: Any) -> Any:
        return _restored, (base, traceable), self.__dict__

    body = {
        "forward": forward,
        "__reduce_ex__": reduce,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    return type(base.__name__, (_Unannounced, base), body)


class _Unannounced:
    """A class made on the fly is none of the user's, and not told to `__init_subclass__`."""

    def __init_subclass__(cls, **_: Any) -> None:
        pass


def _restored(base: type[nn.Module], traceable: bool) -> nn.Module:
    kind: type[nn.Module] = _swapped(base, traceable)  # type: ignore[arg-type]
    return kind.__new__(kind)
