"""Give the gradient the same size at every layer, in the backward pass alone."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Mapping

from gradcheckup.capture.tap import returning_tensors
from gradcheckup.errors import TreatmentError
from gradcheckup.treatments.editing.anatomy import WeightLayer
from gradcheckup.treatments.editing.surgery import reference
from gradcheckup.treatments.mechanisms.equalizing import equalize
from gradcheckup.treatments.treatment import Change, Effect, Patient, Treatment


def _apply(patient: Patient, _: str, __: Mapping[str, float]) -> Effect:
    hidden = patient.anatomy.hidden
    if not hidden:
        raise TreatmentError("there is no hidden weight layer whose gradient could be rescaled")
    layers = _of_one_tensor(patient, hidden)
    if not layers:
        kinds = ", ".join(dict.fromkeys(layer.kind for layer in hidden))
        raise TreatmentError(f"expected hidden layers that return one tensor, got {kinds}")
    if sum(layer.calls for layer in layers) == 1:
        raise TreatmentError(
            f"{layers[0].name or 'the model'} is the only hidden layer: nothing to bring in line "
            "with it"
        )
    model = patient.model
    equalize([model.get_submodule(layer.name) for layer in layers])
    listed = ", ".join(reference(model, layer.name) for layer in layers)
    listed = textwrap.fill(listed, 92, break_long_words=False)
    return Effect(
        changes=(Change("gradient given one size behind", tuple(layer.name for layer in layers)),),
        snippet=_SNIPPET.format(layers=textwrap.indent(listed, "    ")),
    )


def _of_one_tensor(patient: Patient, layers: list[WeightLayer]) -> list[WeightLayer]:
    twin = copy.deepcopy(patient.model)
    modules = {layer.name: twin.get_submodule(layer.name) for layer in layers}
    names = returning_tensors(modules, lambda: patient.loss(twin))
    return [layer for layer in layers if layer.name in names]


_SNIPPET = """norms = []  # of the gradients that arrive in one backward pass


def rescale(gradient):
    norms.append(torch.linalg.vector_norm(gradient, dtype=torch.float64))
    factor = norms[0] / norms[-1]
    usable = torch.isfinite(factor) & (factor > 0)
    return gradient * torch.where(usable, factor, 1.0)


def watch(layer, inputs, output):
    if output.requires_grad:
        output.register_hook(rescale)


model.register_forward_pre_hook(lambda *_: norms.clear())
for layer in (
{layers},
):
    layer.register_forward_hook(watch)"""

TREATMENT = Treatment(
    key="gradient_normalization",
    summary="Rescales the gradient of each hidden layer's output to the size it has at the last.",
    source="Yu et al. 2017, there for the gradients of weights",
    variants={"norm": "the L2 norm that arrives at the last hidden layer"},
    limits=(
        "The forward pass stays the same to the bit; the gradient is no longer that of any loss, "
        "but points in each layer where it did. What a layer cannot tell apart in its input it "
        "cannot learn: a signal that has collapsed is not mended."
    ),
    acts_on="flow",
    apply=_apply,
)
