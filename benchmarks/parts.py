"""Parts of nets that are put together one by one, so that a fault can be planted in between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks import networks

Parts = list[nn.Module]
_INIT = {"relu": "he", "gelu": "he", "tanh": "xavier"}


class Positions(nn.Module):
    """Adds what tells tokens apart."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(0.1 * torch.randn(length, width))

    def forward(self, x: Tensor) -> Tensor:
        """Shifts tokens of shape (batch, length, width)."""
        return x + self.offset


class TokenMean(nn.Module):
    """One vector for a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        """Averages (batch, time, width) over time."""
        return x.mean(1)


class LastOutput(nn.Module):
    """A recurrent layer of which only the last output counts."""

    def __init__(self, core: nn.RNNBase) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: Tensor) -> Tensor:
        """From (batch, time, features) to (batch, width)."""
        return self.core(x)[0][:, -1]  # type: ignore[no-any-return]


def transformer_parts(depth: int, width: int) -> list[nn.Module]:
    """A pre-norm encoder over eight tokens of eight, as a list of parts."""
    blocks = [
        nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
        for _ in range(depth)
    ]
    embed = nn.Sequential(nn.Linear(8, width), Positions(8, width))
    return [embed, *blocks, nn.LayerNorm(width), TokenMean(), nn.Linear(width, 10)]


def output_width(part: nn.Module) -> int:
    """Features of what a part of a net gives."""
    if isinstance(part, nn.Linear):
        return part.out_features
    if isinstance(part, nn.TransformerEncoderLayer):
        return part.linear2.out_features
    if isinstance(part, LastOutput):
        return part.core.hidden_size
    raise TypeError(type(part).__name__)


def sound(kind: str, depth: int, activation: str) -> Parts:
    """A net in order, as its parts: `depth` hidden ones with weights, and a linear one behind."""
    act = networks.ACTIVATIONS[activation]
    if kind == "transformer":
        return transformer_parts(depth, 32)
    if kind in {"recurrent", "recall"}:
        core = (10, "rnn-tanh") if kind == "recall" else (8, "gru")
        behind = networks.mlp([64, *[64] * (depth - 1), 10], act)
        networks.initialise(behind, _INIT[activation])
        return [LastOutput(networks.recurrent_core(core[1], core[0], 64)), *behind]
    net = (
        networks.cnn(depth, 8, act) if kind == "cnn" else networks.mlp([64, *[64] * depth, 10], act)
    )
    return list(networks.initialise(net, _INIT[activation]).children())


def holders(parts: Parts) -> list[int]:
    """Positions of the parts that own weights."""
    return [k for k, part in enumerate(parts) if any(each.dim() > 1 for each in part.parameters())]
