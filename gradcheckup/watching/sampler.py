"""Reads single steps of a training loop: in full, as `diagnose` does, or at a glance."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradcheckup.capture import Capture, Glance, eager, scriptable
from gradcheckup.capture.pooling import Pooling
from gradcheckup.capture.readings import Measured, Readings, Tray
from gradcheckup.history import Sample
from gradcheckup.probe.profile import assemble
from gradcheckup.probe.subject import named_modules
from gradcheckup.records import Role, Step, over_calls
from gradcheckup.runs.trace import WINDOW, turns
from gradcheckup.watching.clock import innermost
from gradcheckup.watching.gradients import GradientSample
from gradcheckup.watching.ledger import Ledger
from gradcheckup.watching.look import Look
from gradcheckup.watching.processes import Processes, Told, of_glance, of_look
from gradcheckup.watching.scaling import Scale, left_to


class Sampler:
    """Looks at one optimizer step at a time.

    Attributes:
        capture: What full looks are made with.
        names: The modules by the name they are reported under, as of the last full look.
        apart: How often the processes saw different things and could make nothing of them.
        missed: How many looks ended without a pass since one was taken.
        skipped: Of the look that was taken, the updates that the gradient scaler left out.
        left_to_later: Of the last full look, the modules whose gradient came in a later backward
            pass of the step than the first, and so was not read.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        every: int,
        slope: float,
        scaler: Any,
        failed: Callable[[Exception], None],
        processes: Processes | None = None,
    ) -> None:
        """Prepares to look; registers nothing yet.

        Args:
            model: The root module.
            optimizers: Those that train it; empty for a loop without one.
            every: Of how many optimizer steps one is looked at.
            slope: `Thresholds.saturation_slope`.
            scaler: The gradient scaler, if it is known.
            failed: Told of an error of ours inside a forward or backward pass, which goes on.
            processes: Those that train the model together; None for one.
        """
        self._model, self._optimizers = model, [innermost(each) for each in optimizers]
        self._every, self._slope = every, slope
        self._failed, self._processes = failed, processes
        self._ledger = Ledger(model, optimizers)
        self._scale = Scale(scaler)
        self.names = named_modules(model)
        self.capture = self._capture()
        self._glance = Glance({})
        self._ends: tuple[str, ...] = ()
        self._gradients = GradientSample(_dense_parameters(model))
        self._size: Tensor | None = None
        self._gradient_norm: float | None = None
        self._look: Look | None = None
        self._own: list[nn.Parameter] = []
        self.apart = 0
        self.left_to_later: tuple[str, ...] = ()
        self._culprits: tuple[tuple[int, str], ...] = ()
        self._full = True
        self._looks = self._glances = 0
        self._last: Step | None = None
        self._rooted = False
        self.missed = self.skipped = 0
        self._due = self._scaler_came_late = False
        self._stepped: set[int] = set()
        self._unit: Tensor | None = None
        self._infinite: Tensor | None = None
        self._stance = ExitStack()
        # It is the mode of all of the process, and a monitor may be forgotten amid a look.
        weakref.finalize(self, self._stance.close).atexit = False

    def _capture(self) -> Capture:
        capture = Capture(self._model, self.names, self._slope, own=self._model.parameters())
        capture.failed = self._failed
        return capture

    @property
    def waiting(self) -> bool:
        """Whether hooks are set."""
        return self._look is not None

    @property
    def seen(self) -> bool:
        """Whether a backward pass has reached the model since they were set."""
        return self._look is not None and self._look.seen

    @property
    def due(self) -> bool:
        """Whether `take` has something to do at the end of this step.

        Other processes may have seen what this one did not, and wait for it.
        """
        return self._ready or (self.waiting and self._processes is not None)

    @property
    def _ready(self) -> bool:
        """Whether a pass was seen, and the update of it has been made."""
        return self.seen and self._due

    def open(self, *, full: bool) -> None:
        """Sets the hooks for the step that comes; the first look is always a full one."""
        self._full = full or self._last is None or self.missed > 0
        if self._full:
            self._refresh()
            if self._looks % (WINDOW // 2) == 0:  # as in the judged half of a probe
                self.capture.units.forget()
            self._looks += 1
        else:
            self._glance.turn = self._glances
            self._glances += 1
        self._look = Look(
            self._callable(),
            self.capture if self._full else self._glance,
            own=self._own if self._optimizers else (),
            scale=self._scale_now,
            failed=self._failed,
        )
        self._due = self._scaler_came_late = False
        self._stance.enter_context(eager())
        self._stance.enter_context(scriptable())
        self._look.open()
        if self._full and not self._optimizers:
            self._ledger.weights(self.names)

    def doubt(self) -> None:
        """Another model's optimizer has stepped, perhaps by a pass through this one."""
        if self._look is not None:
            self._look.doubt()

    def close(self) -> None:
        """Takes every hook away."""
        if self._look is not None:
            self._look.close()
            self._look = None
        self._ledger.forget()
        self._stance.close()

    def give_up(self) -> None:
        """The same where a forward pass may be running, which keeps the hooks that end it."""
        if self._look is not None:
            self._look.give_up()
        self._ledger.forget()
        self._stance.close()

    def before_update(self) -> None:
        """Reads what an update is going to change."""
        self._stepped.clear()
        if self._look is None:
            return
        self._due = self._look.updating = True
        self._size = self._gradients.norm() if self._look.seen else None
        self._scale.find()
        self._unit, self._infinite = left_to(self._optimizers)
        if self._look.seen and self._look.scale is None:
            self._look.scale = self._scale_now()
            self._scaler_came_late = self._look.scale is not None
        if self._full and self._optimizers:
            self._ledger.weights(self.names)
            if self._look.seen:  # else the optimizer evaluates a closure, and gradients come yet
                self._ledger.gradients(self._unit)

    def updated(self, number: int) -> None:
        """An update without a pass before it or in it is not the one that is waited for.

        Args:
            number: Of the optimizer that made it.
        """
        self._stepped.add(number)
        self._due = self._due and self.seen
        if self._look is not None:
            self._look.updating = self._due

    def miss(self) -> None:
        """Gives up the look: no pass came before the step was over."""
        self.missed += 1
        self.close()

    def take(self, index: int) -> Step | Sample | None:
        """Makes numbers of the step, in one transfer, and takes the hooks away.

        Args:
            index: Number of optimizer steps before this one.

        Returns:
            A full look, or a glance. None where the gradient scaler left out the update that the
            look was at, or the loop itself a batch of NaN; where several processes saw different
            things; and where none of them saw a backward pass, and the hooks stay.

        Raises:
            LeftAloneError: Another process has left, or does not come.
        """
        look = self._look
        if look is None:
            return None
        if self._full:
            self._ledger.gradients()  # those that came in a closure
        tray = Tray()
        loss, scale, scale_now = map(tray.put, (look.loss, look.scale, self._scale_now()))
        infinite, left = tray.put(self._infinite), tray.put(self._unit)
        size = tray.put(self._size, Pooling.SPREAD)
        if self._full:
            layers = self.capture.put(tray)
            parameters = self._ledger.put(tray, self._stepped)
            readings = self._carried(tray, lambda own: of_look(layers(own), own.get(loss)))
        else:
            names, norms = self._glance.names, self._glance.put(tray)
            readings = self._carried(tray, lambda own: of_glance(names, norms(own), own.get(loss)))
        self.skipped = 0
        if readings is None:
            return None
        self.missed = 0
        self.skipped = look.discarded if scale is not None else 0
        left_out = readings.get(scale) != readings.get(scale_now) or readings.get(infinite)
        # A scaler that was unknown when the gradients came may have left them out.
        if left_out or (self._scaler_came_late and not all(map(math.isfinite, readings))):
            self.skipped += 1
            return None
        unit = readings.get(scale) or 1.0
        value = readings.get(loss)
        mean = math.nan if value is None else value / unit
        self._gradient_norm = _over(readings.get(size), readings.get(left) or 1.0)
        if not self._full:
            seen = [_over(each, unit) for each in norms(readings)]
            return None if self._came_to_nothing(mean, seen) else self._sample(index, mean, seen)
        measured = [_unscaled(each, unit) for each in layers(readings)]
        if self._came_to_nothing(mean, [each.gradient_norm for each in measured]):
            return None
        self._rooted = look.rooted
        self._last = assemble(index, mean, measured, parameters(readings), None)
        self._glance = self._glance_at(self._last)
        self.left_to_later = _left_to_later(self._last) if look.further else ()
        return self._last

    def _glance_at(self, last: Step) -> Glance:
        """What reads again the gradients of the weight layers of a full look."""
        first, reference = last.first, last.reference
        self._ends = (first.name, reference[0]) if first and reference else ()
        layers = self._weights(last)
        glance = Glance(layers, self._ends, turns=turns(self._every, len(layers)))
        glance.failed = self._failed
        return glance

    def _came_to_nothing(self, loss: float, norms: Iterable[float | None]) -> bool:
        """Whether all that was seen is NaN or Inf, and the optimizer followed something else.

        So it is where a loop leaves out such batches by itself and only sets gradients to 0.
        """
        broken = not any(math.isfinite(each) for each in (loss, *norms) if each is not None)
        return broken and self._gradient_norm is not None and math.isfinite(self._gradient_norm)

    def _carried(self, tray: Tray, told: Callable[[Readings], Told]) -> Readings | None:
        """The numbers on a tray, of all processes; None where they did not all see the same."""
        if self._processes is None:
            self.close()
            return tray.carry()
        own, ready = tray.carry(), self._ready
        exchange = self._processes.exchange(
            told(own) if ready else Told(), own, tray.poolings, full=self._full
        )
        if exchange.seen:
            self.close()
            self._culprits = exchange.culprits
            self.apart += exchange.readings is None
        return exchange.readings

    def _callable(self) -> list[nn.Module]:
        """What the loop may call: the model, or parts of it."""
        root = [self._model]
        others = [each for each in self.names.values() if each is not self._model]
        # A glance needs no forward pass to be surrounded.
        return root + others if self._full and not self._rooted else root

    def _scale_now(self) -> Tensor | None:
        return self._scale.now(self._model)

    def _refresh(self) -> None:
        """Takes note of modules that were exchanged or added, and of what trains."""
        self._own = [each for each in self._model.parameters() if each.requires_grad]
        names = named_modules(self._model)
        if names != self.names:
            self.names, called = names, self.capture.called
            self._gradients = GradientSample(_dense_parameters(self._model))
            self.capture = self._capture()
            self.capture.called = called & names.keys()

    def _weights(self, step: Step) -> Mapping[str, nn.Module]:
        """The weight layers that are modules, in execution order."""
        return {
            layer.name: self.names[layer.name]
            for layer in step.layers
            if layer.role is Role.WEIGHT and not layer.functional and layer.name in self.names
        }

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that a glance reads."""
        return self._glance.names

    def summary(self, step: Step) -> Sample:
        """What a glance at the step of the last full look would have seen."""
        norms = [
            over_calls(layer.gradient_norm for layer in step.layers if layer.name == name)
            for name in self.layers
        ]
        return self._sample(step.index, step.loss, norms)

    def _sample(self, index: int, loss: float, norms: Sequence[float | None]) -> Sample:
        known = dict(zip(self._glance.names, norms, strict=True))
        ratio = None
        if self._ends:
            first, reference = map(known.get, self._ends)
            ratio = first / reference if first is not None and reference else None
        return Sample(
            index=index,
            loss=loss,
            norms=tuple(norms),
            gradient_norm=self._gradient_norm,
            end_to_end_ratio=ratio,
            culprits=self._culprits,
        )


def _left_to_later(step: Step) -> tuple[str, ...]:
    """Modules with a gradient at their weights and none at their output, nor around them."""
    read = {layer.name for layer in step.layers if layer.gradient_norm is not None}
    owners = [
        each.layer
        for each in step.parameters
        if each.gradient_norm is not None and len(each.shape) > 1
    ]
    return tuple(
        name
        for name in dict.fromkeys(owners)
        if name not in read and not any(name.startswith(f"{outer}.") for outer in read)
    )


def _unscaled(measured: Measured, unit: float) -> Measured:
    """A layer with the gradient of the loss before it was scaled."""
    return replace(
        measured,
        gradient_norm=_over(measured.gradient_norm, unit),
        time_profile=tuple(norm / unit for norm in measured.time_profile),
    )


def _dense_parameters(model: nn.Module) -> Iterable[nn.Parameter]:
    """Those but for the rows of embeddings, of which a batch reaches few."""
    for module in model.modules():
        if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            yield from module.parameters(recurse=False)


def _over(norm: float | None, unit: float) -> float | None:
    return None if norm is None else norm / unit
