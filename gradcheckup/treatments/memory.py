"""How strongly inputs may drive a recurrence of tanh if its gradient is to last the sequence.

With orthogonal recurrent weights, states h hand a gradient back by the slopes 1 - h^2: over T steps
its square keeps chi^T of itself, chi = E[(1 - h^2)^2] (Chen, Pennington & Schoenholz 2018). Each
step adds its input to what the state holds, so that states saturate with the length of a sequence
under input weights that suit a single step. Here these are scaled until chi^T = 1/e on the batch:
the gradient then spans the sequence, as a state of RMS 1 / sqrt(2 T) does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradcheckup.capture.tap import input_of, outputs_of

_ROUNDS, _TOLERANCE = 20, 0.05
_NO_STATE = -1e-9
"""T log chi of states that no input reaches."""


def scale_inputs(
    module: nn.RNN | nn.RNNCell, steps: int, run: Callable[[], Any]
) -> dict[str, float]:
    """Scales the input weights of a tanh recurrence, layer after layer.

    Where other things than the inputs decide how large its states are, or nothing reaches them, the
    weights stay as they are, and so do frozen ones.

    Args:
        module: With recurrent weights that are orthogonal already; changed in place.
        steps: Length of the sequence; that of a packed one is its own.
        run: Runs the model on a batch.

    Returns:
        By what each weight was multiplied, by its name in the module.
    """
    if isinstance(module, nn.RNNCell):
        return _settle(module, [""], partial(_kept, partial(outputs_of, module, run), steps))
    given = input_of(module, run)
    if given is None:
        return {}
    steps = len(given.batch_sizes) if isinstance(given, PackedSequence) else steps
    factors: dict[str, float] = {}
    for depth in range(module.num_layers):
        endings = [f"_l{depth}", *([f"_l{depth}_reverse"] if module.bidirectional else [])]
        states = _Layers(module, depth + 1, given)
        factors |= _settle(module, endings, partial(_kept, states, steps))
    return factors


class _Layers:
    """Runs the lowest layers of a recurrent module, whose states are seen of the last one alone."""

    def __init__(self, module: nn.RNN, count: int, given: Tensor | PackedSequence) -> None:
        self.module = module
        self.given = given
        weight = module.weight_hh_l0
        self.lowest = nn.RNN(
            module.input_size,
            module.hidden_size,
            count,
            bias=module.bias,
            batch_first=module.batch_first,
            bidirectional=module.bidirectional,
            device=weight.device,
            dtype=weight.dtype,
        )

    def __call__(self) -> Tensor:
        """Their states at all steps, from zeros on."""
        with torch.no_grad():
            for name, parameter in self.lowest.named_parameters():
                parameter.copy_(getattr(self.module, name))
            states = self.lowest(self.given)[0]
        return states.data if isinstance(states, PackedSequence) else states


def _kept(look: Callable[[], Tensor | None], steps: int) -> float:
    """T log chi: the logarithm of what is kept of a squared gradient."""
    states = look()
    chi = 1.0 if states is None else float((1 - states.double().square()).square().mean())
    return steps * math.log(chi) if chi > 0 else -math.inf


def _settle(
    module: nn.Module, endings: Iterable[str], kept: Callable[[], float]
) -> dict[str, float]:
    """Scales input weights until 1/e is kept; as they were where that is not to be had so."""
    weights = dict(_drawn(module, endings))
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    factor = 1.0
    for _ in range(_ROUNDS if weights else 0):
        logarithm = kept()
        if not -math.inf < logarithm < _NO_STATE:
            break
        if abs(logarithm + 1) < _TOLERANCE:
            return dict.fromkeys(weights, factor)
        step = 1 / math.sqrt(-logarithm)  # exact for small states, whose T log chi is -2 T h^2
        factor *= step
        _fill(weights, {name: values * factor for name, values in before.items()})
    _fill(weights, before)
    return {}


def _drawn(module: nn.Module, endings: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    own = dict(module.named_parameters(recurse=False))
    for ending in endings:
        weight = own.get(f"weight_ih{ending}")
        if weight is not None and weight.requires_grad:
            yield f"weight_ih{ending}", weight


def _fill(weights: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])
