"""Three loops to measure the cost of watching on: launch-bound, convolutional, attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]

WIDTH = 256
"""Of the MLP."""


@dataclass(frozen=True)
class Workload:
    """A net and the batch it is trained on, over and over."""

    model: Callable[[], nn.Module]
    batch: Callable[[], Batch]


def mlp(depth: int = 30) -> nn.Module:
    """Layers of 256 units: steps are so short that each Python call counts."""
    hidden = [each for _ in range(depth - 1) for each in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(WIDTH, 10))
    for module in model:
        if isinstance(module, nn.Linear):
            # At PyTorch's default the gradient vanishes, and denormal numbers slow steps down.
            nn.init.kaiming_normal_(module.weight)
    return model


class Block(nn.Module):
    """Pre-norm attention and MLP, 256 wide."""

    def __init__(self, width: int = 256, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The forward pass."""
        batch, length, width = x.shape
        shape = (batch, length, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(self.norm1(x)).view(shape).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """6 blocks over 128 tokens."""

    def __init__(self, width: int = 256, length: int = 128, tokens: int = 256) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(6)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """The forward pass."""
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.token(x) + self.place(places))))


def _tokens() -> Batch:
    text = torch.randint(0, 256, (8, 129))
    return text[:, :-1], text[:, 1:]


WORKLOADS: Mapping[str, Workload] = {
    "MLP, 30 layers": Workload(
        mlp, lambda: (torch.randn(128, WIDTH), torch.randint(0, 10, (128,)))
    ),
    "resnet18, 64 px": Workload(
        lambda: torchvision.models.resnet18(num_classes=10),
        lambda: (torch.randn(16, 3, 64, 64), torch.randint(0, 10, (16,))),
    ),
    "GPT, 6 blocks": Workload(GPT, _tokens),
}
