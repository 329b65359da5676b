"""Exchange squashing activations, or units that die, with weights that fit the new ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

from torch import nn

from gradcheckup.capture import class_name
from gradcheckup.errors import TreatmentError
from gradcheckup.treatments.editing.anatomy import ActivationSite, Anatomy, examine
from gradcheckup.treatments.editing.functional import Swap, is_traceable, swap_functions
from gradcheckup.treatments.editing.surgery import assignments, replace_module
from gradcheckup.treatments.treatment import Change, Effect, Patient, Treatment
from gradcheckup.treatments.weights import recurrence
from gradcheckup.treatments.weights.initialization import code, critical

_MODULES: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "selu": nn.SELU,
}


def _apply(patient: Patient, variant: str, _: Mapping[str, float]) -> Effect:
    model, anatomy = patient.model, patient.anatomy
    shared = _shared_with_others(anatomy)
    sites = _exchangeable(anatomy, variant, shared)
    cells = [
        layer.name
        for layer in anatomy.layers
        if isinstance(model.get_submodule(layer.name), (nn.RNN, nn.RNNCell))
    ]
    if variant != "relu" or any(recurrence.is_relu(model.get_submodule(name)) for name in cells):
        cells = []  # torch's own recurrent layers have tanh and ReLU alone
    if not sites and not cells:
        raise TreatmentError(_why_not(model, anatomy, variant))
    swaps = _swaps(anatomy, sites, variant)
    _check_order(patient, swaps)
    kinds = ", ".join(dict.fromkeys(site.kind for site in sites)) or "tanh"
    modules = list(dict.fromkeys(site.owner for site in sites if not site.functional))
    replacement = _MODULES[variant].__name__
    snippets = [assignments(model, dict.fromkeys(modules, f"nn.{replacement}()"))]
    snippets += _advice(model, sites, variant, swaps)
    for name in modules:
        replace_module(model, name, _MODULES[variant]())
    traceable = not swaps or is_traceable(patient.run)
    for owner, of_owner in swaps.items():
        swap_functions(model.get_submodule(owner), of_owner, traceable=traceable)
    for name in cells:
        _to_relu(model.get_submodule(name))
        snippets.append(f'# make {name} with nonlinearity="relu"')
    after = examine(model, patient.loss)
    left = _exchangeable(after, variant, shared)
    if left:
        raise TreatmentError(
            f"{left[0].kind} is called where it cannot be exchanged: in a method other than "
            "forward, in a forward that was set on the object, or from a list of modules of its own"
        )
    drawn = critical(model, after, patient.run)
    for name in cells:
        layer = after.by_name[name]
        factors = recurrence.initialize(model.get_submodule(name), layer, patient.run)
        snippets.append(recurrence.code(model, layer, factors))
    snippets += [code(model, drawn)] if drawn else []
    changes = [
        Change(f"{variant} in place of {kinds} behind", _in_front(anatomy, sites) or tuple(cells))
    ]
    if drawn:
        changes.append(Change("weights to match in", tuple(each.name for each in drawn)))
    return Effect(changes=tuple(changes), snippet="\n".join(filter(None, snippets)))


def _exchangeable(anatomy: Anatomy, variant: str, shared: set[str]) -> list[ActivationSite]:
    """Calls of other hidden activations than the new one, but for modules that serve gates too."""
    return [
        site
        for site in anatomy.activations
        if site.hidden and site.kind != variant and (site.functional or site.owner not in shared)
    ]


def _shared_with_others(anatomy: Anatomy) -> set[str]:
    """Modules that are called at a gate or at the loss as well: one `self.act` for all."""
    return {site.owner for site in anatomy.activations if not site.functional and not site.hidden}


def _why_not(model: nn.Module, anatomy: Anatomy, variant: str) -> str:
    hidden = [site.kind for site in anatomy.activations if site.hidden]
    if hidden and set(hidden) == {variant}:
        return f"every hidden activation is {variant} already"
    if anatomy.activations and not hidden:
        return "its activations are gates or stand at the loss, and have to stay"
    if hidden:
        return "one activation module serves hidden layers and gates alike"
    inside = [each.kind for each in anatomy.layers if recurrence.is_recurrent(model, each)]
    if inside:
        return f"torch's own {', '.join(dict.fromkeys(inside))} has its activations built in"
    return "there is no activation between two weight layers"


def _swaps(
    anatomy: Anatomy, sites: list[ActivationSite], variant: str
) -> dict[str, dict[str, Swap]]:
    """By module whose forward calls functions, what to call instead."""
    found: dict[str, dict[str, Swap]] = {}
    for owner, kind in dict.fromkeys((site.owner, site.kind) for site in sites if site.functional):
        seen = [
            site
            for site in anatomy.activations
            if site.kind == kind
            and (site.owner == owner or _inside(site.owner, owner))
            # What others exchange is not of this kind any more.
            and not (site in sites and site.owner != owner)
        ]
        kept = frozenset(index for index, site in enumerate(seen) if site not in sites)
        found.setdefault(owner, {})[kind] = Swap(variant, kept)
    return found


def _check_order(patient: Patient, swaps: dict[str, dict[str, Swap]]) -> None:
    """Refuses calls of which some have to stay, where these are not the same ones in each pass."""
    mixed = {
        (owner, kind)
        for owner, of_owner in swaps.items()
        for kind, swap in of_owner.items()
        if swap.kept
    }
    if not mixed:
        return
    owner, kind = min(mixed)
    repeated = [layer for layer in patient.anatomy.layers if layer.calls > 1]
    if any(_inside(layer.name, owner) for layer in repeated):
        raise TreatmentError(
            f"{kind} is called between layers and elsewhere, in a loop: which call is which "
            "depends on the number of steps"
        )
    if not patient.model.training:
        return
    in_eval = examine(copy.deepcopy(patient.model).eval(), patient.loss).activations
    if in_eval != patient.anatomy.activations:
        raise TreatmentError(
            f"{kind} is called between layers and elsewhere, and other calls are made in eval mode "
            "than in training: which is which cannot be told"
        )


def _inside(name: str, owner: str) -> bool:
    return not owner or name.startswith(f"{owner}.")


def _advice(
    model: nn.Module,
    sites: list[ActivationSite],
    variant: str,
    swaps: Mapping[str, Mapping[str, Swap]],
) -> Iterator[str]:
    """What to change in the source where functions are called."""
    functions = [site for site in sites if site.functional]
    places = (
        (class_name(model.get_submodule(site.owner)), site.kind, _some_stay(swaps, site))
        for site in functions
    )
    for where, kind, some_stay in dict.fromkeys(places):
        between = " between layers; gates and what stands at the loss stay" if some_stay else ""
        yield f"# in {where}.forward: F.{variant}(...) in place of {kind}{between}"


def _some_stay(swaps: Mapping[str, Mapping[str, Swap]], site: ActivationSite) -> bool:
    swap = swaps.get(site.owner, {}).get(site.kind)
    return swap is not None and bool(swap.kept)


def _in_front(anatomy: Anatomy, sites: list[ActivationSite]) -> tuple[str, ...]:
    """The layers whose outputs go through exchanged activations."""
    kinds = {site.kind for site in sites}
    return tuple(
        layer.name
        for layer in anatomy.layers
        if not layer.output and kinds & set(layer.activations)
    )


def _to_relu(module: nn.Module) -> None:
    module.nonlinearity = "relu"  # type: ignore[assignment]
    if isinstance(module, nn.RNN):
        module.mode = "RNN_RELU"


TREATMENT = Treatment(
    key="activation",
    summary="Exchanges hidden activations, with initial weights that fit the new ones.",
    source="Nair & Hinton 2010; Maas et al. 2013; Hendrycks & Gimpel 2016; Klambauer et al. 2017",
    variants={
        "relu": "ReLU with He weights",
        "leaky_relu": "Leaky ReLU with He weights, under which no unit dies",
        "gelu": "GELU",
        "selu": "SELU with LeCun weights",
    },
    limits=(
        "Gates, attention and the output keep their activations, and so do the cells of LSTM and "
        "GRU; an nn.RNN can become one of ReLU with identity weights. Functions in a forward are "
        "exchanged by a subclass of the model's class, made on the fly: the model trains, saves, "
        "copies and compiles, and can be scripted once the snippet is in your own code. Refused "
        "where gates and hidden activations are functions of one kind in a loop over time."
    ),
    acts_on="flow",
    apply=_apply,
)
