"""Which backward pass is running: checkpoints run a forward inside of one."""

from __future__ import annotations

import torch

NONE = -1

# A private part of torch; where a later version drops it, a forward is taken to run in no backward.
_NUMBER = getattr(torch._C, "_current_graph_task_id", lambda: NONE)  # noqa: SLF001 - see above


def running() -> int:
    """The number of the backward pass that autograd is running; `NONE` outside of any."""
    number: int = _NUMBER()
    return number


def in_backward() -> bool:
    """Whether autograd is running a backward pass: the forward is a checkpoint's recomputation."""
    return running() != NONE
