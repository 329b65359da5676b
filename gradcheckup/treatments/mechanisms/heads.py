"""Output layers for features that the model's own output layer does not fit."""

from __future__ import annotations

from torch import Tensor, nn

from gradcheckup.treatments.editing.anatomy import WeightLayer

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_SIDE = 2
"""Features of pictures are pooled to this many places a side, as in Belilovsky et al."""


class Mean(nn.Module):
    """The mean over some dimensions, as of the positions of a sequence."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, values: Tensor) -> Tensor:
        """Shape (batch, positions ..., features) to (batch, features)."""
        return values.mean(self.dims)


def auxiliary_head(reader: WeightLayer, output: WeightLayer) -> nn.Module | None:
    """A linear readout with the outputs of the output layer.

    Args:
        reader: The layer that is given the features otherwise.
        output: The output layer.

    Returns:
        None where the two shapes have too little to do with each other.
    """
    given, shape = reader.given, output.shape
    if "conv" in reader.kind:
        return _of_maps(given, shape, mapped="conv" in output.kind)
    if "conv" in output.kind or not shape:
        return None
    linear = nn.Linear(given[-1], shape[-1])
    if given[:-1] == shape[:-1]:
        return linear
    positions: tuple[int, ...] = ()
    if len(shape) == 2 and given[0] == shape[0]:
        positions = tuple(range(1, len(given) - 1))
    elif len(shape) == 2 and len(given) == 3 and given[1] == shape[0]:
        positions = (0,)  # the sequence first, as recurrent layers like it
    return nn.Sequential(Mean(positions), linear) if positions else None


def _of_maps(given: tuple[int, ...], shape: tuple[int, ...], *, mapped: bool) -> nn.Module | None:
    dims = len(given) - 2
    if not 1 <= dims <= 3 or not shape or given[0] != shape[0]:
        return None
    pool, channels = _POOLS[dims - 1], given[1]
    if mapped and len(shape) == len(given):
        return nn.Sequential(_CONVOLUTIONS[dims - 1](channels, shape[1], 1), pool(shape[2:]))
    if mapped or len(shape) != 2:
        return None
    places = [min(_SIDE, side) for side in given[2:]]
    features = channels
    for side in places:
        features *= side
    return nn.Sequential(pool(tuple(places)), nn.Flatten(), nn.Linear(features, shape[1]))
