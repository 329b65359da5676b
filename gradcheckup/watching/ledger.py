"""The parameters' side of a watched step: gradients, and what the optimizer really did.

No copy of the model is held: the change of a large parameter is estimated from some of its
elements, spread evenly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from gradcheckup import statistics
from gradcheckup.capture.pooling import Pooling
from gradcheckup.capture.readings import Readings, Tray
from gradcheckup.probe.ledger import owners
from gradcheckup.probe.subject import learning_rates, parameters_of
from gradcheckup.records import ParameterRecord
from gradcheckup.watching.sharding import own_part, shards

_MOST = 4096
_FEW = 32


class Ledger:
    """Numbers of the parameters around one optimizer step."""

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._model = model
        self._optimizers = optimizers
        self._pages: list[_Page] = []

    def weights(self, names: Mapping[str, nn.Module]) -> None:
        """Before the update.

        Args:
            names: The modules by the name they are reported under.
        """
        owned = owners(self._model, names)
        self._pages = [
            _Page(parameter, *owned[id(parameter)]) for parameter in self._model.parameters()
        ]

    def gradients(self, unit: Tensor | None = None) -> None:
        """After the backward pass, the first time that there are any.

        Args:
            unit: What the gradients are still multiplied with, if anything.
        """
        if all(page.gradient is None for page in self._pages):
            for page in self._pages:
                page.read(unit)

    def put(
        self, tray: Tray, stepped: Collection[int]
    ) -> Callable[[Readings], list[ParameterRecord]]:
        """After the update: puts all on a tray; returns what makes numbers of it.

        Nothing of the parameters is held any longer.

        Args:
            tray: For the numbers.
            stepped: Which of the optimizers made the update. Of the parameters that are only in
                others, which have their turn at another step, no update was measured.
        """
        rates = learning_rates(*self._optimizers)
        now, later = (
            {
                id(each)
                for number, optimizer in enumerate(self._optimizers)
                if (number in stepped) is has_stepped
                for each in parameters_of(optimizer)
            }
            for has_stepped in (True, False)
        )
        for page in self._pages:
            if id(page.parameter) in later - now:
                page.before = None
        reads = [page.put(rates.get(id(page.parameter)), tray) for page in self._pages]
        self._pages = []
        return lambda readings: [read(readings) for read in reads]

    def forget(self) -> None:
        """Holds nothing any longer."""
        self._pages = []


class _Page:
    """One parameter."""

    def __init__(self, parameter: Tensor, layer: str, name: str) -> None:
        self.parameter = parameter
        self.layer, self.name = layer, name
        self.shards = shards(parameter)
        self.weight: Tensor | None = None
        self.spread: Tensor | None = None
        self.before: Tensor | None = None
        self.gradient: Tensor | None = None
        self.seen: Tensor | None = None
        part = own_part(parameter)
        if statistics.has_norm(part):
            size = statistics.norm(part)
            self.weight = self._whole(size)
            # The rows of a shard are not all rows, whose mean it takes.
            self.spread = statistics.row_spread(part, size) if self.shards == 1 else None
            self.before = _sample(part).clone() if parameter.requires_grad else None

    def read(self, unit: Tensor | None) -> None:
        gradient = self.parameter.grad
        if gradient is not None:
            part = own_part(gradient)
            norm = self._whole(statistics.norm(part))
            self.gradient = norm if unit is None else norm / unit.to(norm.device)
            self.seen = statistics.peak(_sample(part))

    def _whole(self, norm: Tensor, share: float = 1.0) -> Tensor:
        """What the norm of a part says of the whole, on average over all parts."""
        return norm if self.shards == share else norm * math.sqrt(self.shards / share)

    def put(self, rate: float | None, tray: Tray) -> Callable[[Readings], ParameterRecord]:
        weight = tray.put(self.weight, Pooling.SPREAD)
        gradient = tray.put(self.gradient, Pooling.SPREAD)
        spread, seen = tray.put(self.spread), tray.put(self.seen)
        change = moved = None
        sampled = self.parameter.numel() > _MOST * self.shards
        if self.before is not None:
            part = own_part(self.parameter)
            difference = _sample(part) - self.before
            share = difference.numel() / part.numel() if part.numel() else 1.0
            change = tray.put(self._whole(statistics.norm(difference), share), Pooling.SPREAD)
            if sampled:
                moved = tray.put((difference != 0).sum() * self.shards)
        layer, name, shape = self.layer, self.name, tuple(self.parameter.shape)
        trainable = self.parameter.requires_grad

        def read(readings: Readings) -> ParameterRecord:
            update = readings.get(change)
            if sampled and not _tells(readings.get(moved), readings.get(seen)):
                update = None
            return ParameterRecord(
                name=name,
                layer=layer,
                shape=shape,
                trainable=trainable,
                learning_rate=rate,
                gradient_norm=readings.get(gradient),
                weight_norm=readings.get(weight),
                update_norm=update,
                row_spread=readings.get(spread),
            )

        return read


def _tells(moved: float | None, seen: float | None) -> bool:
    """Whether a sample of the elements says anything of the others.

    It does not where few of them moved, as in an embedding of which a step uses some rows; that
    none moved does, if a gradient asked them to.

    Args:
        moved: How many of them the update changed.
        seen: The largest gradient among them.
    """
    return bool(seen) if not moved else moved >= _FEW


def _sample(tensor: Tensor) -> Tensor:
    """Up to `_MOST` elements, spread evenly."""
    values = statistics.flat_values(tensor).reshape(-1)
    return values[:: statistics.spread_stride(values.numel(), _MOST)]
