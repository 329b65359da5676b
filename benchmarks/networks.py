"""The nets of the cases, assembled from named parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "leaky": nn.LeakyReLU,
}


def _lecun(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="linear")


def _he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def _he_uniform(weight: Tensor) -> None:
    nn.init.kaiming_uniform_(weight, nonlinearity="relu")


def _normal(deviation: float) -> Callable[[Tensor], None]:
    return lambda weight: _ignore(nn.init.normal_(weight, std=deviation))


def _ignore(_: Tensor) -> None:
    """Initialisers return the tensor they filled."""


INITIALISATIONS: dict[str, Callable[[Tensor], None]] = {
    "xavier": lambda weight: _ignore(nn.init.xavier_normal_(weight)),
    "xavier-uniform": lambda weight: _ignore(nn.init.xavier_uniform_(weight)),
    "he": _he,
    "he-uniform": _he_uniform,
    "lecun": _lecun,
    "normal-0.02": _normal(0.02),
    "normal-0.3": _normal(0.3),
    "normal-1": _normal(1.0),
    "normal-10": _normal(10.0),
    "uniform-0.05": lambda weight: _ignore(nn.init.uniform_(weight, -0.05, 0.05)),
    "orthogonal": lambda weight: _ignore(nn.init.orthogonal_(weight)),
}


def initialise(model: nn.Module, name: str) -> nn.Module:
    """Fills every matrix and zeroes biases of linear and convolution layers.

    `default` leaves all to PyTorch.
    """
    if name != "default":
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                INITIALISATIONS[name](module.weight.data)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
                for parameter in module.parameters(recurse=False):
                    if parameter.dim() > 1:
                        INITIALISATIONS[name](parameter.data)
    return model


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Adds what the inner module makes of x."""
        return x + self.inner(x)  # type: ignore[no-any-return]


def mlp(
    widths: Sequence[int],
    activation: Callable[[], nn.Module],
    *,
    norm: str = "none",
    residual: bool = False,
) -> nn.Sequential:
    """Linear layers; between them a normalisation, then the activation.

    A residual block is x + φ(norm(Wx)), where the widths allow it.
    """
    norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise(widths[:-1]):
        block: list[nn.Module] = [nn.Linear(before, width)]
        if norm != "none":
            block.append(norms[norm](width))
        block.append(activation())
        layers += [Residual(nn.Sequential(*block))] if residual and before == width else block
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def cnn(
    depth: int,
    channels: int,
    activation: Callable[[], nn.Module],
    *,
    norm: str = "none",
    residual: bool = False,
    head: str = "flatten",
) -> nn.Sequential:
    """3x3 convolutions over an 8x8 image, halved once in the middle; one linear layer behind."""
    norms: dict[str, Callable[[int], nn.Module]] = {
        "batch": nn.BatchNorm2d,
        "group": lambda width: nn.GroupNorm(2, width),
    }
    layers: list[nn.Module] = []
    for index in range(depth):
        before = channels if index else 1
        block: list[nn.Module] = [nn.Conv2d(before, channels, 3, padding=1)]
        if norm != "none":
            block.append(norms[norm](channels))
        block.append(activation())
        layers += [Residual(nn.Sequential(*block))] if residual and index else block
        if index == depth // 2:
            layers.append(nn.MaxPool2d(2))
    if head == "mean":
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)
        )
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * channels, 10))


class SequenceClassifier(nn.Module):
    """A recurrent net whose last output is classified."""

    def __init__(self, core: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.core = core
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classifies sequences of shape (batch, time, features)."""
        output, _ = self.core(x)
        return self.head(output[:, -1])  # type: ignore[no-any-return]


def recurrent_core(kind: str, features: int, width: int, layers: int = 1) -> nn.RNNBase:
    """A vanilla RNN (`rnn-tanh`, `rnn-relu`), LSTM or GRU, initialised by PyTorch."""
    if kind.startswith("rnn"):
        return nn.RNN(
            features, width, layers, nonlinearity=kind.removeprefix("rnn-"), batch_first=True
        )
    made: nn.RNNBase = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](
        features, width, layers, batch_first=True
    )
    return made


def recurrent(kind: str, features: int, width: int, layers: int, init: str) -> SequenceClassifier:
    """A classifier of sequences around a recurrent layer of some kind.

    `identity` starts recurrent matrices as orthogonal ones, and an LSTM with open forget gates.
    """
    core = recurrent_core(kind, features, width, layers)
    model = SequenceClassifier(core, width)
    if init != "identity":
        initialise(model, init)
        return model
    for name, parameter in core.named_parameters():
        if "weight_hh" in name:
            for gate in parameter.data.chunk(len(parameter) // width):
                nn.init.orthogonal_(gate)
        elif "bias_ih" in name and kind == "lstm":
            parameter.data[width : 2 * width] = 1.0
    return model


class Transformer(nn.Module):
    """An encoder over tokens, whose mean or last output is classified."""

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        activation: str,
        pre_norm: bool,
        dropout: float,
        tokens: int = 8,
        features: int = 8,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.last = last
        self.embed = nn.Linear(features, width)
        self.position = nn.Parameter(0.1 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                4,
                4 * width,
                dropout,
                activation,
                batch_first=True,
                norm_first=pre_norm,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classifies token sequences of shape (batch, tokens, features)."""
        x = self.embed(x) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, -1] if self.last else x.mean(1))  # type: ignore[no-any-return]

    def scale_attention(self, factor: float) -> None:
        """Multiplies all attention logits: large ones saturate the softmax."""
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.in_proj_weight.data[: module.embed_dim] *= factor


class Exponential(nn.Module):
    """exp, which nobody should use as an activation and somebody did."""

    def forward(self, x: Tensor) -> Tensor:
        """The exponential of every element."""
        return x.exp()
