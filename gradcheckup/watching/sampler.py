"""Reads single steps of a training loop: in full, as `diagnose` does, or at a glance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

from torch import Tensor, nn
from torch.optim import Optimizer

from gradcheckup.capture import Capture, Glance, eager
from gradcheckup.capture.readings import Tray
from gradcheckup.history import Sample
from gradcheckup.probe.profile import assemble
from gradcheckup.records import Role, Step
from gradcheckup.runs.trace import WINDOW
from gradcheckup.watching.ledger import Ledger
from gradcheckup.watching.look import Instrument, Look


class Sampler:
    """Looks at one optimizer step at a time.

    Attributes:
        capture: What full looks are made with.
    """

    def __init__(
        self,
        model: nn.Module,
        names: dict[str, nn.Module],
        optimizers: Sequence[Optimizer],
        *,
        slope: float,
        scale: Callable[[], Tensor | None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Prepares to look; registers nothing yet.

        Args:
            model: The root module.
            names: Its modules by the name they are reported under.
            optimizers: Those that train it; empty for a loop without one.
            slope: `Thresholds.saturation_slope`.
            scale: What the loss is multiplied with at the moment.
            failed: Told of an error of ours inside a forward or backward pass, which goes on.
        """
        self.capture = Capture(model, names, slope, own=model.parameters())
        self.capture.failed = failed
        self._glance = Glance({})
        self._model, self._names = model, names
        self._ledger = Ledger(model, names, optimizers)
        self._follows = bool(optimizers)
        self._scale, self._failed = scale, failed
        self._look: Look | None = None
        self._parts: list[nn.Module] = []
        self._full = True
        self._looks = 0
        self._last: Step | None = None
        self._attached = ExitStack()

    @property
    def waiting(self) -> bool:
        """Whether hooks are set."""
        return self._look is not None

    @property
    def seen(self) -> bool:
        """Whether a backward pass has reached the model since they were set."""
        return self._look is not None and self._look.seen

    def open(self, *, full: bool) -> None:
        """Sets the hooks for the step that comes; the first look is always a full one."""
        self._full = full or self._last is None
        parts: Iterable[nn.Module] = self._parts
        instrument: Instrument = self._glance
        if self._full:
            parts, instrument = self._names.values(), self.capture
            if self._looks % WINDOW == 0:
                self.capture.forget_units()
            self._looks += 1
        self._look = Look(self._model, parts, instrument, self._scale)
        self._attached.callback(self._look.close)
        self._attached.enter_context(eager())
        self._look.open()
        if self._full and not self._follows:
            self._ledger.weights()

    def close(self) -> None:
        """Takes every hook away."""
        self._attached.close()
        self._look = None

    def before_update(self) -> None:
        """Reads what an update is going to change."""
        if self._look is not None and self._full and self._follows:
            self._ledger.weights()
            if self._look.seen:  # else the optimizer evaluates a closure, and gradients come yet
                self._ledger.gradients()

    def take(self, index: int) -> Step | Sample | None:
        """Makes numbers of the step, in one transfer, and takes the hooks away.

        Args:
            index: Number of optimizer steps before this one.

        Returns:
            A full look, or a glance; None where the gradient scaler left out the update that the
            look was at.
        """
        look = self._look
        if look is None:
            return None
        if self._full and not self._ledger.has_gradients:  # they came in a closure
            self._ledger.gradients()
        tray = Tray()
        loss, scale, scale_now = map(tray.put, (look.loss, look.scale, self._scale()))
        if self._full:
            layers, parameters = self.capture.put(tray), self._ledger.put(tray)
        else:
            norms = self._glance.put(tray)
        self.close()
        readings = tray.carry()
        if readings.get(scale) != readings.get(scale_now):
            return None
        unit = readings.get(scale) or 1.0
        value = readings.get(loss)
        mean = math.nan if value is None else value / unit
        if not self._full:
            return self._sample(index, mean, [_over(each, unit) for each in norms(readings)])
        self._parts = list(dict.fromkeys(look.entered))
        self._last = assemble(index, mean, layers(readings), parameters(readings), None)
        self._glance = Glance(self._weights(self._last))
        self._glance.failed = self._failed
        return self._last

    def _weights(self, step: Step) -> Mapping[str, nn.Module]:
        """The weight layers that are modules, in execution order."""
        return {
            layer.name: self._names[layer.name]
            for layer in step.layers
            if layer.role is Role.WEIGHT and not layer.functional and layer.name in self._names
        }

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that a glance reads."""
        return self._glance.names

    def summary(self, step: Step) -> Sample:
        """What a glance at the step of the last full look would have seen."""
        norms = [
            [layer.gradient_norm for layer in step.layers if layer.name == name]
            for name in self.layers
        ]
        return self._sample(step.index, step.loss, list(map(_length, norms)))

    def _sample(self, index: int, loss: float, norms: Sequence[float | None]) -> Sample:
        last = self._last
        known = dict(zip(self._glance.names, norms, strict=True))
        ratio = None
        if last is not None and last.first is not None and last.reference is not None:
            first, reference = known.get(last.first.name), known.get(last.reference[0])
            ratio = first / reference if first is not None and reference else None
        return Sample(index=index, loss=loss, norms=tuple(norms), end_to_end_ratio=ratio)


def _over(norm: float | None, unit: float) -> float | None:
    return None if norm is None else norm / unit


def _length(norms: Sequence[float | None]) -> float | None:
    """Over all calls of a layer."""
    known = [norm for norm in norms if norm is not None]
    return math.hypot(*known) if known else None
