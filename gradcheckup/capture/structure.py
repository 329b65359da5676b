"""What the autograd graph says about the layers: who stands at the loss, who cannot be bypassed.

The graph is walked once, from the loss, before the backward pass frees it. Nothing is read from
the nodes but their names and their edges, and of the leaves their tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradcheckup.records import Role

Node = Any
"""A node of the autograd graph (a `grad_fn`)."""

# Paths are counted modulo a prime: residual nets have 2^blocks of them.
_PRIME = 2**61 - 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where one layer stands: see the fields of the same names in `LayerRecord`.

    Attributes:
        reached: Whether the graph leads from the loss to the layer.
        recurrent: Whether the layer is called several times, the last call behind the first: a
            cell in a loop over time.
    """

    reached: bool = False
    output: bool = False
    bottleneck: bool | None = None
    gate: bool = False
    recurrent: bool = False


def leaves(loss: Tensor) -> list[Tensor]:
    """The tensors whose `.grad` a backward pass from the loss adds to."""
    if loss.grad_fn is None:
        return [loss] if loss.requires_grad else []
    nodes = _topological(loss.grad_fn)
    return [node.variable for node in nodes if node.name().endswith("AccumulateGrad")]


@dataclass(frozen=True, slots=True)
class _Sum:
    """Stands where a backward pass starts from several tensors, as if they had been added."""

    next_functions: tuple[tuple[Node, int], ...]

    def name(self) -> str:
        return "several losses"


def locate(
    loss: Sequence[Tensor], layers: Sequence[tuple[str, Role, Sequence[Node]]]
) -> list[Place]:
    """Finds the place of each layer in the graph of a loss.

    Args:
        loss: What the backward pass starts from, as a rule one scalar, not yet differentiated.
        layers: Name, role and output nodes of each layer, in execution order. A layer without nodes
            (under `no_grad`, inside a reentrant checkpoint) has no place.

    Returns:
        One place a layer, in the same order.
    """
    roots = [each.grad_fn for each in loss if each.grad_fn is not None]
    if not roots:
        return [Place() for _ in layers]
    root = roots[0] if len(roots) == 1 else _Sum(tuple((each, 0) for each in roots))
    order = _topological(root)
    position = {id(node): index for index, node in enumerate(order)}
    found = [[position[id(node)] for node in nodes if id(node) in position] for *_, nodes in layers]
    children = [
        [position[id(child)] for child, _ in node.next_functions if child is not None]
        for node in order
    ]
    names, roles = [name for name, *_ in layers], [role for _, role, _ in layers]
    outputs = _nearest_to_loss(children, roles, found)
    bottlenecks = _bottlenecks(children, roles, found)
    gates = _gates(order, children, roles, found)
    recurrent = _recurrent(children, names, roles, found)
    return [
        Place(
            reached=bool(positions),
            output=index in outputs,
            bottleneck=None if bottlenecks is None or not positions else index in bottlenecks,
            gate=index in gates,
            recurrent=names[index] in recurrent,
        )
        for index, positions in enumerate(found)
    ]


def predecessors(layers: Sequence[tuple[str, Role, Sequence[Node]]]) -> list[tuple[int, ...]]:
    """For each layer the layers whose outputs it is computed from, with no other layer between.

    Args:
        layers: Name, role and output nodes of each layer, in execution order.

    Returns:
        Positions of layers, one tuple a layer. Empty for what depends on the inputs alone;
        containers have no predecessors and are none.
    """
    owners = {
        id(node): index
        for index, (_, role, nodes) in enumerate(layers)
        if role is not Role.CONTAINER
        for node in nodes
    }
    return [
        tuple(sorted(_owners_below(nodes, index, owners))) if role is not Role.CONTAINER else ()
        for index, (_, role, nodes) in enumerate(layers)
    ]


def _owners_below(nodes: Sequence[Node], layer: int, owners: dict[int, int]) -> set[int]:
    """The nearest layers other than this one, on all ways from its nodes to the inputs."""
    found: set[int] = set()
    seen = {id(node): node for node in nodes}
    stack = list(nodes)
    while stack:
        for child, _ in stack.pop().next_functions:
            if child is None or id(child) in seen:
                continue
            seen[id(child)] = child
            owner = owners.get(id(child), layer)
            if owner == layer:
                stack.append(child)
            else:
                found.add(owner)
    return found


def _topological(root: Node) -> list[Node]:
    """All nodes, each before those it leads to; holding them keeps their ids theirs."""
    finished: list[Node] = []
    seen = {id(root)}
    stack = [(root, iter(root.next_functions))]
    while stack:
        node, edges = stack[-1]
        for child, _ in edges:
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                stack.append((child, iter(child.next_functions)))
                break
        else:
            stack.pop()
            finished.append(node)
    finished.reverse()
    return finished


