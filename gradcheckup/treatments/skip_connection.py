"""Lead signal and gradient around layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from gradcheckup.errors import TreatmentError
from gradcheckup.treatments.anatomy import Anatomy, WeightLayer
from gradcheckup.treatments.shortcuts import Concatenate, Memory, Remember, Residual, add_around
from gradcheckup.treatments.surgery import reference, replace_module
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
        return _dense(patient, chains, int(options["block"]))
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
    return _residual(patient, stretches)


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


def _residual(
    patient: Patient, stretches: list[tuple[WeightLayer, WeightLayer, list[WeightLayer]]]
) -> Effect:
    model = patient.model
    blocks: dict[str, list[str]] = {}
    bypassed: list[str] = []
    in_forward: list[str] = []
    for first, behind, layers in stretches:
        keys = _in_sequence(model, first.name, behind.name)
        bypassed += [layer.name for layer in layers]
        if keys:
            blocks[first.name] = keys
        else:
            in_forward.append(_line(model, layers))
            add_around(model.get_submodule(first.name), model.get_submodule(behind.name))
    snippet = [_RESIDUAL] if blocks else []
    for name, keys in blocks.items():
        names = [*_siblings(name, keys)]
        home = [reference(model, each) for each in names]
        snippet.append(f"{home[0]} = Residual({', '.join(home)})")
        modules = [model.get_submodule(each) for each in names]
        if len(home) > 1:
            snippet.append(f"{' = '.join(home[1:])} = nn.Identity()")
        for each in names[1:]:
            replace_module(model, each, nn.Identity())
        replace_module(model, names[0], Residual(*modules))
    if in_forward:
        where = type(model).__name__
        snippet += [
            f"# in {where}.forward, add what these are given to what comes out:",
            *in_forward,
        ]
    change = Change("skip connections around", tuple(bypassed))
    return Effect(changes=(change,), snippet="\n".join(snippet))


def _in_sequence(model: nn.Module, first: str, behind: str) -> list[str]:
    """Keys of the modules from one layer up to another, where one Sequential runs both."""
    (parent, _, start), (other, _, end) = first.rpartition("."), behind.rpartition(".")
    holder = model.get_submodule(parent)
    if parent != other or type(holder) is not nn.Sequential:
        return []
    keys = list(holder._modules)  # noqa: SLF001 - named_children leaves repeated modules out
    found = keys[keys.index(start) : keys.index(end)]
    once = len({id(holder._modules[key]) for key in keys}) == len(keys)  # noqa: SLF001 - as above
    return found if once else []


def _siblings(name: str, keys: list[str]) -> Iterator[str]:
    parent = name.rpartition(".")[0]
    yield from (f"{parent}.{key}" if parent else key for key in keys)


def _line(model: nn.Module, layers: list[WeightLayer]) -> str:
    """`x = x + sigmoid(self.layer2(x))` as a comment."""
    inner = "x"
    for layer in layers:
        inner = f"{reference(model, layer.name).replace('model', 'self', 1)}({inner})"
        for kind in layer.activations:
            inner = f"{kind}({inner})"
    return f"#   x = x + {inner}"


def _dense(patient: Patient, chains: list[list[WeightLayer]], block: int) -> Effect:
    """Each layer of a block is given the inputs of all earlier ones of the block as well."""
    model = patient.model
    widened: list[str] = []
    lines: list[str] = []
    for chain in chains:
        for start in range(0, len(chain) - 1, block):
            layers = [layer for layer in chain[start : start + block + 1] if _wide(model, layer)]
            memories: list[tuple[WeightLayer, Memory]] = []
            for earlier, layer in pairwise(layers):
                memory = Memory()
                model.get_submodule(earlier.name).register_forward_pre_hook(
                    Remember(memory), prepend=True
                )
                memories.append((earlier, memory))
                fitting = [held for held in memories if _beside(model, held[0], layer)]
                if not fitting:
                    continue
                lines.append(_dense_line(model, layer, [held for held, _ in fitting]))
                _widen(model, layer, fitting)
                widened.append(layer.name)
    if not widened:
        raise TreatmentError("no two layers in a row are given feature maps of the same size")
    head = [
        f"# in {type(model).__name__}.forward, where x0, x1 ... are the inputs of earlier layers:"
    ]
    change = Change("inputs of earlier layers beside the own one in", tuple(widened))
    return Effect(changes=(change,), snippet="\n".join(head + lines))


def _wide(model: nn.Module, layer: WeightLayer) -> bool:
    module = model.get_submodule(layer.name)
    plain = isinstance(module, _ConvNd) and not module.transposed and module.groups == 1
    return isinstance(module, nn.Linear) or plain


def _dim(model: nn.Module, layer: WeightLayer) -> int:
    return 1 if isinstance(model.get_submodule(layer.name), _ConvNd) else -1


def _beside(model: nn.Module, earlier: WeightLayer, layer: WeightLayer) -> bool:
    """Whether two inputs differ in their number of features alone."""
    dim = _dim(model, layer)
    if dim != _dim(model, earlier) or len(earlier.given) != len(layer.given):
        return False
    shapes = [list(each.given) for each in (earlier, layer)]
    for shape in shapes:
        shape[dim] = 0
    return shapes[0] == shapes[1]


def _widen(model: nn.Module, layer: WeightLayer, earlier: list[tuple[WeightLayer, Memory]]) -> None:
    """Gives a layer more inputs, with weights of the size of those it has."""
    module = model.get_submodule(layer.name)
    dim = _dim(model, layer)
    extra = sum(held.given[dim] for held, _ in earlier)
    old: torch.Tensor = module.weight  # type: ignore[assignment]
    more = old.new_empty(old.shape[0], extra, *old.shape[2:])
    before = old.shape[1]
    with torch.no_grad():
        # Together they pass on what the old ones did alone.
        shrunk = math.sqrt(before / (before + extra))
        more.normal_(0, float(old.detach().double().std()) * shrunk)
        joined = torch.cat([old.detach() * shrunk, more], 1)
    module.weight = nn.Parameter(joined, requires_grad=old.requires_grad)
    if isinstance(module, nn.Linear):
        module.in_features += extra
    elif isinstance(module, _ConvNd):
        module.in_channels += extra
    module.register_forward_pre_hook(Concatenate([memory for _, memory in earlier], dim))


def _dense_line(model: nn.Module, layer: WeightLayer, earlier: list[WeightLayer]) -> str:
    name = reference(model, layer.name).replace("model", "self", 1)
    dim = _dim(model, layer)
    total = layer.given[dim] + sum(each.given[dim] for each in earlier)
    given = ", ".join(f"x{index}" for index in range(len(earlier)))
    return f"#   {name}(torch.cat([x, {given}], {dim}))   # and make it with {total} inputs"


def _why_not(anatomy: Anatomy) -> str:
    if any(layer.recurrent for layer in anatomy.layers):
        return "its layers form a loop over time, where the state is handed on already"
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
    acts_on="flow",
    apply=_apply,
)
