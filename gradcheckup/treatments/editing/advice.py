"""What to change in a forward that treated models change by hooks, for the user's own code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from gradcheckup.treatments.editing.anatomy import WeightLayer
from gradcheckup.treatments.editing.surgery import reference

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, slots=True)
class Advice:
    """A line of code to write.

    Attributes:
        place: In which forward, as `in Net.forward`.
        line: The code.
    """

    place: str
    line: str


def write(advice: Iterable[Advice], heading: str) -> Iterator[str]:
    """Comments with all that is to be changed, place by place.

    Args:
        advice: In any order of places; each line is written once.
        heading: Follows the place, to say what the lines do.
    """
    by_place: dict[str, dict[str, None]] = {}
    for each in advice:
        by_place.setdefault(each.place, {})[each.line] = None
    for place, lines in by_place.items():
        yield f"# {place}, {heading}:"
        yield from (f"#   {line}" for line in lines)


def residual(model: nn.Module, layers: list[WeightLayer]) -> Advice:
    """``x = x + sigmoid(self.layer2(x))`` for layers that are called one after the other."""
    owner = _caller(model, layers)
    inner = "x"
    for layer in layers:
        inner = f"{_seen_from(model, owner, layer)}({inner})"
        if layer.normalised:
            inner = f"norm({inner})"
        for kind in layer.activations:
            inner = f"{kind}({inner})"
    return Advice(_forward_of(model, owner), f"x = x + {inner}")


def dense(model: nn.Module, layer: WeightLayer, earlier: list[WeightLayer], dim: int) -> Advice:
    """``self.layer3(torch.cat([x, x0, x1], -1))`` for a layer that is given more inputs."""
    owner = _caller(model, [*earlier, layer])
    total = layer.given[dim] + sum(each.given[dim] for each in earlier)
    given = ", ".join(f"x{index}" for index in range(len(earlier)))
    call = f"{_seen_from(model, owner, layer)}(torch.cat([x, {given}], {dim}))"
    return Advice(_forward_of(model, owner), f"{call}   # and make it with {total} inputs")


def _caller(model: nn.Module, layers: list[WeightLayer]) -> str:
    """Name of the module inside which all these are, and which has a forward of its own."""
    owner = layers[0].name.rpartition(".")[0]
    while owner and (
        isinstance(model.get_submodule(owner), _CONTAINERS)
        or not all(layer.name.startswith(f"{owner}.") for layer in layers)
    ):
        owner = owner.rpartition(".")[0]
    return owner


def _forward_of(model: nn.Module, owner: str) -> str:
    kind = type(model.get_submodule(owner))
    if kind is nn.Sequential:
        return "in a forward of your own in place of nn.Sequential"
    return f"in {kind.__name__}.forward"


def _seen_from(model: nn.Module, owner: str, layer: WeightLayer) -> str:
    inside = model.get_submodule(owner)
    name = layer.name.removeprefix(f"{owner}.") if owner else layer.name
    return reference(inside, name).replace("model", "self", 1)
