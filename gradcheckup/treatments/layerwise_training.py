"""Train a deep net as a shallow one that grows."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from gradcheckup.capture.tap import origins
from gradcheckup.errors import TreatmentError
from gradcheckup.probe.subject import default_optimizer
from gradcheckup.treatments.editing.anatomy import Anatomy, WeightLayer
from gradcheckup.treatments.mechanisms.heads import auxiliary_head
from gradcheckup.treatments.mechanisms.stages import Growing, Stage, Stages
from gradcheckup.treatments.treatment import Change, Effect, Patient, Treatment


def _apply(patient: Patient, _: str, options: Mapping[str, float]) -> Effect:
    width = int(options["layers_per_stage"])
    output = _output(patient.anatomy)
    groups = _groups(patient.anatomy, width)
    stages = _stages(patient, output, groups)
    names = [", ".join(layer.name for layer in group) for group in groups[:-1]]
    return Effect(
        changes=(
            *(
                Change(f"stage {index} trains, with a readout,", tuple(name.split(", ")))
                for index, name in enumerate(names)
            ),
            Change(f"stage {len(names)} trains everything"),
        ),
        snippet=_SNIPPET.format(width=width, names="; ".join([*names, "everything"])),
        stages=stages,
    )


def _output(anatomy: Anatomy) -> WeightLayer:
    """The output layer of a net that can be cut."""
    if len(anatomy.hidden) < _FEWEST:
        raise TreatmentError(
            f"expected at least {_FEWEST} hidden layers to train one after the other, got "
            f"{len(anatomy.hidden)}"
        )
    repeated = [layer.name for layer in anatomy.layers if layer.calls > 1]
    if repeated:
        raise TreatmentError(
            f"expected layers that are called once each, but {repeated[0]} is called "
            f"{anatomy.by_name[repeated[0]].calls} times: there is no order to train them in"
        )
    outputs = [layer for layer in anatomy.layers if layer.output]
    if len(outputs) != 1 or anatomy.layers[-1] is not outputs[0]:
        raise TreatmentError(
            "expected one output layer behind all others, got "
            + (", ".join(layer.name for layer in outputs) or "none")
        )
    return outputs[0]


def _groups(anatomy: Anatomy, width: int) -> list[list[WeightLayer]]:
    """The hidden layers, in stretches that all that follows is computed from."""
    groups: list[list[WeightLayer]] = [[]]
    behind: dict[str, set[str]] = {}
    passed: set[str] = set()
    for layer in anatomy.layers:
        behind[layer.name] = set(layer.sources).union(
            *(behind.get(source, set()) for source in layer.sources)
        )
        # A layer beside which another one leads to the loss has not all of the net before it.
        whole = bool(layer.given) and passed <= behind[layer.name]
        if len(groups[-1]) >= width and whole and not layer.output:
            groups.append([])
        passed.add(layer.name)
        if layer in anatomy.hidden:
            groups[-1].append(layer)
    if len(groups) < 2:
        count = len(anatomy.hidden)
        raise TreatmentError(
            f"there is no place behind {width} of the {count} hidden layers at which everything "
            "before it could be trained without what follows"
        )
    return groups


def _stages(patient: Patient, output: WeightLayer, groups: list[list[WeightLayer]]) -> Stages:
    model = patient.model
    trainable = [each for each in model.parameters() if each.requires_grad]
    twin = copy.deepcopy(model)
    originals = dict(zip(map(id, twin.parameters()), model.parameters(), strict=True))
    for each in twin.parameters():
        each.requires_grad_(each.is_floating_point())
    readers = [group[0] for group in groups[1:]]
    found, behind = origins(
        {layer.name: twin.get_submodule(layer.name) for layer in readers},
        twin.get_submodule(output.name),
        lambda: patient.loss(twin),
    )
    tail = {id(originals[id(leaf)]) for leaf in behind if id(leaf) in originals}
    of_output = set(map(id, model.get_submodule(output.name).parameters()))
    net = Growing(
        model=model,
        output=output.name,
        optimizer=patient.optimizer or default_optimizer(model),
        trainable=tuple(trainable),
    )
    stages: list[Stage] = []
    seen: set[int] = set()
    for index, (group, reader) in enumerate(zip(groups, readers, strict=False)):
        reached = {id(originals[id(leaf)]) for leaf in found[reader.name] if id(leaf) in originals}
        head = _head(reader, output)
        read_by = tail if head is None else tail - of_output
        chosen = (reached - seen) | read_by
        seen |= reached
        names = tuple(layer.name for layer in group)
        stages.append(
            Stage(
                net,
                index,
                trains=names if head else (*names, output.name),
                trained=[each for each in trainable if id(each) in chosen],
                first_out=reader.name,
                head=head,
            )
        )
    everything = tuple(layer.name for layer in patient.anatomy.layers)
    last = Stage(net, len(stages), trains=everything, trained=trainable, first_out=None)
    return Stages([*stages, last])


def _head(reader: WeightLayer, output: WeightLayer) -> nn.Module | None:
    """What reads the features of a stage in place of the output layer; None where that can."""
    if reader.given == output.given:
        return None
    head = auxiliary_head(reader, output)
    if head is None:
        raise TreatmentError(
            f"what {reader.name} is given, of shape {reader.given}, cannot be read out in the "
            f"shape {output.shape} of {output.name}"
        )
    return head


_FEWEST = 3

_SNIPPET = """treated = gradcheckup.treat(
    model, "layerwise_training", data, criterion, optimizer=optimizer, layers_per_stage={width}
)
for stage in treated.plan.stages:  # {names}
    for inputs, targets in data:
        stage.optimizer.zero_grad()
        criterion(treated.model(inputs), targets).backward()
        stage.optimizer.step()"""

TREATMENT = Treatment(
    key="layerwise_training",
    summary="Trains the first layers with a readout, then the next ones on top of them.",
    source="Bengio et al. 2007; Belilovsky, Eickenberg & Oyallon 2019",
    variants={"greedy": "a few layers at a time, and everything at last"},
    options={"layers_per_stage": 2},
    limits=(
        "A plan, to be followed by a loop: `for stage in treated.plan.stages`. It wants layers "
        "that are called once each, and one output layer; the readouts of the early stages are "
        "dropped. Flow through the whole net at its start is what it was: what changes is that "
        "each layer has learnt something when the next one joins."
    ),
    acts_on="training",
    apply=_apply,
)
