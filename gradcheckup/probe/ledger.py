"""The parameters' side of a step: gradients, and what the optimizer really did."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gradcheckup import statistics
from gradcheckup.capture.readings import Tray
from gradcheckup.probe.subject import Subject
from gradcheckup.records import ParameterRecord


class Ledger:
    """Numbers of the parameters around one step. One copy of the updated weights is held."""

    def __init__(self, subject: Subject) -> None:
        self.rates = subject.rates
        self.parameters = list(subject.model.named_parameters())
        self.device = self.parameters[0][1].device
        self.layers = owners(subject.model, subject.names)
        self._carried: dict[int, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}
        self._spreads: dict[int, Tensor] = {}
        self._before: dict[int, Tensor] = {}

    def begin(self) -> None:
        """Before the forward: what `zero_grad` left behind, and the weights."""
        for numbers in (self._carried, self._gradients, self._spreads, self._before):
            numbers.clear()
        for _, parameter in self.parameters:
            if id(parameter) not in self.rates:
                parameter.grad = None
                continue
            if parameter.grad is not None:
                self._carried[id(parameter)] = statistics.norm(parameter.grad)
            if statistics.has_norm(parameter):
                self._before[id(parameter)] = parameter.detach().clone()

    def gradients(self) -> None:
        """After the backward."""
        for _, parameter in self.parameters:
            if parameter.grad is not None:
                self._gradients[id(parameter)] = statistics.norm(parameter.grad)
            spread = statistics.row_spread(parameter) if parameter.requires_grad else None
            if spread is not None:
                self._spreads[id(parameter)] = spread

    def end(self) -> list[ParameterRecord]:
        """After the update: everything as numbers, in one transfer."""
        tray = Tray()
        slots = []
        for _, parameter in self.parameters:
            key = id(parameter)
            before = self._before.get(key)
            change = statistics.norm(parameter.detach() - before) if before is not None else None
            weight = parameter.detach() if before is None else before
            slots.append(
                (
                    tray.put(self._carried.get(key)),
                    tray.put(self._gradients.get(key)),
                    tray.put(self._spreads.get(key)),
                    tray.put(statistics.norm(weight) if statistics.has_norm(weight) else None),
                    tray.put(change),
                )
            )
        readings = tray.carry()
        return [
            ParameterRecord(
                name=self.layers[id(parameter)][1],
                layer=self.layers[id(parameter)][0],
                shape=tuple(parameter.shape),
                trainable=parameter.requires_grad,
                learning_rate=self.rates.get(id(parameter)),
                carried_norm=readings.get(carried),
                gradient_norm=readings.get(gradient),
                row_spread=readings.get(spread),
                weight_norm=readings.get(weight),
                update_norm=readings.get(change),
            )
            for (_, parameter), (carried, gradient, spread, weight, change) in zip(
                self.parameters, slots, strict=True
            )
        ]


def owners(model: nn.Module, names: Mapping[str, nn.Module]) -> dict[int, tuple[str, str]]:
    """The module that owns each parameter and the parameter's own name, by `id` of it.

    Args:
        model: The root module.
        names: Its modules by the name they are reported under.
    """
    clean = {id(module): name for name, module in names.items()}
    found: dict[int, tuple[str, str]] = {}
    for module in model.modules():
        owner = clean.get(id(module), "")
        for local, parameter in module.named_parameters(recurse=False):
            full = local if module is model else f"{owner}.{local}"
            found.setdefault(id(parameter), (owner, full))
    return found
