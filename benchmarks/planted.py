"""Nets that learn, with one fault planted at one known layer: is it found, and named, and placed?

The net is drawn like those of the other families, from settings that learn. A fault is written as
users make it. Most are labelled by training the net, like all cases; a few are facts of the code (a
cut graph, parameters the optimizer never got) that a lucky net survives, and count as sick anyway.
Faults take turns, so that every one of them is in any run of `len(FAULTS)` cases.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from benchmarks import tasks
from benchmarks.cases import OPTIMIZERS, Case, Culprit, Draw
from benchmarks.faults import FAULTS, Fault
from benchmarks.parts import Parts, holders, sound
from benchmarks.tasks import Task


def case(index: int) -> Case:
    """The case with this number."""
    draw = Draw("planted", index)
    names = list(FAULTS)
    name = draw("fault", names[index % len(names) :][:1])
    fault = FAULTS[name]
    kind = draw("net", fault.nets)
    depth = draw("depth", (2, 3, 4) if kind == "transformer" else (3, 4, 6))
    activation = draw("activation", fault.activations)
    drawn = int(draw("place", tuple(range(1, depth))))  # a layer before it must notice, too
    optimizer = draw("optimizer", ("sgd-0.01", "adam-0.001"))  # a rate of .1 is a fault of its own

    def whole() -> Parts:
        return sound(kind, depth, activation)

    place = {"first": 0, "last": len(holders(whole())) - 1}.get(fault.where, drawn)

    def build() -> nn.Module:
        parts = whole()
        fault.plant(parts, holders(parts)[place])
        return nn.Sequential(*parts)

    task = _task(kind)
    if fault.criterion:
        task = replace(task, criterion=fault.criterion)
    sample = build()
    owned = f"{holders(list(sample.children()))[place]}."
    indices = [k for k, (path, _) in enumerate(sample.named_parameters()) if path.startswith(owned)]
    return replace(
        draw.case(task, build),
        optimizer=optimizer,
        make_optimizer=fault.arrange(OPTIMIZERS[optimizer], indices),
        culprit=Culprit(codes=fault.codes, layers=_layers(sample, place, fault), fact=fault.fact),
    )


def _task(kind: str) -> Task:
    if kind == "recall":
        return tasks.recall(5)
    shape = {"mlp": (), "cnn": (1, 8, 8), "recurrent": (8, 8), "transformer": (8, 8)}[kind]
    return tasks.digits(*shape)


def _layers(model: nn.Module, place: int, fault: Fault) -> frozenset[str]:
    """Names under which a finding may place the fault: the layer, and what is next to it."""
    parts = list(model.children())
    holds = holders(parts)
    if fault.where == "nowhere":
        return frozenset()
    if fault.where == "blocks":
        first, last = holds[1], holds[-2]
    elif fault.around:
        first, last = holds[max(0, place - 1)], holds[min(place + 1, len(holds) - 1)]
    else:
        first = last = holds[place]
    return frozenset(
        name for k in range(first, last + 1) for name, _ in parts[k].named_modules(prefix=str(k))
    )
