"""Lead signal and gradient around layers."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import replace

from torch import nn

from gradcheckup.errors import TreatmentError
from gradcheckup.treatments.dense import connect
from gradcheckup.treatments.editing import advice
from gradcheckup.treatments.editing.anatomy import Anatomy, WeightLayer
from gradcheckup.treatments.editing.running import called
from gradcheckup.treatments.editing.surgery import reference, replace_module
from gradcheckup.treatments.mechanisms.shortcuts import Residual, add_around
from gradcheckup.treatments.treatment import Change, Effect, Patient, Treatment

_RESIDUAL = """class Residual(nn.Sequential):
    def forward(self, x):
        result = x
        for module in self:
            result = module(result)
        return x + result

"""


def _apply(patient: Patient, variant: str, options: Mapping[str, float]) -> Effect:
    chains = [chain for chain in _chains(patient.anatomy) if len(chain) > 1]
    if not chains:
        raise TreatmentError(_why_not(patient.anatomy))
    if variant == "dense":
        return connect(patient.model, chains, int(options["block"]))
    span = int(options["span"])
    stretches = [each for chain in chains for each in _stretches(chain, span)]
    if not stretches:
        raise TreatmentError(
            f"no {span} layers in a row that are not bypassed already keep the shape of their "
            "input: give hidden layers the same width"
            if span > 1
            else "no layer that is not bypassed already keeps the shape of its input: "
            "give hidden layers the same width"
        )
    return _residual(patient.model, stretches, _called_sequences(patient))


def _chains(anatomy: Anatomy) -> Iterator[list[WeightLayer]]:
    """Layers of which each is computed from the one before alone, as long as they go."""
    chain: list[WeightLayer] = []
    for layer in anatomy.layers:
        single = layer.calls == 1 and bool(layer.given) and "embedding" not in layer.kind
        follows = chain and layer.sources == (chain[-1].name,)
        if chain and not (single and follows):
            yield chain
            chain = []
        if single:
            chain.append(layer)
    if chain:
        yield chain


def _stretches(
    chain: list[WeightLayer], span: int
) -> Iterator[tuple[WeightLayer, WeightLayer, list[WeightLayer]]]:
    """First layer, the layer behind the last, and the layers between, of what can be bypassed."""
    start = 0
    while start + span < len(chain):
        first, behind = chain[start], chain[start + span]
        if first.given == behind.given:
            yield first, behind, chain[start : start + span]
            start += span
        else:
            start += 1


def _called_sequences(patient: Patient) -> set[str]:
    """The Sequentials whose own forward runs; others are lists that a forward walks along."""
    names = called(patient.model, lambda twin: replace(patient, model=twin).run())
    return {name for name in names if type(patient.model.get_submodule(name)) is nn.Sequential}


def _residual(
    model: nn.Module,
    stretches: list[tuple[WeightLayer, WeightLayer, list[WeightLayer]]],
    sequences: Container[str],
) -> Effect:
    blocks: list[list[str]] = []
    in_forward: list[advice.Advice] = []
    for first, behind, layers in stretches:
        block = _in_sequence(model, first.name, behind.name)
        if block and first.name.rpartition(".")[0] in sequences:
            blocks.append(block)
        else:
            in_forward.append(advice.residual(model, layers))
            add_around(model.get_submodule(first.name), model.get_submodule(behind.name))
    snippet = [_RESIDUAL] if blocks else []
    for names in blocks:
        home = [reference(model, each) for each in names]
        snippet.append(f"{home[0]} = Residual({', '.join(home)})")
        modules = [model.get_submodule(each) for each in names]
        if len(home) > 1:
            snippet.append(f"{' = '.join(home[1:])} = nn.Identity()")
        for each in names[1:]:
            replace_module(model, each, nn.Identity())
        replace_module(model, names[0], Residual(*modules))
    snippet += advice.write(in_forward, "add what these are given to what comes out")
    bypassed = tuple(layer.name for _, _, layers in stretches for layer in layers)
    return Effect(
        changes=(Change("skip connections around", bypassed),), snippet="\n".join(snippet)
    )


def _in_sequence(model: nn.Module, first: str, behind: str) -> list[str]:
    """Names of the modules from one layer up to another, where one Sequential runs them all."""
    (parent, _, start), (other, _, end) = first.rpartition("."), behind.rpartition(".")
    holder = model.get_submodule(parent)
    if type(holder) is not nn.Sequential or not first:
        return []
    children = holder._modules  # noqa: SLF001 - named_children leaves repeated modules out
    if len(set(map(id, children.values()))) < len(children):
        return []
    keys = list(children)
    if parent == other:
        found = keys[keys.index(start) : keys.index(end)]
    elif parent and _is_run_next(model, parent, behind):
        found = keys[keys.index(start) :]
    else:
        return []
    return [f"{parent}.{key}".strip(".") for key in found]


def _is_run_next(model: nn.Module, name: str, layer: str) -> bool:
    """Whether plain Sequentials hand what a module returns to a layer, and to nothing else."""
    parent, _, key = name.rpartition(".")
    holder = model.get_submodule(parent)
    if not name or type(holder) is not nn.Sequential:
        return False
    keys = list(holder._modules)  # noqa: SLF001 - as above
    if key == keys[-1]:
        return _is_run_next(model, parent, layer)
    following = f"{parent}.{keys[keys.index(key) + 1]}".strip(".")
    while type(model.get_submodule(following)) is nn.Sequential and following != layer:
        following += "." + next(iter(model.get_submodule(following)._modules), "")  # noqa: SLF001
    return following == layer


def _why_not(anatomy: Anatomy) -> str:
    if any(layer.recurrent for layer in anatomy.layers):
        return "a layer is called again on what it made before, as in a loop over time"
    if any(layer.calls > 1 for layer in anatomy.layers):
        return "layers are called several times, as in an encoder of two inputs"
    if any(len(layer.sources) > 1 for layer in anatomy.layers):
        return "its layers are bypassed already"
    return "there are no two weight layers in a row"


TREATMENT = Treatment(
    key="skip_connection",
    summary="Leads signal and gradient around hidden layers.",
    source="He et al. 2016; Huang et al. 2017",
    variants={
        "residual": "x + f(x) around each stretch of `span` layers whose shapes fit",
        "dense": "each layer is given the inputs of earlier ones of its block as well",
    },
    options={"span": 1, "block": 8},
    only={"span": ("residual",), "block": ("dense",)},
    limits=(
        "Only around layers that keep the shape of what they are given, and that no path leads "
        "around already. Where the layers do not stand in one nn.Sequential the sum is made by "
        "hooks: the model trains, saves, copies and compiles, and can be scripted once the "
        "snippet is in your own code. Not from outside into a checkpoint, which would run its end "
        "again alone. dense widens no layer whose weights are frozen, tied or computed from "
        "others, and is made by hooks always."
    ),
    acts_on="flow",
    apply=_apply,
)
