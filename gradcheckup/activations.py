"""What is known of each activation: which function it is, where it saturates, where it is dead.

Saturation is judged on the pre-activation z by the derivative, never on the output: |y| > 0.95
calls healthy logits saturated and misses a sigmoid stuck at 0. Rectifiers (ReLU, GELU, SiLU ...)
have no saturating zone: half of their inputs lie where the derivative is small, by design. A unit
of theirs is dead when no input ever leaves that side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Zone = tuple[float, float]
"""Pre-activations below the first or above the second bound are saturated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """One kind of activation.

    Attributes:
        kind: Its name, as torch's function is called.
        defaults: Defaults of the function's arguments after the input, in order.
        zone: From the slope fraction and the arguments of the call to the saturated zone; None for
            kinds without one.
        dead_below: From the arguments of the call to the bound under which a unit passes less than
            about 1% of a gradient; None for kinds that cannot be dead.
    """

    kind: str
    defaults: tuple[tuple[str, float], ...] = ()
    zone: Callable[[float, Mapping[str, float]], Zone] | None = None
    dead_below: Callable[[Mapping[str, float]], float] | None = None

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, float]:
        """The numbers the function was called with, without its input."""
        found = dict(self.defaults)
        found.update(
            (name, value)
            for (name, _), value in zip(self.defaults, args, strict=False)
            if isinstance(value, (int, float))
        )
        found.update((name, kwargs[name]) for name in found if name in kwargs)
        return found


def _symmetric(bound: Callable[[float], float]) -> Callable[[float, Mapping[str, float]], Zone]:
    return lambda slope, _: (-bound(slope), bound(slope))


def _elu_zone(slope: float, call: Mapping[str, float]) -> Zone:
    # phi' = alpha e^z below 0 and 1 above; its maximum is the larger of the two.
    alpha = abs(call["alpha"])
    steepest = max(1.0, alpha)
    return (min(0.0, math.log(slope * steepest / alpha)) if alpha else 0.0, math.inf)


def _celu_zone(slope: float, call: Mapping[str, float]) -> Zone:
    return call["alpha"] * math.log(slope), math.inf


def _selu_zone(slope: float, _: Mapping[str, float]) -> Zone:
    # phi' = scale alpha e^z below 0, at most scale alpha = 1.758, which exceeds the 1.051 above.
    return math.log(slope), math.inf


def _sigmoid_bound(slope: float) -> float:
    # sigma'(z) = 1 / (4 cosh(z / 2)^2)
    return 2 * math.acosh(1 / math.sqrt(slope))


_KINDS = (
    Activation(kind="sigmoid", zone=_symmetric(_sigmoid_bound)),
    # tanh'(z) = 1 / cosh(z)^2
    Activation(kind="tanh", zone=_symmetric(lambda slope: math.acosh(1 / math.sqrt(slope)))),
    # softsign'(z) = 1 / (1 + |z|)^2
    Activation(kind="softsign", zone=_symmetric(lambda slope: 1 / math.sqrt(slope) - 1)),
    Activation(kind="hardsigmoid", zone=lambda _, __: (-3.0, 3.0)),
    Activation(
        kind="hardtanh",
        defaults=(("min_val", -1.0), ("max_val", 1.0)),
        zone=lambda _, call: (call["min_val"], call["max_val"]),
    ),
    Activation(kind="relu6", zone=lambda _, __: (-math.inf, 6.0), dead_below=lambda _: 0.0),
    Activation(kind="elu", defaults=(("alpha", 1.0),), zone=_elu_zone),
    Activation(kind="celu", defaults=(("alpha", 1.0),), zone=_celu_zone),
    Activation(kind="selu", zone=_selu_zone),
    Activation(kind="relu", dead_below=lambda _: 0.0),
    Activation(
        kind="threshold",
        defaults=(("threshold", 0.0),),
        dead_below=lambda call: call["threshold"],
    ),
    Activation(kind="gelu", dead_below=lambda _: -3.0),
    Activation(kind="silu", dead_below=lambda _: -6.0),
    Activation(kind="mish", dead_below=lambda _: -6.0),
    Activation(kind="hardswish", dead_below=lambda _: -3.0),
    Activation(
        kind="softplus",
        defaults=(("beta", 1.0),),
        dead_below=lambda call: -math.log(99.0) / call["beta"],
    ),
    Activation(kind="leaky_relu"),
    Activation(kind="prelu"),
    Activation(kind="rrelu"),
    Activation(kind="logsigmoid"),
    Activation(kind="tanhshrink"),
    Activation(kind="softshrink"),
    Activation(kind="hardshrink"),
    Activation(kind="softmax"),
    Activation(kind="log_softmax"),
    Activation(kind="softmin"),
)

KINDS: Mapping[str, Activation] = {known.kind: known for known in _KINDS}
"""Every known activation by its kind."""

SQUASHING = frozenset({"sigmoid", "tanh", "softsign", "hardsigmoid", "hardtanh"})
"""Kinds that saturate on both sides."""


def _functions() -> dict[Callable[..., Any], Activation]:
    """Every callable under which torch offers a known activation, in-place ones included."""
    aliases = {"sigmoid": ("expit",)}
    native = torch._C._nn  # noqa: SLF001 - what F.gelu and others are
    places = (torch, F, Tensor, torch.special, native)
    found = {}
    for kind, known in KINDS.items():
        for name in (kind, f"{kind}_", *aliases.get(kind, ())):
            for place in places:
                function = getattr(place, name, None)
                if callable(function):
                    found[function] = known
    return found


FUNCTIONS: Mapping[Callable[..., Any], Activation] = _functions()
"""From torch's callables to what is known of them."""


_MODULES: Mapping[str, Activation] = {
    **{kind.replace("_", ""): known for kind, known in KINDS.items()},
    "softmax2d": KINDS["softmax"],
}


def of_module(module: nn.Module) -> Activation | None:
    """What is known of one of torch's activation modules or a subclass; None for other modules.

    Its class goes before the function it calls: ReLU6 calls hardtanh.
    """
    base = _torch_base(module)
    if base.__module__ != "torch.nn.modules.activation":
        return None
    return _MODULES.get(base.__name__.lower())


def _torch_base(module: nn.Module) -> type:
    for base in type(module).__mro__:
        if base.__module__.startswith("torch.nn.") and base is not nn.Module:
            return base
    return type(module)


def type_name(module: nn.Module) -> str | None:
    """Lower-case name of the torch.nn class that a module is or derives from; None for others."""
    base = _torch_base(module)
    return base.__name__.lower() if base.__module__.startswith("torch.nn.") else None
