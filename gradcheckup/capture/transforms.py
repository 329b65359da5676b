"""Whether a forward pass runs for real, or is only written down."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

import torch

# A private part of torch, with a way out where a later version drops it.
_FUNCTORCH_LEVEL = getattr(
    getattr(torch._C, "_functorch", None),  # noqa: SLF001
    "peek_interpreter_stack",
    lambda: None,
)


def transformed() -> bool:
    """Whether the forward is being compiled, traced or functionally transformed."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return True
    return _FUNCTORCH_LEVEL() is not None


def can_be_eager() -> bool:
    """Whether compiled parts of a model can be run in eager mode (torch >= 2.6)."""
    return hasattr(torch.compiler, "set_stance")


class _Stance:
    """Who wants eager mode; several may, and leave in another order than they came.

    No generator stands behind it, which Python would close at its exit, when torch is gone.
    """

    def __init__(self) -> None:
        self.holders = 0
        self.setting: Any = None

    def __enter__(self) -> None:
        self.holders += 1
        if self.setting is None and "torch._dynamo" in sys.modules:
            set_stance: Any = getattr(torch.compiler, "set_stance", None)
            self.setting = set_stance("force_eager") if set_stance else None

    def __exit__(self, *_: object) -> None:
        self.holders -= 1
        if not self.holders and self.setting is not None and not sys.is_finalizing():
            self.setting, setting = None, self.setting
            setting.__exit__(None, None, None)


_STANCE = _Stance()


def eager() -> AbstractContextManager[None]:
    """Runs compiled parts of the model in eager mode, where hooks see them (torch >= 2.6).

    Nothing is compiled where the compiler was never imported, which takes seconds.
    """
    return _STANCE
