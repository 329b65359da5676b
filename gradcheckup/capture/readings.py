"""What one step leaves behind: tensors on the device first, numbers after one transfer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, overload

import torch
from torch import Tensor, nn

from gradcheckup import statistics
from gradcheckup.capture.pooling import Pooling
from gradcheckup.capture.structure import Node, Place
from gradcheckup.capture.through_time import Passage
from gradcheckup.nesting import parts
from gradcheckup.records import Role


@dataclass(slots=True, eq=False)
class Event:
    """One call of one layer, as it happens: numbers are still tensors on the device.

    `given` is the shape of a module's first input. `stretch` counts how often gradients had been
    switched off and on before: what ran under one reentrant checkpoint is one stretch; `passed`
    counts the forward passes before. `value` and
    `gradient` are y and dL/dy themselves, of output layers and where they are asked for.
    """

    name: str
    call: int
    kind: str
    role: Role
    functional: bool
    shape: tuple[int, ...]
    given: tuple[int, ...] = ()
    channels_first: bool = False
    stretch: int = 0
    passed: int = 0
    signal: Tensor | None = None
    peak: Tensor | None = None
    saturation: Tensor | None = None
    dead: Tensor | None = None
    attention_entropy: Tensor | None = None
    gradients: list[Tensor] = field(default_factory=list)
    underflow: Tensor | None = None
    nodes: list[Node] = field(default_factory=list)
    hooked: bool = False
    value: Tensor | None = None
    gradient: Tensor | None = None
    passage: Passage | None = None
    dependences: list[Tensor] = field(default_factory=list)

    def read(self, gradient: Tensor) -> None:
        """Adds a gradient of the output, or of a part of it."""
        self.gradients.append(statistics.norm(gradient))
        if self.underflow is None:  # of one output, as a rule the only one
            self.underflow = statistics.underflow(gradient)
        if self.value is not None and self.value.shape == gradient.shape:
            self.gradient = gradient.detach()


@dataclass(frozen=True, slots=True)
class Measured:
    """One call of one layer, as numbers; None where nothing was measured.

    `time_profile` and `time_steps` are those of this call alone, empty and 0 for most layers.
    """

    name: str
    call: int
    kind: str
    role: Role
    functional: bool
    shape: tuple[int, ...]
    place: Place
    signal: float | None
    peak: float | None
    saturation: float | None
    dead_fraction: float | None
    attention_entropy: float | None
    gradient_norm: float | None
    time_profile: tuple[float, ...]
    time_steps: int
    dependence: float | None
    gradient_underflow: float | None


class Tray:
    """Collects 0-d tensors, to carry all of them to the host at once.

    Attributes:
        poolings: By place, how the numbers of several processes become one.
    """

    def __init__(self) -> None:
        self.poolings: list[Pooling] = []
        self._scalars: list[Tensor] = []

    @overload
    def put(self, scalar: Tensor, pooling: Pooling = ...) -> int: ...

    @overload
    def put(self, scalar: None, pooling: Pooling = ...) -> None: ...

    @overload
    def put(self, scalar: Tensor | None, pooling: Pooling = ...) -> int | None: ...

    def put(self, scalar: Tensor | None, pooling: Pooling = Pooling.MEAN) -> int | None:
        """Its place on the tray; None for None."""
        if scalar is None:
            return None
        self._scalars.append(scalar)
        self.poolings.append(pooling)
        return len(self._scalars) - 1

    def carry(self) -> Readings:
        """One transfer, where the tensors share a device."""
        if not self._scalars:
            return Readings([])
        home = self._scalars[0].device
        wide = torch.float32 if home.type == "mps" else torch.float64
        stacked = torch.stack([scalar.to(home, wide) for scalar in self._scalars])
        return Readings(stacked.tolist())


class Readings:
    """The numbers of a tray, by place."""

    def __init__(self, values: list[float]) -> None:
        self._values = values

    def __getitem__(self, place: int) -> float:
        return self._values[place]

    def __iter__(self) -> Iterator[float]:
        return iter(self._values)

    def get(self, place: int | None) -> float | None:
        """The number at a place; None for None."""
        return None if place is None else self._values[place]


def put(event: Event, place: Place, tray: Tray) -> Callable[[Readings], Measured]:
    """Puts an event on a tray; returns what makes numbers of it once the tray was carried."""
    signal, peak = tray.put(event.signal, Pooling.SPREAD), tray.put(event.peak)
    saturation, dead = tray.put(event.saturation), tray.put(event.dead)
    entropy, underflow = tray.put(event.attention_entropy), tray.put(event.underflow)
    norms = [tray.put(gradient, Pooling.GRADIENT) for gradient in event.gradients]
    passed = event.passage.norms if event.passage else ()
    times = [tray.put(norm, Pooling.GRADIENT) for norm in passed]
    linked = [tray.put(each, Pooling.SCORE) for each in event.dependences]

    def read(readings: Readings) -> Measured:
        return Measured(
            name=event.name,
            call=event.call,
            kind=event.kind,
            role=event.role,
            functional=event.functional,
            shape=event.shape,
            place=place,
            signal=readings.get(signal),
            peak=readings.get(peak),
            saturation=readings.get(saturation),
            dead_fraction=readings.get(dead),
            attention_entropy=_number(readings.get(entropy)),
            gradient_norm=_length([readings[slot] for slot in norms]),
            time_profile=tuple(readings[slot] for slot in times),
            time_steps=event.passage.length if event.passage else 0,
            dependence=_largest(readings[slot] for slot in linked),
            gradient_underflow=readings.get(underflow),
        )

    return read


def _number(value: float | None) -> float | None:
    """The value; None for NaN, where no row had a choice."""
    return None if value is None or math.isnan(value) else value


def _length(norms: list[float]) -> float | None:
    """Norm of the concatenation of vectors with these norms; None without any."""
    return math.hypot(*norms) if norms else None


def _largest(values: Iterable[float]) -> float | None:
    """The largest of the finite values; None without any."""
    return max(filter(math.isfinite, values), default=None)


def floating_tensors(output: Any) -> Iterator[Tensor]:
    """Floating-point tensors in whatever a module returns, the main one first."""
    if isinstance(output, Tensor):
        if output.is_floating_point() or output.is_complex():
            yield output
        return
    found = parts(output)
    for value in _held(output) if found is None else found:
        yield from floating_tensors(value)


def _held(output: Any) -> list[Tensor]:
    """Of an output class of one's own, one level deep."""
    known = hasattr(output, "__dict__") and not isinstance(output, (type, nn.Module))
    return [each for each in vars(output).values() if isinstance(each, Tensor)] if known else []
