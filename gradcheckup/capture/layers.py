"""What a module is, told from its class and its parameters: kind, role, where its units lie."""

from __future__ import annotations

from collections.abc import Mapping

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
_MADE = ("torch.distributed.", "torch.nn.utils.parametrize")


def class_name(module: nn.Module) -> str:
    """Name of the class as its author wrote it.

    `fully_shard` and `parametrize` give a module a class made on the fly, `FSDPNet` for `Net`.
    """
    kind: type = type(module)
    while kind.__module__.startswith(_MADE) and kind.__name__.endswith(kind.__bases__[-1].__name__):
        kind = kind.__bases__[-1]
    return kind.__name__


def kind(module: nn.Module) -> str:
    """`linear`, `conv2d`, `lstm`; of a class of one's own, its name in lower case."""
    name = type_name(module) or class_name(module).lower()
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


def loose_weights(names: Mapping[str, nn.Module], root: nn.Module) -> dict[int, tuple[str, str]]:
    """Owner and name, by `id`, of the matrices that a function may use without their module."""
    return {
        id(parameter): (name, local if module is root else f"{name}.{local}")
        for name, module in names.items()
        if not _has_own_call(module)
        for local, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    }


def owners_of_several(names: Mapping[str, nn.Module]) -> set[str]:
    """Modules with more than one matrix of their own, so that one output cannot tell them apart."""
    return {
        name
        for name, module in names.items()
        if not _has_own_call(module)
        and sum(each.ndim > 1 for each in module.parameters(recurse=False)) > 1
    }


def _has_own_call(module: nn.Module) -> bool:
    """Recurrent layers and attention use several weights in one call, and always by themselves."""
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention))
