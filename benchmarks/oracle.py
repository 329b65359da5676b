"""What is wrong with a net as a whole, and where: told by autograd in float64, without gradcheckup.

The gain of a hidden weight layer is ||dL/dy|| at its output over that at the next one's. A net of n
gains is in order while each stays in the n-th root of the band for the end-to-end ratio,
[0.02, 100]: the first one outside is at fault. The ratio, and the same of the signal, are followed
through the first training steps as well: what leaves the band there is a cause.
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import PROBE_STEPS, Case
from benchmarks.networks import Residual

_LOW, _HIGH = 0.02, 100.0
_BAND = {"GC101": (_LOW, math.inf), "GC102": (0.0, _HIGH)}
_RUNAWAY = 1e3
_WEIGHTS = (nn.Linear, nn.Conv2d)

CAUSES = frozenset({"GC101", "GC102", "GC203"})
"""Codes that `causes` can tell."""


def layers_at_fault(case: Case, seed: int, code: str) -> frozenset[str]:
    """The first layer whose gain leaves the band of a code; empty where there is none to name.

    Only for nets of linear and convolution layers that are called once, in one line.
    """
    if code not in _BAND:
        return frozenset()
    found = gains(case, seed)
    low, high = (limit ** (1 / len(found)) if found else limit for limit in _BAND[code])
    return frozenset([name for name, gain in found.items() if not low <= gain <= high][:1])


def causes(case: Case, seed: int) -> frozenset[str] | None:
    """What is out of order at the first of eight training steps, or in the later half of them.

    Returns:
        GC101 where the gradient ratio is below .02, GC203 where the signal ratio is, GC102 where
        the gradient ratio is above 100 or the gradient of all parameters grew a thousandfold. None
        for nets of other layers than linear and convolution ones.
    """
    net = _Net(case, seed)
    if not net.is_known:
        return None
    optimizer = case.make_optimizer(net.model.parameters())
    flows, totals = [], []
    for batch in itertools.islice(case.task.batches(case.batch_size, seed), PROBE_STEPS):
        flow = net.flow(batch)
        flows.append(flow)
        totals.append(net.backward(batch))
        optimizer.step()
        if not math.isfinite(totals[-1]):
            break
    late = flows[len(flows) // 2 :]
    gradient = [flows[0].gradient_ratio, statistics.median(each.gradient_ratio for each in late)]
    signal = [flows[0].signal_ratio, statistics.median(each.signal_ratio for each in late)]
    runaway = not all(each < _RUNAWAY * totals[0] for each in totals)
    found = {
        "GC101": min(gradient) < _LOW,
        "GC102": max(gradient) > _HIGH or runaway,
        "GC203": min(signal) < _LOW,
    }
    return frozenset(code for code, is_so in found.items() if is_so)


def gains(case: Case, seed: int) -> dict[str, float]:
    """Gains of the hidden weight layers at initialisation, in execution order."""
    net = _Net(case, seed)
    if not net.is_known:
        return {}
    gradients = net.flow(next(case.task.batches(case.batch_size, seed))).gradients
    hidden = list(gradients)[:-1]
    return {
        name: gradients[name] / gradients[behind] if gradients[behind] else math.nan
        for name, behind in itertools.pairwise(hidden)
    }


@dataclass(frozen=True, slots=True)
class _Flow:
    """||dL/dy|| of each weight layer, the output layer last; and the ratios from end to end."""

    gradients: dict[str, float]
    gradient_ratio: float
    signal_ratio: float


class _Net:
    """The net of a case in float64, with what its weight layers return."""

    def __init__(self, case: Case, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = case.build().double()
        self._criterion = case.task.criterion()
        self._outputs: dict[str, Tensor] = {}
        for name, module in self.model.named_modules():
            if isinstance(module, _WEIGHTS):
                module.register_forward_hook(self._keep(name))

    @property
    def is_known(self) -> bool:
        """Whether the layers are called once, in one line."""
        other = (nn.RNNBase, nn.MultiheadAttention)
        return not any(isinstance(each, other) for each in self.model.modules())

    def flow(self, batch: tuple[Tensor, Tensor]) -> _Flow:
        """Without touching the gradients of parameters."""
        outputs = self._outputs
        loss = self._loss(batch)
        found = torch.autograd.grad(
            loss, list(outputs.values()), allow_unused=True, materialize_grads=True
        )
        gradients = {name: float(each.norm()) for name, each in zip(outputs, found, strict=True)}
        names = list(gradients)
        # A path leads around every hidden layer of a residual net.
        around = any(isinstance(each, Residual) for each in self.model.modules())
        first, last = names[0], names[-1 if around or len(names) == 1 else -2]
        return _Flow(
            gradients,
            gradients[first] / gradients[last] if gradients[last] else math.nan,
            _spread(outputs[last]) / max(_spread(outputs[first]), math.ulp(0)),
        )

    def backward(self, batch: tuple[Tensor, Tensor]) -> float:
        """Leaves gradients on the parameters; returns their norm."""
        self.model.zero_grad()
        self._loss(batch).backward()  # type: ignore[no-untyped-call]
        found = [each.grad for each in self.model.parameters() if each.grad is not None]
        return math.hypot(*(float(each.norm()) for each in found))

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        targets = targets.double() if targets.is_floating_point() else targets
        self._outputs.clear()
        loss: Tensor = self._criterion(self.model(inputs.double()), targets)
        return loss

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs
            self._outputs[name] = output

        return hook


def _spread(values: Tensor) -> float:
    """Root mean square of the deviations within a batch."""
    return float(values.detach().std(dim=0).square().mean().sqrt())
