"""How strongly inputs may drive a saturating recurrence if its gradient is to last the sequence.

With orthogonal recurrent weights of critical gain, states h = tanh(z) hand a gradient back by the
slopes 1 - h^2: over T steps its square keeps chi^T of itself, chi = E[(1 - h^2)^2] (Chen,
Pennington & Schoenholz 2018). Each step adds its input to what the state holds, so that states
saturate with the length of a sequence under input weights that suit a single step. Here these are
scaled until chi^T = 1/e on the batch: the gradient then spans the sequence. States of tanh have an
RMS of about 1 / sqrt(2 T) there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradcheckup.capture.tap import inputs_of, outputs_of

SLOPES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda h: 1 - h.square(),
    "sigmoid": lambda h: 4 * h * (1 - h),
    "softsign": lambda h: (1 - h.abs()).square(),
}
"""phi'(z) / phi'(0) from h = phi(z), by kind of activation."""

_ROUNDS, _TOLERANCE = 20, 0.05
_NO_STATE = -1e-9
"""T log chi of states that no input reaches."""


def scale_inputs(
    module: nn.RNN | nn.RNNCell, steps: int, run: Callable[[], Any]
) -> dict[str, float]:
    """Scales the input weights of torch's own tanh recurrence, layer after layer.

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
        return _scaled(module, [""], partial(_kept, partial(outputs_of, module, run), steps))
    given, *_ = inputs_of(module, run)
    steps = len(given.batch_sizes) if isinstance(given, PackedSequence) else steps
    factors: dict[str, float] = {}
    for depth in range(module.num_layers):
        endings = [f"_l{depth}", *([f"_l{depth}_reverse"] if module.bidirectional else [])]
        states = _Layers(module, depth + 1, given)
        factors |= _scaled(module, endings, partial(_kept, states, steps))
    return factors


def scale_drivers(
    loop: nn.Module, drivers: Sequence[nn.Module], kind: str, steps: int, run: Callable[[], Any]
) -> float:
    """Scales the layers that drive a recurrence written by hand, ``h = tanh(drive(x) + loop(h))``.

    Args:
        loop: Is given the states; with orthogonal weights of critical gain already.
        drivers: Changed in place, with their biases.
        kind: Of the activation, one of `SLOPES`.
        steps: How often it is called.
        run: Runs the model on a batch.

    Returns:
        By what weights and biases were multiplied; 1 where that does not settle the states.
    """

    def states() -> Tensor:
        return torch.cat(inputs_of(loop, run))

    own = [each for driver in drivers for each in driver.parameters(recurse=False)]
    weights = [each for each in own if each.requires_grad]
    return _settle(weights, partial(_kept, states, steps, kind))


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


def _kept(look: Callable[[], Tensor | None], steps: int, kind: str = "tanh") -> float:
    """T log chi: the logarithm of what is kept of a squared gradient."""
    states = look()
    chi = 1.0 if states is None else float(SLOPES[kind](states.double()).square().mean())
    return steps * math.log(chi) if chi > 0 else -math.inf


def _scaled(
    module: nn.Module, endings: Iterable[str], kept: Callable[[], float]
) -> dict[str, float]:
    """Scales those input weights of a module that are not frozen."""
    own = dict(module.named_parameters(recurse=False))
    names = [f"weight_ih{ending}" for ending in endings]
    names = [name for name in names if name in own and own[name].requires_grad]
    factor = _settle([own[name] for name in names], kept)
    return {} if factor == 1.0 else dict.fromkeys(names, factor)


def _settle(weights: Sequence[Tensor], kept: Callable[[], float]) -> float:
    """Multiplies weights until 1/e is kept; they are as before where that is not to be had so."""
    before = [weight.detach().clone() for weight in weights]
    factor = 1.0
    for _ in range(_ROUNDS if weights else 0):
        logarithm = kept()
        if not -math.inf < logarithm < _NO_STATE:
            break
        if abs(logarithm + 1) < _TOLERANCE:
            return factor
        factor /= math.sqrt(-logarithm)  # exact for small states, whose T log chi is -2 T h^2
        _fill(weights, [values * factor for values in before])
    _fill(weights, before)
    return 1.0


def _fill(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for weight, new in zip(weights, values, strict=True):
            weight.copy_(new)
