"""What ran in one step: the calls of layers, in execution order, over all its forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from gradcheckup.capture.readings import Event, Measured, Readings, Tray, put
from gradcheckup.capture.response import Output
from gradcheckup.capture.structure import Place, locate
from gradcheckup.records import Role

_MOST = 8


class Passes:
    """Calls of layers, and where they stand in the graph of the loss once there is one."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._calls: dict[str, int] = {}
        self._places: list[Place] = []
        self._number = 0

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def begin(self) -> None:
        """Forgets the step before, if any."""
        self._events.clear()
        self._calls.clear()
        self._places.clear()
        self._number = 0

    def again(self, *, keep: bool) -> None:
        """Another forward pass of the step begins.

        Args:
            keep: Whether the ones before may lead to the same loss. What is kept holds their graph,
                so that of many passes the last ones are.
        """
        self._number += 1
        if not keep:
            self._events.clear()
            self._calls.clear()
        elif self._number > _MOST:
            last = self._number - _MOST
            self._events = [event for event in self._events if event.passed >= last]

    def add(self, event: Event) -> None:
        """A layer was called: gives the call its number."""
        event.call, event.passed = self._calls.get(event.name, 0), self._number
        self._calls[event.name] = event.call + 1
        self._events.append(event)

    def again_called(self, name: str) -> Event | None:
        """The call that a checkpoint makes again in the backward pass; None if it is complete.

        The first run under no_grad left an event without a gradient hook. Stretches come back last
        first, and the layers inside one in their order.
        """
        same = [event for event in self.awaited() if event.name == name]
        return min(same, key=lambda event: (-event.stretch, event.call), default=None)

    def awaited(self) -> list[Event]:
        """Layers that ran under no_grad so far; a recomputation may show their gradient."""
        return [event for event in self._events if not event.hooked]

    def nearest(self) -> Event | None:
        """The last layer that ran and is neither an activation nor a container."""
        aside = {Role.ACTIVATION, Role.CONTAINER}
        return next((event for event in reversed(self._events) if event.role not in aside), None)

    def settle(self, loss: Sequence[Tensor]) -> bool:
        """Ends the forward passes: finds the place of each layer in the graph of the loss.

        Passes that it has nothing to do with, as an evaluation before, are dropped.

        Returns:
            Whether it has anything to do with the layers that ran.
        """
        self._places = locate(
            loss, [(event.name, event.role, event.nodes) for event in self._events]
        )
        if not (any(place.reached for place in self._places) or self.awaited()):
            return False
        self._keep_reached()
        for event, place in zip(self._events, self._places, strict=True):
            event.nodes.clear()
            if not place.output:
                event.value = None
        return True

    def _keep_reached(self) -> None:
        pairs = list(zip(self._events, self._places, strict=True))
        reached = {event.passed for event, place in pairs if place.reached or not event.hooked}
        if len({event.passed for event in self._events}) == len(reached):
            return
        pairs = [(event, place) for event, place in pairs if event.passed in reached]
        self._events = [event for event, _ in pairs]
        self._places = [place for _, place in pairs]
        calls: dict[str, int] = {}
        for event in self._events:
            event.call = calls.get(event.name, 0)
            calls[event.name] = event.call + 1

    def arrived(self) -> bool:
        """Whether a gradient came."""
        return any(event.gradients for event in self._events)

    def put(self, tray: Tray) -> Callable[[Readings], list[Measured]]:
        """Puts the step on a tray; returns what makes numbers of it once the tray was carried."""
        places = self._places or [Place()] * len(self._events)
        reads = [put(*each, tray) for each in zip(self._events, places, strict=True)]
        return lambda readings: [read(readings) for read in reads]

    def outputs(self) -> list[Output]:
        """The output layers with their gradient, where their values were kept."""
        return [
            Output((event.name, event.call), event.value, event.gradient)
            for event in self._events
            if event.value is not None and event.gradient is not None
        ]
