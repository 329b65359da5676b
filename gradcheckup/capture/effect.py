"""Which layers without a gradient matter to the loss at all: found by changing their output.

A layer behind which the graph is cut (`detach`, `argmax`) and a head that nothing uses look the
same in the graph. Their values tell them apart: only the first one's reach the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

_SAME = 1e-6


def without_effect(
    names: Iterable[str], modules: Mapping[str, nn.Module], evaluate: Callable[[], float]
) -> tuple[str, ...]:
    """Those of some modules whose output the loss does not depend on.

    Args:
        names: Of the modules to look at.
        modules: By name.
        evaluate: Computes the loss, the same one each time.
    """
    plain = evaluate()
    return tuple(
        name for name in names if _close(plain, _loss_with_other_output(modules[name], evaluate))
    )


def _loss_with_other_output(module: nn.Module, evaluate: Callable[[], float]) -> float:
    handle = module.register_forward_hook(lambda *call: _other(call[-1]))
    try:
        return evaluate()
    finally:
        handle.remove()


def _other(output: Any) -> Any:
    """The same structure with other values, also in order: an argmax has to notice."""
    if isinstance(output, Tensor):
        return 1 - 2 * output if output.is_floating_point() else output
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*map(_other, output))
    if isinstance(output, (tuple, list)):
        return type(output)(map(_other, output))
    if isinstance(output, dict):
        return type(output)((key, _other(value)) for key, value in output.items())
    return output


def _close(one: float, other: float) -> bool:
    return one == other or math.isclose(one, other, rel_tol=_SAME)