def _owners(roles: Sequence[Role], found: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """From graph positions to the layers whose output they are; containers only repeat others."""
    owners: dict[int, list[int]] = {}
    for layer, positions in enumerate(found):
        if roles[layer] is not Role.CONTAINER:
            for position in positions:
                owners.setdefault(position, []).append(layer)
    return owners


def _nearest_to_loss(
    children: Sequence[Sequence[int]], roles: Sequence[Role], found: Sequence[Sequence[int]]
) -> set[int]:
    """Layers that the loss reaches through no weight layer."""
    owners = _owners(roles, found)
    outputs: set[int] = set()
    seen = {0}
    stack = [0]
    while stack:
        position = stack.pop()
        here = owners.get(position, [])
        outputs.update(here)
        if any(roles[layer] is Role.WEIGHT for layer in here):
            continue
        fresh = [child for child in children[position] if child not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return outputs


def _bottlenecks(
    children: Sequence[Sequence[int]], roles: Sequence[Role], found: Sequence[Sequence[int]]
) -> set[int] | None:
    """Layers that every path from the loss to the first weight layer passes through.

    A node lies on all of them when (paths from the loss to it) x (paths from it to the first
    layer) is the number of all paths.
    """
    first = next(
        (
            positions[0]
            for role, positions in zip(roles, found, strict=True)
            if role is Role.WEIGHT and positions
        ),
        None,
    )
    if first is None:
        return None
    from_loss = [0] * len(children)
    from_loss[0] = 1
    for position, below in enumerate(children):
        for child in below:
            from_loss[child] = (from_loss[child] + from_loss[position]) % _PRIME
    to_first = [0] * len(children)
    to_first[first] = 1
    for position in range(first - 1, -1, -1):
        to_first[position] = sum(to_first[child] for child in children[position]) % _PRIME
    total = from_loss[first]

    def on_all(positions: set[int]) -> bool:
        if len(positions) == 1:
            (only,) = positions
            return from_loss[only] * to_first[only] % _PRIME == total
        return not _leads_around(children, first, positions)

    return {layer for layer, positions in enumerate(found) if positions and on_all(set(positions))}


def _leads_around(children: Sequence[Sequence[int]], first: int, avoided: set[int]) -> bool:
    """Whether a path from the loss to the first layer avoids some nodes."""
    reached = [False] * len(children)
    reached[0] = 0 not in avoided
    for position, below in enumerate(children[: first + 1]):
        if reached[position]:
            for child in below:
                reached[child] = child not in avoided
    return reached[first]


def _recurrent(
    children: Sequence[Sequence[int]],
    names: Sequence[str],
    roles: Sequence[Role],
    found: Sequence[Sequence[int]],
) -> set[str]:
    """Weight layers whose last call depends on their first one."""
    calls: dict[str, list[Sequence[int]]] = {}
    for name, role, positions in zip(names, roles, found, strict=True):
        if role is Role.WEIGHT and positions:
            calls.setdefault(name, []).append(positions)
    return {
        name
        for name, each in calls.items()
        if len(each) > 1 and _leads_to(children, start=each[-1], end=each[0])
    }


def _leads_to(children: Sequence[Sequence[int]], start: Sequence[int], end: Sequence[int]) -> bool:
    """Whether a path from some nodes, away from the loss, leads to some others."""
    reached = set(start)
    for position in range(min(start), max(end)):
        if position in reached:
            reached.update(children[position])
    return not reached.isdisjoint(end)


def _gates(
    order: Sequence[Node],
    children: Sequence[Sequence[int]],
    roles: Sequence[Role],
    found: Sequence[Sequence[int]],
) -> set[int]:
    """Activations whose output is only ever multiplied with another part of the graph."""
    parents: dict[int, list[int]] = {}
    for position, below in enumerate(children):
        for child in below:
            parents.setdefault(child, []).append(position)

    def multiplies(position: int) -> bool:
        node = order[position]
        if node.name().startswith(
            ("View", "Expand", "Unsqueeze", "Reshape", "UnsafeView", "Slice")
        ):
            return feeds_products(position)
        # A product with a constant (dropout, a scale) has one edge that leads nowhere.
        return bool(node.name().startswith("MulBackward")) and len(children[position]) == 2

    def feeds_products(position: int) -> bool:
        above = parents.get(position, [])
        return bool(above) and all(multiplies(each) for each in above)

    return {
        layer
        for layer, positions in enumerate(found)
        if roles[layer] is Role.ACTIVATION and positions and all(map(feeds_products, positions))
    }
