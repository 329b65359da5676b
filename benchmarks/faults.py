"""Mistakes that users make, each to be planted at one layer of a net that learns without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.cases import Optimizer
from benchmarks.parts import Parts
from benchmarks.planting import (
    DetachedLoss,
    accumulating,
    behind,
    biased,
    hasty,
    left_out,
    no_grad,
    nothing,
    one_weight,
    sharp_attention,
    short_memory,
    single_unit,
    unchanged,
    weights,
    without_rate,
)

_PLAIN = ("mlp", "cnn")
_ALL = ("mlp", "mlp", "cnn", "recurrent", "transformer")
_ANY = ("relu", "tanh", "gelu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One mistake.

    Attributes:
        codes: Codes that name it; several where one mistake has two right names.
        plant: Changes a net, given as its parts, at the place of one of them.
        arrange: Changes the optimizer, given the indices of the place's parameters.
        criterion: Makes the loss instead of the task's own.
        nets: Kinds of nets that it can be planted in.
        activations: Activations that the net may have.
        fact: Whether it counts as sick whatever training makes of it.
        around: Whether the layers before and behind may be named as well: what a layer's weights do
            to signal and gradient shows in the next and in the one before.
        where: The `place` drawn, its `first` or `last` part, all `blocks`, or `nowhere`.
    """

    codes: frozenset[str]
    plant: Callable[[Parts, int], None] = nothing
    arrange: Callable[[Optimizer, Sequence[int]], Optimizer] = unchanged
    criterion: Callable[[], nn.Module] | None = None
    nets: tuple[str, ...] = _ALL
    activations: tuple[str, ...] = _ANY
    fact: bool = False
    around: bool = True
    where: str = "place"


def _codes(*codes: str) -> frozenset[str]:
    return frozenset(codes)


FAULTS: dict[str, Fault] = {
    # One factor takes from the signal on its way forward what it takes from the gradient.
    "weights x 1e-4": Fault(
        codes=_codes("GC101", "GC203"),
        plant=weights(lambda w: w.mul_(1e-4)),
        nets=_PLAIN,
        activations=("tanh", "relu"),
    ),
    # What grows in front of a squashing activation saturates it.
    "weights x 1e3, tanh": Fault(
        codes=_codes("GC102", "GC201"),
        plant=weights(lambda w: w.mul_(1e3)),
        nets=_PLAIN,
        activations=("tanh",),
    ),
    # Gradients that large make updates larger than the weights.
    "weights x 1e4, relu": Fault(
        codes=_codes("GC102", "GC302"),
        plant=weights(lambda w: w.mul_(1e4)),
        nets=_PLAIN,
        activations=("relu",),
    ),
    "bias of -50 before relu": Fault(
        codes=_codes("GC202"), plant=biased(-50.0), nets=_PLAIN, activations=("relu",)
    ),
    "bias of 50 before tanh": Fault(
        codes=_codes("GC201"), plant=biased(50.0), nets=_PLAIN, activations=("tanh",)
    ),
    # Equal units, and since relu has no slope at 0, no gradient either.
    "zero weights": Fault(
        codes=_codes("GC504", "GC104"),
        plant=weights(Tensor.zero_),
        nets=_PLAIN,
        activations=("relu",),
    ),
    "constant weights": Fault(
        codes=_codes("GC504"), plant=weights(lambda w: w.fill_(0.05)), nets=_PLAIN
    ),
    "detached": Fault(codes=_codes("GC103"), plant=behind(Tensor.detach), fact=True),
    "no_grad": Fault(codes=_codes("GC103"), plant=no_grad, fact=True, around=False),
    "not in the optimizer": Fault(codes=_codes("GC303"), arrange=left_out, fact=True, around=False),
    "learning rate of 0": Fault(codes=_codes("GC303"), arrange=without_rate, around=False),
    "NaN among the weights": Fault(codes=_codes("GC401"), plant=one_weight(float("nan"))),
    "logarithm of a negative number": Fault(
        codes=_codes("GC401"), plant=behind(torch.log), activations=("tanh",)
    ),
    "overflow in exp": Fault(codes=_codes("GC401"), plant=behind(lambda x: (1e3 * x.abs()).exp())),
    # The branch that is not taken is NaN, and is differentiated all the same.
    "root behind where": Fault(
        codes=_codes("GC402"), plant=behind(lambda x: torch.where(x > 0, x.sqrt(), x))
    ),
    # No gradient in front of it, no signal behind it, so that a relu there never fires.
    "multiplied by zero": Fault(
        codes=_codes("GC104", "GC202", "GC203"), plant=behind(lambda x: x * 0.0)
    ),
    # It says 1 whatever comes: the same two.
    "softmax over one unit": Fault(
        codes=_codes("GC104", "GC203"),
        plant=single_unit,
        nets=("mlp", "recurrent", "transformer"),
    ),
    "mean over the batch": Fault(
        codes=_codes("GC203"), plant=behind(lambda x: x.mean(0, keepdim=True).expand_as(x))
    ),
    "attention logits x 1e3": Fault(
        codes=_codes("GC204"), plant=sharp_attention, nets=("transformer",), where="blocks"
    ),
    "recurrent weights x 0.01": Fault(
        codes=_codes("GC105"),
        plant=short_memory,
        nets=("recall",),
        activations=("tanh",),
        around=False,
        where="first",
    ),
    "zero_grad forgotten": Fault(codes=_codes("GC304"), arrange=accumulating, where="nowhere"),
    # The update over the weights, or what it does to the gradient from step to step.
    "learning rate x 1000": Fault(codes=_codes("GC302", "GC102"), arrange=hasty, where="nowhere"),
    "detached loss": Fault(
        codes=_codes("GC103"), criterion=DetachedLoss, around=False, where="last"
    ),
}
