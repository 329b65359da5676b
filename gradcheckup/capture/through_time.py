"""What goes into a recurrent layer and what comes out, as far as it tells of time.

Of the input an alias, whose gradient is read along the time axis; of the output whether it has to
do with the gradient that it receives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradcheckup import statistics
from gradcheckup.records import time_points

_FORWARDS = frozenset(kind.forward for kind in (nn.RNN, nn.LSTM, nn.GRU))
_UNBATCHED = 2  # dimensions: time and features
_MOST_SAMPLES = 256


class Passage:
    """One call of a recurrent layer: the norm of dL/dx_t at some of its time steps.

    Attributes:
        length: Number of time steps.
        norms: One 0-d tensor for each of `time_points(length)`; empty until a gradient arrives.
    """

    __slots__ = ("_axis", "_sizes", "length", "norms")

    def __init__(self, length: int, axis: int = 0, sizes: Sequence[int] = ()) -> None:
        """Prepares to read a gradient.

        Args:
            length: Number of time steps.
            axis: Dimension of time.
            sizes: Of a packed sequence, how many sequences are left at each time step.
        """
        self.length = length
        self.norms: list[Tensor] = []
        self._axis = axis
        self._sizes = list(sizes)

    def read(self, gradient: Tensor) -> None:
        """Reads the gradient of the loss with respect to the input."""
        sizes = self._sizes
        steps = torch.split(gradient, sizes) if sizes else gradient.unbind(self._axis)
        self.norms = [statistics.norm(steps[time]) for time in time_points(self.length)]


def enter(module: nn.Module, given: Any) -> tuple[Any, Tensor, Passage] | None:
    """What to give a recurrent layer in place of its input: the same values under another name.

    The layer computes the same from it, bit for bit. The gradient of the alias is that of this
    call alone, also where the input is used elsewhere, and there is one where the input needs none.

    Args:
        module: Any module.
        given: Its first argument.

    Returns:
        The replacement, the tensor in it whose gradient is to be watched, and what reads it; None
        where there is nothing to watch: no weight that learns and no gradient to hand on, or
        no sequence.
    """
    if not isinstance(module, nn.RNNBase) or not torch.is_grad_enabled():
        return None
    packed = given if isinstance(given, PackedSequence) else None
    values = packed.data if packed else given
    if not isinstance(values, Tensor) or not values.is_floating_point() or not values.numel():
        return None
    alias = _alias(module, values)
    if alias is None:
        return None
    if packed:
        sizes = packed.batch_sizes.tolist()
        return packed._replace(data=alias), alias, Passage(len(sizes), sizes=sizes)
    axis = 1 if module.batch_first and values.ndim > _UNBATCHED else 0
    return alias, alias, Passage(values.shape[axis], axis)


def _alias(module: nn.Module, values: Tensor) -> Tensor | None:
    if values.requires_grad:
        return values.view_as(values)
    # A forward of the user's own may change its input in place, which a leaf does not allow.
    own = type(module).forward not in _FORWARDS
    if own or values.is_inference() or not any(each.requires_grad for each in module.parameters()):
        return None
    return values.detach().requires_grad_()


class Outlet:
    """What a layer hands on, to be compared with the gradient that comes back for it.

    Whether the two have to do with each other tells whether what the layer has to say, from the
    part of the sequence that it still knows, bears on the targets.
    """

    __slots__ = ("_batch", "_values", "_version")

    def __init__(self, values: Tensor, batch: int) -> None:
        """Keeps what is handed on.

        Args:
            values: Of two or three dimensions.
            batch: Which of them is the batch.
        """
        self._values = values.detach()
        self._version = values._version  # noqa: SLF001 - tells of changes in place
        self._batch = batch

    def compare(self, gradient: Tensor) -> Tensor | None:
        """The `statistics.dependence` of the two over the samples, where a gradient arrives.

        None for too few samples, and where the values have been overwritten since.
        """
        values = self._values.movedim(self._batch, 0)[:_MOST_SAMPLES]
        gradient = gradient.detach().movedim(self._batch, 0)[:_MOST_SAMPLES]
        if self._values._version != self._version:  # noqa: SLF001
            return None
        if values.ndim > _UNBATCHED:
            read = (gradient != 0).any(dim=-1, keepdim=True)
            values, gradient = (values * read).sum(dim=1), gradient.sum(dim=1)
        return statistics.dependence(values, gradient)


def outlets(module: nn.Module | None, call: int, output: Any) -> Iterator[tuple[Tensor, Outlet]]:
    """The tensors to compare with their gradients, where a layer may be a recurrent one.

    Args:
        module: The layer; None for a function.
        call: Which call of it: layers without a time axis recur from the second on.
        output: What it returned.
    """
    if isinstance(module, nn.RNNBase):
        sequence, state = output
        states = state if isinstance(state, tuple) else (state,)
        placed = [(sequence, 0 if module.batch_first else 1), *((each, 1) for each in states)]
        placed = [each for each in placed if isinstance(each[0], Tensor) and each[0].ndim > 2]
    elif call and (module is None or isinstance(module, (nn.RNNCellBase, nn.Linear))):
        parts = output if isinstance(output, tuple) else (output,)
        placed = [(each, 0) for each in parts if each.ndim == 2]
    else:
        return
    for tensor, batch in placed:
        if tensor.requires_grad:
            yield tensor, Outlet(tensor, batch)
