"""Choose the size of the initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from gradcheckup.errors import TreatmentError
from gradcheckup.treatments.editing.anatomy import Anatomy, WeightLayer
from gradcheckup.treatments.treatment import Change, Effect, Patient, Treatment
from gradcheckup.treatments.weights import recurrence
from gradcheckup.treatments.weights.initialization import (
    Drawn,
    Mixing,
    code,
    critical,
    fans,
    is_drawn,
    mixing,
    unit_variance,
)


def _apply(patient: Patient, variant: str, options: Mapping[str, float]) -> Effect:
    model, anatomy = patient.model, patient.anatomy
    found = [(layer, mixing(model, layer)) for layer in anatomy.layers]
    layers = [(layer, module) for layer, module in found if module is not None]
    loops = [layer for layer in anatomy.layers if recurrence.is_recurrent(model, layer)]
    loops = [layer for layer in loops if recurrence.trained(model, layer)]
    if not loops:
        _check_hidden(anatomy, [layer for layer, _ in layers if not layer.output])
    changes = []
    lines = []
    if variant in _FORMULAS:
        drawn = [
            _draw(layer.name, module, variant, options)
            for layer, module in layers
            if not layer.output
        ]
    else:
        fill = critical if variant == "auto" else unit_variance
        drawn = fill(model, anatomy, patient.run)
    if drawn:
        changes.append(Change(_WORDS[variant], tuple(each.name for each in drawn)))
        lines.append(code(model, drawn))
    for layer in loops:
        factors = recurrence.initialize(model.get_submodule(layer.name), layer, patient.run)
        lines.append(recurrence.code(model, layer, factors))
    if loops:
        changes.append(Change("orthogonal recurrent weights in", tuple(x.name for x in loops)))
    return Effect(changes=tuple(changes), snippet="\n".join(lines))


def _check_hidden(anatomy: Anatomy, drawable: list[WeightLayer]) -> None:
    if not anatomy.hidden:
        raise TreatmentError("there is no hidden layer")
    if not drawable:
        raise TreatmentError(
            "expected hidden linear, convolutional or recurrent layers, got none whose weights "
            "are real numbers, not frozen, and parameters of the layer itself"
        )
    if all(layer.normalised for layer in drawable):
        raise TreatmentError("a norm follows every hidden layer, which undoes any scale of weights")


def _normal(_: Mixing, options: Mapping[str, float]) -> float:
    return options["std"]


def _xavier(module: Mixing, _: Mapping[str, float]) -> float:
    # Glorot & Bengio 2010: variance 2 / (fan_in + fan_out)
    return math.sqrt(2 / sum(fans(module)))


def _he(module: Mixing, _: Mapping[str, float]) -> float:
    return math.sqrt(2 / fans(module)[0])


_FORMULAS: Mapping[str, Callable[[Mixing, Mapping[str, float]], float]] = {
    "normal": _normal,
    "xavier": _xavier,
    "he": _he,
}

_WORDS = {
    "auto": "critical weights for the activation in front of",
    "normal": "normal weights in",
    "xavier": "Xavier weights in",
    "he": "He weights in",
    "lsuv": "weights for unit variance behind",
}


def _draw(name: str, module: Mixing, variant: str, options: Mapping[str, float]) -> Drawn:
    std = _FORMULAS[variant](module, options)
    with torch.no_grad():
        module.weight.normal_(0, std)
        if is_drawn(module.bias):
            module.bias.zero_()
    return Drawn(name, std)


TREATMENT = Treatment(
    key="weight_scale",
    summary="Draws initial weights of a size at which signal and gradient keep theirs.",
    source="Glorot & Bengio 2010; He et al. 2015; Mishkin & Matas 2016; Schoenholz et al. 2017; "
    "Chen, Pennington & Schoenholz 2018",
    variants={
        "auto": "critical for the activation in front, whose value at 0 the bias takes back",
        "normal": "normal with standard deviation std, as tutorials do",
        "xavier": "Xavier: variance 2 / (fan_in + fan_out)",
        "he": "He: variance 2 / fan_in",
        "lsuv": "orthogonal, then scaled by a batch to unit variance, layer after layer",
    },
    options={"std": 1.0},
    only={"std": ("normal",)},
    limits=(
        "Not where a norm follows every hidden layer, which undoes any scale. Frozen weights keep "
        "their values, and so do those computed from others (weight_norm). Recurrent layers "
        "get orthogonal recurrent weights, one of tanh inputs so weak that it does not saturate "
        "over the length of the sequence, and an LSTM or GRU gates that keep their state for as "
        "long; attention keeps its weights. xavier and he know neither the "
        "slope of the activation nor its value at 0, so that they do not suffice behind sigmoids; "
        "neither does normal."
    ),
    acts_on="flow",
    apply=_apply,
)
