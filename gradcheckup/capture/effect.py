"""What the values of a layer do to the loss: found by changing its output.

A layer behind which the graph is cut (`detach`, `argmax`) and a head that nothing uses look the
same in the graph. Their values tell them apart: only the first one's reach the loss. Likewise a
recurrent layer that has nothing to say about the targets yet and one that has said it all get
gradients of no pattern; only the second one's values are missed. And a net whose weights stand
still has either learnt its batches or is stuck: only the first one's outputs fit the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup.nesting import mapped

_SAME = 1e-6
_NOTICED = 1e-5
_MISSED = 0.1


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


def telling(
    names: Iterable[str], modules: Mapping[str, nn.Module], evaluate: Callable[[], float]
) -> tuple[str, ...]:
    """Those of some recurrent layers whose states the loss knows how to use.

    Where the samples of a batch exchange their states, the loss rises by more than a tenth.

    Args:
        names: Of layers whose outputs have the batch in the dimension that torch's have.
        modules: By name.
        evaluate: Computes the loss, the same one each time.
    """
    plain = evaluate()
    return tuple(
        name
        for name in names
        if _loss_with_other_output(modules[name], evaluate, _exchanged) - plain
        > _MISSED * abs(plain)
    )


def unexplained(model: nn.Module, evaluate: Callable[[], float]) -> float | None:
    """The loss over what it is where every sample has the output of the one before it.

    1 where outputs say nothing of their own sample; 0 where they say all.

    Args:
        model: Its outputs have the batch in their first dimension.
        evaluate: Computes the loss, the same one each time.

    Returns:
        None where that cannot be said: a loss is 0 or no positive number, or does not depend on
        whose outputs they are, as that of a differential equation.
    """
    plain = evaluate()
    other = _loss_with_other_output(model, evaluate, lambda _, output: mapped(_roll, output))
    if not (plain >= 0 and 0 < other < math.inf):
        return None
    if _close(plain, other) and not _matters_whose(model, evaluate):
        return None
    return plain / other


def _matters_whose(model: nn.Module, evaluate: Callable[[], float]) -> bool:
    """Whether a loss depends on which sample has which output, where outputs differ."""

    def with_noise(shift: int) -> float:
        change = partial(_noisy, shift)
        return _loss_with_other_output(model, evaluate, lambda _, output: mapped(change, output))

    return not math.isclose(with_noise(0), with_noise(1), rel_tol=_NOTICED)


def _noisy(shift: int, output: Tensor) -> Tensor:
    """The output with noise of its own size, the same each time, exchanged among the samples."""
    if not (output.is_floating_point() and output.ndim):
        return output
    generator = torch.Generator(output.device).manual_seed(0)
    noise = torch.randn(output.shape, generator=generator, device=output.device)
    size = 1 + output.detach().abs().mean()
    return (output + (size * noise).to(output.dtype)).roll(shift, 0)


def _roll(output: Tensor) -> Tensor:
    return output.roll(1, 0) if output.ndim else output


def _exchanged(module: nn.Module, output: Any) -> Any:
    """Every sample has the output of the one before it."""
    if isinstance(module, nn.RNNBase):
        sequence, state = output
        if isinstance(sequence, Tensor):
            batch = 0 if module.batch_first else 1
            sequence = sequence.roll(1, batch) if sequence.ndim > 2 else sequence
        return sequence, _rolled(state, 1)
    return _rolled(output, 0)


def _rolled(output: Any, batch: int) -> Any:
    if isinstance(output, tuple):
        return tuple(_rolled(each, batch) for each in output)
    return output.roll(1, batch) if output.ndim > batch + 1 else output


def _loss_with_other_output(
    module: nn.Module,
    evaluate: Callable[[], float],
    change: Callable[[nn.Module, Any], Any] = lambda _, output: mapped(_other, output),
) -> float:
    handle = module.register_forward_hook(lambda layer, _, output: change(layer, output))
    try:
        return evaluate()
    finally:
        handle.remove()


def _other(output: Tensor) -> Tensor:
    """Other values, also in order: an argmax has to notice."""
    return 1 - 2 * output if output.is_floating_point() else output


def _close(one: float, other: float) -> bool:
    return one == other or math.isclose(one, other, rel_tol=_SAME)
