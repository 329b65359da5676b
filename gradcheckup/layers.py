"""What a module is, told from its class and its parameters: kind, role, where its units lie."""

from __future__ import annotations

from torch import nn

from gradcheckup.activations import type_name
from gradcheckup.records import Role

_CONVOLUTION = nn.modules.conv._ConvNd  # noqa: SLF001 - the common base has no public name
_CHANNEL_NORM = nn.modules.batchnorm._NormBase  # noqa: SLF001 - likewise
_WEIGHTS = (
    _CONVOLUTION,
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
_CONV_KERNEL_DIMS = 4


def kind(module: nn.Module) -> str:
    """`linear`, `conv2d`, `lstm`; of a class of one's own, its name in lower case."""
    name = type_name(module) or type(module).__name__.lower()
    return name.removeprefix("nondynamicallyquantizable")


def role(module: nn.Module, *, holds_layers: bool) -> Role:
    """The role of a module that owns parameters.

    Args:
        module: The module.
        holds_layers: Whether layers inside it ran, so that its output is theirs.
    """
    if isinstance(module, _WEIGHTS):
        return Role.WEIGHT
    if "norm" in kind(module):
        return Role.NORM
    if holds_layers:
        return Role.CONTAINER
    mixes = any(
        sum(size > 1 for size in parameter.shape) > 1
        for parameter in module.parameters(recurse=False)
    )
    return Role.WEIGHT if mixes else Role.SCALE


def channels_first(module: nn.Module) -> bool:
    """Whether the units of its output are channels in dimension 1, as after a convolution."""
    return isinstance(module, (_CONVOLUTION, _CHANNEL_NORM, nn.GroupNorm)) or any(
        parameter.ndim >= _CONV_KERNEL_DIMS for parameter in module.parameters(recurse=False)
    )
