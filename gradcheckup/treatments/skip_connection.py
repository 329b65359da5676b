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

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

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
    in_forward: dict[str, list[str]] = {}
    for first, behind, layers in stretches:
        keys = _in_sequence(model, first.name, behind.name)
        bypassed += [layer.name for layer in layers]
        if keys:
            blocks[first.name] = keys
        else:
            owner, line = _line(model, layers)
            in_forward.setdefault(owner, []).append(line)
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
    for owner, lines in in_forward.items():
        snippet += [f"# {owner}, add what these are given to what comes out:", *lines]
    change = Change("skip connections around", tuple(bypassed))
    return Effect(changes=(change,), snippet="\n".join(snippet))


def _in_sequence(model: nn.Module, first: str, behind: str) -> list[str]:
    """Keys of the modules from one layer up to another, where one Sequential runs both."""
    (parent, _, start), (other, _, end) = first.rpartition("."), behind.rpartition(".")
    holder = model.get_submodule(parent)
    if type(holder) is not nn.Sequential or not first:
        return []
    keys = list(holder._modules)  # noqa: SLF001 - named_children leaves repeated modules out
    if parent == other:
        found = keys[keys.index(start) : keys.index(end)]
    elif parent and _is_run_next(model, parent, behind):
        found = keys[keys.index(start) :]
    else:
        return []
    once = len({id(holder._modules[key]) for key in keys}) == len(keys)  # noqa: SLF001 - as above
    return found if once else []


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


def _siblings(name: str, keys: list[str]) -> Iterator[str]:
    parent = name.rpartition(".")[0]
    yield from (f"{parent}.{key}" if parent else key for key in keys)


def _line(model: nn.Module, layers: list[WeightLayer]) -> tuple[str, str]:
    """Where the layers are called, and `x = x + sigmoid(self.layer2(x))` as a comment."""
    owner = _caller(model, [layer.name for layer in layers])
    inner = "x"
    for layer in layers:
        inner = f"{_seen_from(model, owner, layer)}({inner})"
        for kind in layer.activations:
            inner = f"{kind}({inner})"
    return _forward_of(model, owner), f"#   x = x + {inner}"


def _caller(model: nn.Module, names: list[str]) -> str:
    """Name of the module inside which all these are, and which has a forward of its own."""
    owner = names[0].rpartition(".")[0]
    while owner and (
        isinstance(model.get_submodule(owner), _CONTAINERS)
        or not all(name.startswith(f"{owner}.") for name in names)
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


def _dense(patient: Patient, chains: list[list[WeightLayer]], block: int) -> Effect:
    """Each layer of a block is given the inputs of all earlier ones of the block as well."""
    model = patient.model
    widened: list[str] = []
    lines: dict[str, list[str]] = {}
    for chain in chains:
        for start in range(0, len(chain) - 1, block):
            layers = [layer for layer in chain[start : start + block + 1] if _wide(model, layer)]
            memories: list[tuple[WeightLayer, Memory]] = []
            for earlier, layer in pairwise(layers):
                memory = Memory(takers=0)
                model.get_submodule(earlier.name).register_forward_pre_hook(
                    Remember(memory), prepend=True
                )
                memories.append((earlier, memory))
                fitting = [held for held in memories if _beside(model, held[0], layer)]
                if not fitting:
                    continue
                owner, line = _dense_line(model, layer, [held for held, _ in fitting])
                lines.setdefault(owner, []).append(line)
                _widen(model, layer, fitting)
                widened.append(layer.name)
    if not widened:
        raise TreatmentError("no two layers in a row are given feature maps of the same size")
    change = Change("inputs of earlier layers beside the own one in", tuple(widened))
    snippet = [
        line
        for owner, calls in lines.items()
        for line in (
            f"# {owner}, where x0, x1 ... are the inputs of earlier layers:",
            *calls,
        )
    ]
    return Effect(changes=(change,), snippet="\n".join(snippet))


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
    memories = [memory for _, memory in earlier]
    for memory in memories:
        memory.takers += 1
    module.register_forward_pre_hook(Concatenate(memories, dim))


def _dense_line(
    model: nn.Module, layer: WeightLayer, earlier: list[WeightLayer]
) -> tuple[str, str]:
    owner = _caller(model, [each.name for each in (*earlier, layer)])
    name = _seen_from(model, owner, layer)
    dim = _dim(model, layer)
    total = layer.given[dim] + sum(each.given[dim] for each in earlier)
    given = ", ".join(f"x{index}" for index in range(len(earlier)))
    line = f"#   {name}(torch.cat([x, {given}], {dim}))   # and make it with {total} inputs"
    return _forward_of(model, owner), line


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
