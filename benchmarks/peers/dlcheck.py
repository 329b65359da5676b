"""The rules of DLCheck's health report, written anew from its formulas and defaults.

DLCheck (github.com/QEDan/DLCheck) is a Lightning callback that takes its checks from TFCheck and
DeepDiagnosis and prints a report after training; here the probe's eight steps are the one epoch.
Checks that never reach that report (initial variance, unchanged checksums, input ranges) are left
out: the first would call every bias that starts at zero a fault. So is that of saturation: the
report asks it only of layers whose zeros were counted, which are ReLUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.peers.opinion import Opinion, excess, worst
from benchmarks.peers.record import Moment, begin, moments

VANISHING_NORM, EXPLODING_NORM = 1e-7, 1e6
"""Limits of a parameter's gradient norm, of any one batch."""
SLOW_UPDATE, UNSTABLE_UPDATE = 1e-8, 10.0
"""Limits of lr * mean |g| / mean |W|, on average over batches."""
DEAD_SHARE = 0.95
"""Zeros among a ReLU's outputs."""


@dataclass(slots=True)
class _Watch:
    """What was seen so far."""

    batches: int = 0
    updates: dict[str, float] = field(default_factory=dict)
    zeros: dict[str, list[float]] = field(default_factory=dict)
    problems: dict[str, float] = field(default_factory=dict)

    def see(self, moment: Moment) -> None:
        """Reads the gradients of one step."""
        self.batches += 1
        rate = max(group["lr"] for group in moment.optimizer.param_groups)
        parameters = dict(moment.model.named_parameters())
        for name, gradient in moment.gradients().items():
            norm = float(gradient.norm())
            if not math.isfinite(norm):
                self._add("NaN gradients", 1000.0)
            elif norm == 0:
                self._add("zero gradients", 1000.0)
            else:
                self._add("exploding gradients", excess(norm, EXPLODING_NORM))
                self._add("vanishing gradients", excess(norm, VANISHING_NORM, above=False))
                size = float(parameters[name].detach().abs().mean())
                if size:
                    step = rate * float(gradient.abs().mean()) / size
                    self.updates[name] = self.updates.get(name, 0.0) + step

    def close(self) -> None:
        """Judges what is judged after an epoch."""
        for total in self.updates.values():
            self._add("slow learning", excess(total / self.batches, SLOW_UPDATE, above=False))
            self._add("unstable learning", excess(total / self.batches, UNSTABLE_UPDATE))
        for shares in self.zeros.values():
            self._add("dead activations", excess(sum(shares) / len(shares), DEAD_SHARE))

    def _add(self, problem: str, by: float) -> None:
        self.problems[problem] = max(by, self.problems.get(problem, -1000.0))


def judge(case: Case, seed: int) -> Opinion:
    """Applies the rules to the first steps of a training; any problem in its report is one.

    The score is the largest excess over its limits, in decades.
    """
    watch = _Watch()
    model, optimizer = begin(case, seed)
    with _watched(model, watch):
        for moment in moments(case, seed, model, optimizer):
            watch.see(moment)
    watch.close()
    found = [problem for problem, by in watch.problems.items() if by > 0]
    return Opinion(
        unhealthy=bool(found), score=worst(list(watch.problems.values())), findings=found
    )


@contextmanager
def _watched(model: nn.Module, watch: _Watch) -> Iterator[None]:
    """Sees ReLUs that are modules, while it is open."""

    def hook(name: str) -> Any:
        def seen(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs
            watch.zeros.setdefault(name, []).append(float((output == 0).float().mean()))

        return seen

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
