"""Which layer feeds which: one forward pass, read from the autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from gradcheckup.capture.hooks import Capture
from gradcheckup.capture.structure import Place, locate, predecessors
from gradcheckup.records import Role

_ANY_SLOPE = 0.1
"""Saturation is not read here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """One call of one layer in a forward pass.

    Attributes:
        name: As `LayerRecord.name`; so are `call`, `kind`, `role`, `functional` and `shape`.
        given: Shape of its first input; empty where it is no module.
        place: Where it stands on the way to the loss.
        before: Positions of the stations that its input is computed from, with none between.
    """

    name: str
    call: int
    kind: str
    role: Role
    functional: bool
    given: tuple[int, ...]
    shape: tuple[int, ...]
    place: Place
    before: tuple[int, ...]


def wiring(
    model: nn.Module, names: dict[str, nn.Module], loss: Callable[[], Tensor]
) -> Sequence[Station]:
    """The layers that a forward pass runs through, in execution order.

    Args:
        model: Its parameters are expected to require grad: the graph ends where none does.
        names: Its modules by the name they are known under.
        loss: Runs the model and reduces its outputs to a scalar.
    """
    capture = Capture(model, names, slope=_ANY_SLOPE, own=())
    with capture.step():
        result = loss()
        events = capture.events
        layers = [(event.name, event.role, event.nodes) for event in events]
        found = zip(events, locate([result], layers), predecessors(layers), strict=True)
        return [
            Station(
                name=event.name,
                call=event.call,
                kind=event.kind,
                role=event.role,
                functional=event.functional,
                given=event.given,
                shape=event.shape,
                place=place,
                before=before,
            )
            for event, place, before in found
        ]
