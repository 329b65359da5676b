"""Which layer is at fault where a whole net is: told by autograd in float64, without gradcheckup.

The gain of a hidden weight layer is ||dL/dy|| at its output over that at the next one's. A net of n
gains is in order while each stays in the n-th root of the band for the end-to-end ratio,
[0.02, 100]: the first one outside is at fault.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import Case

_BAND = {"GC101": (0.02, float("inf")), "GC102": (0.0, 100.0)}
_WEIGHTS = (nn.Linear, nn.Conv2d)


def layers_at_fault(case: Case, seed: int, code: str) -> frozenset[str]:
    """The first layer whose gain leaves the band of a code; empty where there is none to name.

    Only for nets of linear and convolution layers that are called once, in one line.
    """
    if code not in _BAND:
        return frozenset()
    found = gains(case, seed)
    low, high = (limit ** (1 / len(found)) if found else limit for limit in _BAND[code])
    return frozenset([name for name, gain in found.items() if not low <= gain <= high][:1])


def gains(case: Case, seed: int) -> dict[str, float]:
    """Gains of the hidden weight layers at initialisation, in execution order."""
    torch.manual_seed(seed)
    model = case.build().double()
    owners = [each for each in model.modules() if any(True for _ in each.parameters(recurse=False))]
    if any(isinstance(each, (nn.RNNBase, nn.MultiheadAttention)) for each in owners):
        return {}
    outputs: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, _WEIGHTS):
            module.register_forward_hook(_keep(name, outputs))
    inputs, targets = next(case.task.batches(case.batch_size, seed))
    targets = targets.double() if targets.is_floating_point() else targets
    loss = case.task.criterion()(model(inputs.double()), targets)
    hidden = list(outputs)[:-1]
    flow = torch.autograd.grad(
        loss, [outputs[name] for name in hidden], allow_unused=True, materialize_grads=True
    )
    norms = [float(each.norm()) for each in flow]
    return {
        name: here / behind if behind else float("nan")
        for name, (here, behind) in zip(hidden, itertools.pairwise(norms), strict=False)
    }


def _keep(name: str, outputs: dict[str, Tensor]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        del module, inputs
        outputs[name] = output

    return hook
