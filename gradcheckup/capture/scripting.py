"""TorchScript compiles the hooks of a module along with it, and knows no kind that takes all."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from gradcheckup.capture.hook import Hook

# A private part of torch; where a later version drops it, a model is scripted between looks.
_COMPILER: Any = getattr(torch.jit, "_recursive", None)


class _Curtain:
    """Stands in the place of what scripts a module, and hides hooks of ours from it."""

    def __init__(self) -> None:
        self.holders = 0
        self.original: Any = None
        self.ours: Any = None

    def __enter__(self) -> None:
        self.holders += 1
        if self.original is None and hasattr(_COMPILER, "create_script_module"):
            self.original = _COMPILER.create_script_module
            self.ours = _COMPILER.create_script_module = _blind(self.original)

    def __exit__(self, *_: object) -> None:
        self.holders -= 1
        if self.holders or self.ours is None or sys.is_finalizing():
            return
        # Whoever wrapped ours keeps their wrapper, which calls ours, which calls torch's.
        if _COMPILER.create_script_module is self.ours:
            _COMPILER.create_script_module = self.original
            self.original = self.ours = None


_CURTAIN = _Curtain()


def scriptable() -> AbstractContextManager[None]:
    """Lets models be scripted while hooks of ours stand on them."""
    return _CURTAIN


def _blind(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def create_script_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as hidden:
            for part in module.modules():
                for hooks in (part._forward_hooks, part._forward_pre_hooks):  # noqa: SLF001
                    if any(isinstance(each, Hook) for each in hooks.values()):
                        hidden.enter_context(_without_ours(hooks))
            return original(module, *args, **kwargs)

    return create_script_module


@contextmanager
def _without_ours(hooks: dict[int, Any]) -> Iterator[None]:
    """Takes hooks of ours away, and puts all back in their order."""
    every = dict(hooks)
    for key, hook in every.items():
        if isinstance(hook, Hook):
            del hooks[key]
    try:
        yield
    finally:
        hooks.clear()
        hooks.update(every)
