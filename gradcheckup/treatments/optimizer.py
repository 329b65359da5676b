"""Give each weight a step of its own size, however faint its gradient is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.optim import Optimizer

from gradcheckup.errors import TreatmentError
from gradcheckup.probe.subject import default_optimizer
from gradcheckup.treatments.mechanisms.optimizers import exchanged, parameters_code, weight_decays
from gradcheckup.treatments.treatment import Change, Effect, Patient, Treatment

_CLASSES = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}


def _apply(patient: Patient, variant: str, options: Mapping[str, float]) -> Effect:
    present = patient.optimizer or default_optimizer(patient.model)
    kind, rate = _CLASSES[variant], options["lr"]
    alike = type(present) is kind
    if alike and all(group["lr"] == rate for group in present.param_groups):
        raise TreatmentError(f"the optimizer is {kind.__name__}(lr={rate:g}) already")
    decays = set(weight_decays(present))
    arguments = f"lr={rate:g}"
    if decays != {0.0} and len(decays) == 1:
        arguments += f", weight_decay={decays.pop():g}"
    changed = f"{kind.__name__}({arguments}) in place of {type(present).__name__}"
    if len(decays) > 1 or len({group["lr"] for group in present.param_groups}) > 1:
        given = _groups(present, rate)
    else:
        given = f"{parameters_code(present, patient.model)}, {arguments}"
    return Effect(
        changes=(Change(changed),),
        snippet=f"optimizer = torch.optim.{kind.__name__}({given})",
        optimizer=exchanged(present, kind, rate),
    )


def _groups(present: Optimizer, rate: float) -> str:
    """Code for the groups that there are, with the settings that the new optimizer takes over."""
    rates = [group["lr"] for group in present.param_groups]
    first = next((index for index, own in enumerate(rates) if own), None)
    own = f'{rate:g} * group["lr"] / optimizer.param_groups[{first}]["lr"]'
    settings = ['"params": group["params"]', f'"lr": {own if first is not None else f"{rate:g}"}']
    if any(weight_decays(present)):
        settings.append('"weight_decay": group["weight_decay"]')
    inside = [
        "{",
        *(f"    {each}," for each in settings),
        "}",
        "for group in optimizer.param_groups",
    ]
    return "\n".join(["", "    [", *(f"        {line}" for line in inside), "    ]", ""])


TREATMENT = Treatment(
    key="optimizer",
    summary="Trains with an optimizer that divides each gradient by its own size.",
    source="Kingma & Ba 2015; Loshchilov & Hutter 2019; Tieleman & Hinton 2012",
    variants={
        "adam": "Adam",
        "adamw": "Adam with decoupled weight decay",
        "rmsprop": "RMSprop",
    },
    options={"lr": 1e-3},
    limits=(
        "The gradient at initialisation is what it was: only the updates become healthy, and "
        "where they do not see the input (GC101, blind) that is not enough. Parameter groups are "
        "kept, with the proportions of their learning rates and with their weight decay; other "
        "settings are the new optimizer's own."
    ),
    acts_on="updates",
    apply=_apply,
)
