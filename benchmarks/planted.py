"""Nets that learn, with one fault planted at one known layer: is it found, and named, and placed?

The net is drawn like those of the other families, from settings that learn. A fault is written as
users make it. Most are labelled by training the net, like all cases; a few are facts of the code (a
cut graph, parameters the optimizer never got) that a lucky net survives, and count as sick anyway.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import networks, tasks
from benchmarks.cases import Case, Culprit, Draw

_WEIGHTS = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One mistake.

    Attributes:
        codes: Codes that name it; several where one mistake has two right names.
        plant: Changes a net (a list of its parts) at the place of a hidden weight layer.
        activation: The activation that the net must have; None for any.
        fact: Whether it counts as sick whatever training makes of it.
        around: Whether the layers before and behind may be named as well: what a layer's weights do
            to signal and gradient shows in the next and in the one before.
    """

    codes: frozenset[str]
    plant: Callable[[list[nn.Module], int], None]
    activation: str | None = None
    fact: bool = False
    around: bool = True


class _Behind(nn.Module):
    """Does something to a tensor on its way."""

    def __init__(self, action: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.action = action

    def forward(self, x: Tensor) -> Tensor:
        """Applies it."""
        return self.action(x)


class _WithoutGradient(nn.Module):
    """A layer that runs under `no_grad`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Runs it."""
        with torch.no_grad():
            return self.inner(x)  # type: ignore[no-any-return]


class WithoutSome(torch.optim.SGD):
    """SGD that was not given all parameters."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, left_out: int, **settings: Any
    ) -> None:
        every = list(parameters)
        del every[2 * left_out : 2 * left_out + 2]
        super().__init__(every, **settings)


def _scaled(factor: float) -> Callable[[list[nn.Module], int], None]:
    def plant(parts: list[nn.Module], place: int) -> None:
        _weight(parts[place]).data.mul_(factor)

    return plant


def _biased(shift: float) -> Callable[[list[nn.Module], int], None]:
    def plant(parts: list[nn.Module], place: int) -> None:
        layer = parts[place]
        assert isinstance(layer, _WEIGHTS)  # noqa: S101 - tells the type checker
        assert layer.bias is not None  # noqa: S101
        layer.bias.data.fill_(shift)

    return plant


def _behind(action: Callable[[Tensor], Tensor]) -> Callable[[list[nn.Module], int], None]:
    def plant(parts: list[nn.Module], place: int) -> None:
        parts[place] = nn.Sequential(parts[place], _Behind(action))

    return plant


def _no_grad(parts: list[nn.Module], place: int) -> None:
    parts[place] = _WithoutGradient(parts[place])


def _nothing(parts: list[nn.Module], place: int) -> None:
    """The net is in order; the optimizer is not."""
    del parts, place


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)  # noqa: S101 - tells the type checker
    return weight


FAULTS: dict[str, Fault] = {
    "weights x 1e-4": Fault(
        codes=frozenset({"GC101", "GC203"}), plant=_scaled(1e-4), activation="tanh"
    ),
    "weights x 1e3": Fault(
        codes=frozenset({"GC102", "GC201"}), plant=_scaled(1e3), activation="tanh"
    ),
    "bias of -50 before relu": Fault(
        codes=frozenset({"GC202"}), plant=_biased(-50.0), activation="relu"
    ),
    "bias of 50 before tanh": Fault(
        codes=frozenset({"GC201"}), plant=_biased(50.0), activation="tanh"
    ),
    "detached": Fault(codes=frozenset({"GC103"}), plant=_behind(Tensor.detach), fact=True),
    "no_grad": Fault(codes=frozenset({"GC103"}), plant=_no_grad, fact=True, around=False),
    "not in the optimizer": Fault(
        codes=frozenset({"GC303"}), plant=_nothing, fact=True, around=False
    ),
    "logarithm of a negative number": Fault(
        codes=frozenset({"GC401"}), plant=_behind(torch.log), activation="tanh"
    ),
    "multiplied by zero": Fault(
        codes=frozenset({"GC104", "GC203"}), plant=_behind(lambda x: x * 0.0)
    ),
    "overflow in exp": Fault(
        codes=frozenset({"GC401"}), plant=_behind(lambda x: (1e3 * x.abs()).exp())
    ),
}


def case(index: int) -> Case:
    """The case with this number."""
    draw = Draw("planted", index)
    name = draw("fault", list(FAULTS))
    fault = FAULTS[name]
    shape = draw("net", ("mlp", "mlp", "cnn"))
    depth = draw("depth", (3, 4, 6))
    activation = fault.activation or draw("activation", ("relu", "tanh", "gelu"))
    place = int(draw("place", tuple(range(1, depth))))  # a layer before it must notice, too
    init = {"relu": "he", "gelu": "he", "tanh": "xavier"}[activation]

    def build() -> nn.Module:
        act = networks.ACTIVATIONS[activation]
        sound = (
            networks.cnn(depth, 8, act)
            if shape == "cnn"
            else networks.mlp([64, *[64] * depth, 10], act)
        )
        parts = list(networks.initialise(sound, init).children())
        fault.plant(parts, _position(parts, place))
        return nn.Sequential(*parts)

    task = tasks.digits(1, 8, 8) if shape == "cnn" else tasks.digits()
    drawn = draw.case(task, build)
    culprit = Culprit(codes=fault.codes, layers=_layers(build(), place, fault), fact=fault.fact)
    if name == "not in the optimizer":
        make = functools.partial(WithoutSome, left_out=place, lr=0.01, momentum=0.9)
        return replace(drawn, optimizer="sgd-0.01", make_optimizer=make, culprit=culprit)
    return replace(drawn, culprit=culprit)


def _position(parts: list[nn.Module], place: int) -> int:
    return [k for k, part in enumerate(parts) if isinstance(part, _WEIGHTS)][place]


def _layers(model: nn.Module, place: int, fault: Fault) -> frozenset[str]:
    """Names under which a finding may place the fault: the layer, and what is next to it."""
    parts = list(model.children())
    holds = [
        k
        for k, part in enumerate(parts)
        if any(isinstance(each, _WEIGHTS) for each in part.modules())
    ]
    first = holds[place - 1] if fault.around else holds[place]
    last = holds[min(place + 1, len(holds) - 1)] if fault.around else holds[place]
    return frozenset(
        name for k in range(first, last + 1) for name, _ in parts[k].named_modules(prefix=str(k))
    )
