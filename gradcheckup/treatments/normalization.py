"""Normalise what a weight layer hands on, before its activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gradcheckup.errors import TreatmentError
from gradcheckup.treatments.editing.anatomy import WeightLayer
from gradcheckup.treatments.editing.surgery import assignments, replace_module
from gradcheckup.treatments.treatment import Change, Effect, Patient, Treatment

_BATCH: dict[type[nn.Module], str] = {
    nn.Conv1d: "BatchNorm1d",
    nn.Conv2d: "BatchNorm2d",
    nn.Conv3d: "BatchNorm3d",
    nn.ConvTranspose1d: "BatchNorm1d",
    nn.ConvTranspose2d: "BatchNorm2d",
    nn.ConvTranspose3d: "BatchNorm3d",
}
_MOST_GROUPS = 32


class WholeTensorNorm(nn.Module):
    """Subtracts the mean of a whole tensor and divides by its standard deviation.

    An offset of single units survives it, so that it does not suffice where sigmoids push every
    unit off centre: it is there for the comparison with norms that work per unit or per sample.
    """

    def forward(self, values: Tensor) -> Tensor:
        """The tensor, of any shape, with mean 0 and variance 1."""
        return (values - values.mean()) / torch.sqrt(values.var(unbiased=False) + 1e-5)


def _apply(patient: Patient, variant: str, _: Mapping[str, float]) -> Effect:
    model = patient.model
    open_layers = [layer for layer in patient.anatomy.hidden if not layer.normalised]
    if not patient.anatomy.hidden:
        raise TreatmentError("there is no hidden weight layer to normalise")
    if not open_layers:
        raise TreatmentError("every hidden weight layer is followed by a norm already")
    layers = [layer for layer in open_layers if layer.name and _is_plain(model, layer)]
    if not layers:
        kinds = ", ".join(dict.fromkeys(layer.kind for layer in open_layers))
        raise TreatmentError(
            f"a norm can stand behind real linear layers and convolutions, not inside {kinds}"
        )
    norms = {
        layer.name: replace(_norm(model, layer, variant), dtype=_dtype(model, layer))
        for layer in layers
    }
    snippet = assignments(
        model, {name: f"nn.Sequential({{}}, {norm.code})" for name, norm in norms.items()}
    )
    for name, norm in norms.items():
        old = model.get_submodule(name)
        weight = next(old.parameters())
        built = norm.build().to(weight.device, weight.dtype)
        replace_module(model, name, nn.Sequential(old, built))
    changes = [
        Change(f"{kind} behind", tuple(name for name, norm in norms.items() if norm.kind == kind))
        for kind in dict.fromkeys(norm.kind for norm in norms.values())
    ]
    if variant == "tensor":
        snippet = f"{_TENSOR_NORM}\n\n{snippet}"
    return Effect(changes=tuple(changes), snippet=snippet)


@dataclass(frozen=True, slots=True)
class _Norm:
    """A norm to come: its class and the sizes it is made with."""

    kind: str
    sizes: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    @property
    def code(self) -> str:
        if self.kind == WholeTensorNorm.__name__:
            return f"{self.kind}()"
        arguments = [str(size) for size in self.sizes]
        if self.dtype != torch.get_default_dtype():
            arguments.append(f"dtype={self.dtype}")
        return f"nn.{self.kind}({', '.join(arguments)})"

    def build(self) -> nn.Module:
        if self.kind == WholeTensorNorm.__name__:
            return WholeTensorNorm()
        built: nn.Module = getattr(nn, self.kind)(*self.sizes)
        return built


def _is_plain(model: nn.Module, layer: WeightLayer) -> bool:
    module = model.get_submodule(layer.name)
    plain = isinstance(module, (nn.Linear, *_BATCH))
    return plain and next(module.parameters()).is_floating_point()


def _dtype(model: nn.Module, layer: WeightLayer) -> torch.dtype:
    return next(model.get_submodule(layer.name).parameters()).dtype


def _norm(model: nn.Module, layer: WeightLayer, variant: str) -> _Norm:
    if variant == "tensor":
        return _Norm(WholeTensorNorm.__name__)
    module = model.get_submodule(layer.name)
    batch_norm = next((norm for kind, norm in _BATCH.items() if isinstance(module, kind)), None)
    convolution = batch_norm is not None
    if convolution and len(layer.shape) < next(module.parameters()).dim():
        raise TreatmentError(
            f"expected a batch of samples, but {layer.name} is given a single one: norms count "
            "channels in dimension 1"
        )
    units = layer.shape[1] if convolution else layer.shape[-1]
    # Statistics of a batch mean little where one layer serves many places or one sample is all.
    per_batch = layer.calls == 1 and layer.shape[0] > 1 and (convolution or len(layer.shape) == 2)
    if variant == "batch" and not convolution and len(layer.shape) != 2:
        raise TreatmentError(
            f"BatchNorm wants features in dimension 1, and layer {layer.name} has outputs of shape "
            f"{layer.shape} with features in the last one: take normalization:layer"
        )
    if variant == "batch" or (variant == "auto" and per_batch):
        return _Norm(batch_norm or "BatchNorm1d", (units,))
    if not convolution:
        return _Norm("LayerNorm", (units,))
    return _Norm("GroupNorm", (1 if variant == "layer" else _groups(units), units))


def _groups(channels: int) -> int:
    """The most groups, up to 32, that divide the channels and hold at least 4 of them."""
    fitting = (
        count for count in range(min(_MOST_GROUPS, channels // 4), 0, -1) if channels % count == 0
    )
    return next(fitting, 1)


_TENSOR_NORM = """class WholeTensorNorm(nn.Module):
    def forward(self, values):
        return (values - values.mean()) / torch.sqrt(values.var(unbiased=False) + 1e-5)
"""

TREATMENT = Treatment(
    key="normalization",
    summary="Puts a norm between each hidden weight layer and its activation.",
    source="Ioffe & Szegedy 2015; Ba, Kiros & Hinton 2016; Wu & He 2018",
    variants={
        "auto": "BatchNorm, or LayerNorm and GroupNorm where batch statistics mean little",
        "batch": "BatchNorm",
        "layer": "LayerNorm; one group of all channels behind convolutions",
        "group": "GroupNorm behind convolutions, LayerNorm behind linear layers",
        "tensor": "the whole tensor by its mean and deviation, which does not suffice",
    },
    limits=(
        "Behind linear layers and convolutions, and not inside recurrent layers. A model whose "
        "forward reads the `.weight` of a layer (nn.TransformerEncoderLayer does) is refused. "
        "BatchNorm wants batches of more than one sample; tensor makes each sample depend on the "
        "others of its batch, at evaluation too."
    ),
    acts_on="flow",
    apply=_apply,
)
