"""What the callbacks of trainers share: when to watch what, and the reports afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from typing_extensions import Self

from gradcheckup.errors import UsageError
from gradcheckup.probe.subject import parameters_of
from gradcheckup.report import Report
from gradcheckup.watching import Monitor, watch

_NOT_OPTIONS = {"model", "optimizer", "grad_scaler"}


class Watcher:
    """Watches what a trainer trains, while it does.

    Attributes:
        monitors: By the name of the part of the model that each watches; "" for all of it.
    """

    def __init__(self, every: int = 10, **options: Any) -> None:
        """Keeps the options for when the training begins.

        Args:
            every: One of how many optimizer steps is sampled.
            options: Others of `gradcheckup.watch`, such as `stop_on` or `log`.

        Raises:
            UsageError: There is no such option.
        """
        known = set(inspect.signature(watch).parameters) - _NOT_OPTIONS
        for name in options:
            if name not in known:
                raise UsageError(
                    f"expected an option of gradcheckup.watch, got {name!r}: known are "
                    + ", ".join(sorted(known))
                )
        self.monitors: dict[str, Monitor] = {}
        self._options = {"every": every, **options}

    def begin(self, model: nn.Module, optimizers: Iterable[Optimizer], grad_scaler: Any) -> None:
        """Watches the model, or each part of it that has an optimizer of its own."""
        self.close()
        parts = parts_of(model, list(optimizers))
        self.monitors = {
            name: watch(part, trained_by, grad_scaler=grad_scaler, **_named(self._options, name))
            for name, (part, trained_by) in parts.items()
        }

    def close(self) -> None:
        """Stops watching; where a training ended without telling, as by an exception."""
        for monitor in self.monitors.values():
            monitor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def report(self, part: str | None = None) -> Report:
        """The verdict on the training so far.

        Args:
            part: Which part of the model, where each has an optimizer of its own.

        Raises:
            UsageError: Nothing was trained yet, or it takes a part to choose, or there is no such.
        """
        if not self.monitors:
            raise UsageError("expected a training to report on, but none has begun")
        if part is None and len(self.monitors) == 1:
            (monitor,) = self.monitors.values()
        elif part in self.monitors:
            monitor = self.monitors[part]
        else:
            known = ", ".join(map(repr, self.monitors))
            raise UsageError(f"expected the part to report on to be one of {known}, got {part!r}")
        return monitor.report()

    def scalars(self, monitor: Monitor) -> dict[str, float]:
        """Those of a monitor, with the name of its part in front where there are several."""
        (part,) = (name for name, each in self.monitors.items() if each is monitor)
        return {
            f"gradcheckup/{part}/{name.removeprefix('gradcheckup/')}" if part else name: value
            for name, value in monitor.scalars().items()
        }


def parts_of(
    model: nn.Module, optimizers: list[Optimizer]
) -> dict[str, tuple[nn.Module, list[Optimizer]]]:
    """What to watch on its own: parts that have optimizers of their own, as in a GAN.

    Returns:
        The whole model with all optimizers under the name ""; or, where there are several and the
        parameters of each lie in a part of the model that no other optimizer has to do with, the
        part and the optimizer under the part's name.
    """
    homes = [_home(model, {id(each) for each in parameters_of(one)}) for one in optimizers]
    apart = len(optimizers) > 1 and all(
        not {id(each) for each in part.parameters()} & {id(each) for each in parameters_of(other)}
        for number, (_, part) in enumerate(homes)
        for index, other in enumerate(optimizers)
        if index != number
    )
    if not apart:
        return {"": (model, optimizers)}
    return {name: (part, [one]) for (name, part), one in zip(homes, optimizers, strict=True)}


def _home(model: nn.Module, wanted: set[int]) -> tuple[str, nn.Module]:
    """The smallest part of the model with all of these parameters."""
    found = "", model
    for name, module in model.named_modules():  # those inside come after what they are in
        if wanted <= {id(each) for each in module.parameters()}:
            found = name, module
    return found


def _named(options: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The options for one part of several, which has a log of its own."""
    log = options.get("log")
    if not part:
        return dict(options)
    own = {} if log is None else {"log": Path(log).with_stem(f"{Path(log).stem}-{part}")}
    return {**options, **own, "subject": options.get("subject") or part}
