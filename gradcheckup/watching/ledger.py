"""The parameters' side of a watched step: gradients, and what the optimizer really did.

No copy of the model is held: the change of a large parameter is estimated from some of its
elements, spread evenly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradcheckup import statistics
from gradcheckup.capture.readings import Readings, Tray
from gradcheckup.probe.ledger import owners
from gradcheckup.records import ParameterRecord

_MOST = 4096


class Ledger:
    """Numbers of the parameters around one optimizer step."""

    def __init__(
        self, model: nn.Module, names: dict[str, nn.Module], optimizers: Sequence[Optimizer]
    ) -> None:
        self._parameters = list(model.named_parameters())
        self._owners = owners(model, names)
        self._optimizers = optimizers
        self._weights: dict[int, Tensor] = {}
        self._samples: dict[int, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}
        self._seen: dict[int, Tensor] = {}
        self._spreads: dict[int, Tensor | None] = {}

    def rates(self) -> dict[int, float]:
        """Learning rate now, by `id` of each parameter that an optimizer updates."""
        return {
            id(each): float(group.get("lr", 1.0))
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for each in group["params"]
        }

    def weights(self) -> None:
        """Before the update."""
        for numbers in (self._weights, self._samples, self._gradients, self._seen, self._spreads):
            numbers.clear()
        for _, parameter in self._parameters:
            key = id(parameter)
            self._weights[key] = statistics.norm(parameter)
            self._spreads[key] = statistics.row_spread(parameter)
            if parameter.requires_grad:
                self._samples[key] = _sample(parameter).clone()

    @property
    def has_gradients(self) -> bool:
        """Whether any was there when they were read."""
        return bool(self._gradients)

    def gradients(self) -> None:
        """After the backward pass."""
        for _, parameter in self._parameters:
            if parameter.grad is not None:
                self._gradients[id(parameter)] = statistics.norm(parameter.grad)
                self._seen[id(parameter)] = statistics.peak(_sample(parameter.grad))

    def put(self, tray: Tray) -> Callable[[Readings], list[ParameterRecord]]:
        """After the update: puts all on a tray; returns what makes numbers of it."""
        rates = self.rates()
        reads = [
            self._put(name, each, rates.get(id(each)), tray) for name, each in self._parameters
        ]
        return lambda readings: [read(readings) for read in reads]

    def _put(
        self, name: str, parameter: Tensor, rate: float | None, tray: Tray
    ) -> Callable[[Readings], ParameterRecord]:
        key = id(parameter)
        before = self._samples.get(key)
        weight, gradient = tray.put(self._weights.get(key)), tray.put(self._gradients.get(key))
        spread, seen = tray.put(self._spreads.get(key)), tray.put(self._seen.get(key))
        change = None
        share = 1.0
        if before is not None:
            after = _sample(parameter)
            change = tray.put(statistics.norm(after - before))
            share = after.numel() / max(1, parameter.numel())
        layer, full = self._owners.get(key, ("", name))
        shape, trainable = tuple(parameter.shape), parameter.requires_grad

        def read(readings: Readings) -> ParameterRecord:
            update = readings.get(change)
            if update == 0 and share < 1 and not readings.get(seen):
                update = None  # nothing was asked of these elements: it says nothing of the others
            return ParameterRecord(
                name=full,
                layer=layer,
                shape=shape,
                trainable=trainable,
                learning_rate=rate,
                gradient_norm=readings.get(gradient),
                weight_norm=readings.get(weight),
                update_norm=None if update is None else update / math.sqrt(share),
                row_spread=readings.get(spread),
            )

        return read


def _sample(tensor: Tensor) -> Tensor:
    """Up to 4096 elements; every k-th, where k is odd and so no divisor of common row lengths."""
    values: Any = statistics.flat_values(tensor).reshape(-1)
    if values.numel() <= _MOST:
        return values  # type: ignore[no-any-return]
    stride = values.numel() // _MOST | 1
    return values[::stride]  # type: ignore[no-any-return]
