"""Whether a forward pass runs for real, or is only written down."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
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


def eager() -> AbstractContextManager[Any]:
    """Runs compiled parts of the model in eager mode, where hooks see them (torch >= 2.6).

    Nothing is compiled where the compiler was never imported, which takes seconds.
    """
    set_stance: Any = getattr(torch.compiler, "set_stance", None)
    compiling = set_stance is not None and "torch._dynamo" in sys.modules
    return set_stance("force_eager") if compiling else nullcontext()
