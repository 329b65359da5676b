"""How faults get into a net, its optimizer or its loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import Optimizer
from benchmarks.parts import Parts, output_width


def nothing(parts: Parts, place: int) -> None:
    """The net is in order; the optimizer or the loss is not."""
    del parts, place


def unchanged(make: Optimizer, indices: Sequence[int]) -> Optimizer:
    """The optimizer is in order."""
    del indices
    return make


class _Behind(nn.Module):
    """Does something to a tensor on its way."""

    def __init__(self, action: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.action = action

    def forward(self, x: Tensor) -> Tensor:
        """Applies it."""
        return self.action(x)


class _WithoutGradient(nn.Module):
    """A layer that runs under `no_grad`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Runs it."""
        with torch.no_grad():
            return self.inner(x)  # type: ignore[no-any-return]


class DetachedLoss(nn.Module):
    """A loss whose main part was detached, for a log perhaps; what is left is a penalty."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy that trains nothing, and a little weight on small outputs."""
        return nn.functional.cross_entropy(outputs.detach(), targets) + 1e-3 * outputs.pow(2).mean()


def _matrices(part: nn.Module) -> list[Tensor]:
    return [each.data for each in part.parameters() if each.dim() > 1]


def weights(change: Callable[[Tensor], object]) -> Callable[[Parts, int], None]:
    """Changes every matrix of the part."""

    def plant(parts: Parts, place: int) -> None:
        for matrix in _matrices(parts[place]):
            change(matrix)

    return plant


def one_weight(value: float) -> Callable[[Parts, int], None]:
    """Sets a single weight."""

    def plant(parts: Parts, place: int) -> None:
        _matrices(parts[place])[0].view(-1)[0] = value

    return plant


def biased(shift: float) -> Callable[[Parts, int], None]:
    """Sets all biases."""

    def plant(parts: Parts, place: int) -> None:
        bias = parts[place].bias
        assert isinstance(bias, Tensor)  # noqa: S101 - tells the type checker
        bias.data.fill_(shift)

    return plant


def behind(action: Callable[[Tensor], Tensor]) -> Callable[[Parts, int], None]:
    """Does something to the output of the part."""

    def plant(parts: Parts, place: int) -> None:
        parts[place] = nn.Sequential(parts[place], _Behind(action))

    return plant


def no_grad(parts: Parts, place: int) -> None:
    """Runs the part without a graph."""
    parts[place] = _WithoutGradient(parts[place])


def single_unit(parts: Parts, place: int) -> None:
    """Squeezes the output through a softmax over one unit, which is always 1."""
    width = output_width(parts[place])
    gate = (nn.Linear(width, 1), nn.Softmax(dim=-1), nn.Linear(1, width))
    parts[place] = nn.Sequential(parts[place], *gate)


def sharp_attention(parts: Parts, place: int) -> None:
    """Multiplies the logits of all attention, so that one key gets everything."""
    del place
    for module in nn.ModuleList(parts).modules():
        if isinstance(module, nn.MultiheadAttention):
            module.in_proj_weight.data[: module.embed_dim] *= 1e3


def short_memory(parts: Parts, place: int) -> None:
    """Makes a recurrent layer forget within a step."""
    for name, parameter in parts[place].named_parameters():
        if "weight_hh" in name:
            parameter.data *= 0.01


def _derived(make: Optimizer, methods: dict[str, Any], **settings: Any) -> Optimizer:
    """The same optimizer as a class with other methods, which takes parameters as its base does."""
    assert isinstance(make, functools.partial)  # noqa: S101 - tells the type checker
    base: Any = make.func
    return functools.partial(type(base.__name__, (base,), methods), **make.keywords, **settings)


def left_out(make: Optimizer, indices: Sequence[int]) -> Optimizer:
    """Gives the optimizer all parameters but these."""

    def begin(self: Any, parameters: Iterable[nn.Parameter], **settings: Any) -> None:
        kept = [each for k, each in enumerate(parameters) if k not in indices]
        super(type(self), self).__init__(kept, **settings)

    return _derived(make, {"__init__": begin})


def without_rate(make: Optimizer, indices: Sequence[int]) -> Optimizer:
    """Gives these parameters a learning rate of 0."""

    def begin(self: Any, parameters: Iterable[nn.Parameter], **settings: Any) -> None:
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for k, each in enumerate(parameters):
            groups[k in indices].append(each)
        still = {"params": groups[True], "lr": 0.0}
        super(type(self), self).__init__([{"params": groups[False]}, still], **settings)

    return _derived(make, {"__init__": begin})


def accumulating(make: Optimizer, indices: Sequence[int]) -> Optimizer:
    """Makes `zero_grad` do nothing, as if it were not called."""
    del indices

    def forget(self: Any, set_to_none: bool = True) -> None:
        del self, set_to_none

    return _derived(make, {"zero_grad": forget})


def hasty(make: Optimizer, indices: Sequence[int]) -> Optimizer:
    """Multiplies the learning rate by 1000."""
    del indices
    assert isinstance(make, functools.partial)  # noqa: S101 - tells the type checker
    return functools.partial(make, lr=1000 * make.keywords["lr"])
