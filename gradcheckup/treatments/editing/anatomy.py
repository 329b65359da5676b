"""What a treatment has to know of a model: its layers in order, and which feeds which."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from gradcheckup.capture import Station, class_name, wiring
from gradcheckup.probe.safekeeping import random_state
from gradcheckup.probe.subject import named_modules
from gradcheckup.records import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightLayer:
    """A module that mixes features, with all its calls in one forward pass.

    Attributes:
        name: Qualified name; empty for a model that is itself the layer.
        kind: As `LayerRecord.kind`.
        calls: How often it is called.
        given: Shape of its first input at the first call.
        shape: Shape of its output at the first call.
        output: Whether the loss is reached from it through no other weight layer.
        sources: Names of the weight layers that its input is computed from, with none between;
            its own among them for a cell in a loop. Empty for the first layer.
        activations: Kinds of the activations between it and the next weight layers, gates left
            out, in execution order.
        normalised: Whether a norm stands between it and a next weight layer.
    """

    name: str
    kind: str
    calls: int
    given: tuple[int, ...]
    shape: tuple[int, ...]
    output: bool
    sources: tuple[str, ...]
    activations: tuple[str, ...]
    normalised: bool

    @property
    def recurrent(self) -> bool:
        """Whether it is a cell that is called along a sequence."""
        return self.calls > 1 and self.name in self.sources


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationSite:
    """One call of an element-wise nonlinearity between two weight layers.

    Attributes:
        owner: Qualified name of the module that is called, or in whose forward the function is.
        kind: As `LayerRecord.kind`.
        call: 0 for the first call of this kind in this owner, 1 for the second.
        functional: Whether it is a function, or a module made on the fly.
        hidden: Whether another weight layer follows, and it does not merely gate something.
    """

    owner: str
    kind: str
    call: int
    functional: bool
    hidden: bool


class Anatomy:
    """Weight layers and activations of a model, in execution order.

    Attributes:
        layers: Registered weight layers; those that are functions of bare parameters are left out.
        activations: Every activation but softmaxes.
    """

    def __init__(self, stations: Sequence[Station], root: str) -> None:
        """Reads stations in which the model itself goes by the name `root`."""
        self._stations = stations
        self._root = root
        self.layers = tuple(self._weight_layers())
        self.activations = tuple(self._activation_sites())

    @cached_property
    def by_name(self) -> dict[str, WeightLayer]:
        """The weight layers by name."""
        return {layer.name: layer for layer in self.layers}

    @property
    def hidden(self) -> list[WeightLayer]:
        """The weight layers that are no output layers, and no embeddings."""
        return [
            layer for layer in self.layers if not layer.output and "embedding" not in layer.kind
        ]

    def _name(self, station: Station) -> str:
        return "" if station.name == self._root else station.name

    def _weight_layers(self) -> Iterator[WeightLayer]:
        calls: dict[str, list[int]] = {}
        for index, station in enumerate(self._stations):
            if _is_layer(station):
                calls.setdefault(station.name, []).append(index)
        for indices in calls.values():
            first = self._stations[indices[0]]
            between = sorted(set().union(*map(self._behind, indices)))
            passed = [self._stations[index] for index in between]
            sources = {
                self._name(self._stations[source])
                for index in indices
                for source in self._weights_before(index)
            }
            yield WeightLayer(
                name=self._name(first),
                kind=first.kind,
                calls=len(indices),
                given=first.given,
                shape=first.shape,
                output=any(self._stations[index].place.output for index in indices),
                sources=tuple(sorted(sources)),
                activations=tuple(
                    dict.fromkeys(
                        each.kind
                        for each in passed
                        if each.role is Role.ACTIVATION and not each.place.gate
                    )
                ),
                normalised=any(each.role is Role.NORM for each in passed),
            )

    def _activation_sites(self) -> Iterator[ActivationSite]:
        for index, station in enumerate(self._stations):
            if station.role is not Role.ACTIVATION or "softm" in station.kind:
                continue
            owner = station.name
            if station.functional:
                owner = owner.removesuffix(station.kind).removesuffix(".")
            yield ActivationSite(
                owner="" if owner == self._root else owner,
                kind=station.kind,
                call=station.call,
                functional=station.functional,
                hidden=not station.place.output
                and not station.place.gate
                and bool(self._weights_before(index)),
            )

    def _weights_before(self, index: int) -> set[int]:
        """The nearest weight layers, also those of bare parameters, that a station comes from."""
        found: set[int] = set()
        stack = list(self._stations[index].before)
        seen = set(stack)
        while stack:
            here = stack.pop()
            if _is_weight(self._stations[here]):
                found.add(here)
                continue
            fresh = set(self._stations[here].before) - seen
            seen |= fresh
            stack.extend(fresh)
        return found

    def _behind(self, index: int) -> set[int]:
        """What lies between a weight layer and the next ones."""
        found: set[int] = set()
        for later in range(index + 1, len(self._stations)):
            station = self._stations[later]
            if _is_weight(station) or station.role is Role.CONTAINER:
                continue
            if any(before == index or before in found for before in station.before):
                found.add(later)
        return found


def _is_weight(station: Station) -> bool:
    # What computes the weight of a layer is a part of that layer.
    return station.role is Role.WEIGHT and "parametrizations" not in station.name.split(".")


def _is_layer(station: Station) -> bool:
    return _is_weight(station) and not station.functional


def examine(model: nn.Module, loss: Callable[[nn.Module], Tensor], seed: int = 0) -> Anatomy:
    """The anatomy of a model, from one forward pass of a copy.

    Args:
        model: Left as it is.
        loss: Runs a model and reduces what comes out to a scalar.
        seed: Of dropout and the like.
    """
    with random_state(seed), torch.enable_grad():
        twin = copy.deepcopy(model)
        for tensor in _floating(twin.parameters()):
            tensor.requires_grad_(True)
        names = named_modules(twin)
        return Anatomy(wiring(twin, names, lambda: loss(twin)), class_name(twin))


def _floating(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    return (tensor for tensor in tensors if tensor.is_floating_point())
