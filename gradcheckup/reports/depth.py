"""Where layers stand on the depth axis of a figure, and what a log axis can show of their values.

Depth counts weight layers in execution order; what runs between two of them stands between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gradcheckup.records import Finding, LayerRecord, Role, Step

# Float64 reaches further, but a figure's margins have to fit in as well.
_SMALLEST, _LARGEST = 1e-250, 1e250

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Depth:
    """The depth axis of a model.

    Attributes:
        names: Those of the weight layers, at 0, 1, 2 ...; of all layers where none has weights.
        places: Where each call of each layer stands, by its key.
    """

    names: tuple[str, ...]
    places: dict[Key, float]

    @classmethod
    def of(cls, step: Step) -> Depth:
        """The axis on which the layers of a step stand."""
        counted = {layer.key for layer in weight_layers(step)}
        names: list[str] = []
        places: dict[Key, float] = {}
        between: list[Key] = []
        for layer in step.layers:
            if layer.key not in counted:
                between.append(layer.key)
                continue
            places.update(_spread(between, len(names) - 1))
            between = []
            places[layer.key] = float(len(names))
            names.append(layer.name + (f"#{layer.call}" if layer.call else ""))
        places.update(_spread(between, len(names) - 1))
        return cls(tuple(names), places)

    @property
    def span(self) -> tuple[float, float]:
        """From where to where the axis goes."""
        places = [0.0, *self.places.values()]
        return min(places) - 0.5, max(places) + 0.5

    def find(self, finding: Finding, step: Step) -> list[float]:
        """Where the layers of a finding stand, and the layers that own its parameters."""
        owners = {parameter.name: parameter.layer for parameter in step.parameters}
        meant = {owners.get(name, name) for name in finding.layers}
        return [place for (name, _), place in self.places.items() if name in meant]


def weight_layers(step: Step) -> list[LayerRecord]:
    """The layers that count as depth; all of them where none has weights."""
    return [layer for layer in step.layers if layer.role is Role.WEIGHT] or list(step.layers)


def _spread(keys: Sequence[Key], start: int) -> Iterator[tuple[Key, float]]:
    """Evenly behind the layer at `start`, in front of the next."""
    for index, key in enumerate(keys, start=1):
        yield key, start + index / (len(keys) + 1)


@dataclass(frozen=True, slots=True)
class Curve:
    """Values along the depth axis; those that cannot be drawn to scale stand apart.

    Attributes:
        places: Of all values.
        values: What can be drawn to scale; NaN, which leaves a gap, for all else.
        zeros: Places of exact zeros, which a log axis cannot show.
        infinite: Places of infinities.
        broken: Places of NaN.
    """

    places: tuple[float, ...]
    values: tuple[float, ...]
    zeros: tuple[float, ...]
    infinite: tuple[float, ...]
    broken: tuple[float, ...]

    @classmethod
    def of(cls, points: Iterable[tuple[float, float | None]], *, log: bool) -> Curve:
        """The curve through (place, value) pairs; None, which was not measured, leaves a gap."""
        pairs = list(points)
        known = [(place, value) for place, value in pairs if value is not None]
        return cls(
            places=tuple(place for place, _ in pairs),
            values=tuple(_to_scale(value, log=log) for _, value in pairs),
            zeros=tuple(at for at, value in known if log and -math.inf < value <= 0),
            infinite=tuple(at for at, value in known if math.isinf(value)),
            broken=tuple(at for at, value in known if math.isnan(value)),
        )

    @property
    def drawable(self) -> list[float]:
        """The values that can be drawn to scale."""
        return [value for value in self.values if not math.isnan(value)]


def _to_scale(value: float | None, *, log: bool) -> float:
    if value is None or not math.isfinite(value) or (log and value <= 0):
        return math.nan
    return min(max(value, _SMALLEST), _LARGEST) if log else value
