"""Clip gradients before each update, so that a burst of them cannot throw the weights away."""

from __future__ import annotations

from collections.abc import Mapping

from gradcheckup.errors import TreatmentError
from gradcheckup.probe.subject import default_optimizer, parameters_of
from gradcheckup.treatments.mechanisms.clipping import Clip, clip_of, clipped
from gradcheckup.treatments.mechanisms.optimizers import parameters_code
from gradcheckup.treatments.treatment import Change, Effect, Patient, Treatment

_OPTIONS = {"norm": "max_norm", "value": "clip_value"}


def _apply(patient: Patient, variant: str, options: Mapping[str, float]) -> Effect:
    option = _OPTIONS[variant]
    bound = options[option]
    optimizer = patient.optimizer or default_optimizer(patient.model)
    present = clip_of(optimizer)
    if present:
        raise TreatmentError(f"the optimizer clips by {present.by} at {present.bound:g} already")
    if variant == "value" and any(each.is_complex() for each in parameters_of(optimizer)):
        raise TreatmentError("complex gradients have no order to clip by: take norm")
    clipped(optimizer, Clip(variant, bound))
    given = parameters_code(optimizer, patient.model)
    call = f"clip_grad_{variant}_({given}, {option}={bound:g})"
    return Effect(
        changes=(Change(f"gradients clipped by {variant} at {bound:g} before each update"),),
        snippet=f"# after loss.backward(), before optimizer.step():\ntorch.nn.utils.{call}",
        optimizer=optimizer,
    )


TREATMENT = Treatment(
    key="gradient_clipping",
    summary="Clips the gradients before each update.",
    source="Pascanu, Mikolov & Bengio 2013",
    variants={
        "norm": "the norm of all gradients together, which keeps their direction",
        "value": "each element on its own",
    },
    options={"max_norm": 1.0, "clip_value": 0.5},
    only={option: (variant,) for variant, option in _OPTIONS.items()},
    limits=(
        "It bounds what explodes and mends nothing that vanishes. Under Adam and the like, which "
        "divide by the size of the gradient, it changes little but the outliers."
    ),
    acts_on="updates",
    apply=_apply,
)
