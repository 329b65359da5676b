"""A few real training steps on a copy, measured: from a model and its batches to a `Recording`."""

from __future__ import annotations

import difflib
import inspect
import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup import statistics
from gradcheckup.batches import moved
from gradcheckup.capture import Capture, Measured, to_host
from gradcheckup.errors import GradcheckupError, ModelError
from gradcheckup.objective import Objective
from gradcheckup.records import (
    LayerRecord,
    ParameterRecord,
    Recording,
    Role,
    Step,
    first_layer,
)
from gradcheckup.subject import Subject
from gradcheckup.thresholds import Thresholds

OnStep = Callable[[int, int], None]
"""Called with the number of finished steps and of all steps."""


def probe(
    subject: Subject,
    objective: Objective,
    batches: Sequence[Any],
    *,
    steps: int,
    thresholds: Thresholds,
    on_step: OnStep | None = None,
) -> Recording:
    """Trains the subject for some steps and measures each; ends early once the loss is not finite.

    Raises:
        ModelError: The forward, the backward or the update failed.
        LossError: The loss is not a scalar that requires grad.
    """
    capture = Capture(subject.model, subject.names, thresholds.saturation_slope)
    ledger = _Ledger(subject)
    measured: list[Step] = []
    with _eager():
        for index in range(steps):
            batch = moved(batches[index % len(batches)], ledger.device)
            step = _step(index, subject, objective, batch, capture, ledger)
            measured.append(step)
            if on_step:
                on_step(index + 1, steps)
            if not math.isfinite(step.loss):
                break
    return Recording(
        model=type(subject.model).__name__,
        optimizer=subject.described,
        steps=tuple(measured),
        never_called=tuple(
            name
            for name, module in subject.names.items()
            if name not in capture.called and any(True for _ in module.parameters(recurse=False))
        ),
    )


def _step(
    index: int,
    subject: Subject,
    objective: Objective,
    batch: Any,
    capture: Capture,
    ledger: _Ledger,
) -> Step:
    subject.optimizer.zero_grad()
    ledger.begin()
    losses: list[Tensor] = []

    def evaluate() -> Tensor:
        with _blamed(capture, "forward"):
            loss = objective.loss(subject.model, batch)
        with capture.differentiate(loss), _blamed(capture, "backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        return loss

    def again() -> Tensor:
        with capture.paused():
            subject.optimizer.zero_grad()
            return evaluate()

    with capture.step():
        evaluate()
    layers = capture.measured()
    ledger.gradients()
    with _blamed(capture, "optimizer step"):
        if _needs_closure(subject.optimizer):
            subject.optimizer.step(again)
        else:
            subject.optimizer.step()
    parameters = ledger.end()
    return _assembled(index, float(losses[0]), layers, parameters)


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def _eager() -> Any:
    """Runs compiled parts of the model in eager mode, where hooks see them (torch >= 2.6)."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    return set_stance("force_eager") if set_stance else nullcontext()


@contextmanager
def _blamed(capture: Capture, phase: str) -> Iterator[None]:
    """Adds to an error of the user's code where in the model it arose and what had run."""
    try:
        yield
    except GradcheckupError:
        raise
    except Exception as error:
        place = ""
        if phase == "forward" and capture.running:
            name, module = capture.running[-1]
            place = f" in {name} ({type(module).__name__})"
        ran = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in capture.ran[-4:])
        before = f"; layers that ran, with their input shapes: {ran}" if ran else ""
        if phase != "forward":
            before = ""
        message = str(error).strip().splitlines()
        raise ModelError(
            f"the {phase} failed{place}: {type(error).__name__}: "
            f"{message[0] if message else 'no message'}{before}",
            traceback_text=_users_frames(error),
        ) from error


def _users_frames(error: Exception) -> str:
    """The traceback without frames of gradcheckup and torch."""
    inner = (str(torch.__path__[0]), __file__.rpartition("probe.py")[0])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(inner)
    ]
    return "".join(traceback.format_list(frames)).rstrip()


class _Ledger:
    """Numbers of the parameters around one step. One copy of the updated weights is held."""

    def __init__(self, subject: Subject) -> None:
        self.rates = subject.rates
        self.parameters = list(subject.model.named_parameters())
        self.device = self.parameters[0][1].device
        clean = {id(module): name for name, module in subject.names.items()}
        self.layers: dict[int, tuple[str, str]] = {}
        for module in subject.model.modules():
            owner = clean.get(id(module), "")
            root = module is subject.model
            for local, parameter in module.named_parameters(recurse=False):
                full = local if root else f"{owner}.{local}"
                self.layers.setdefault(id(parameter), (owner, full))
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
        scalars: list[Tensor] = []

        def keep(value: Tensor | None) -> int | None:
            if value is None:
                return None
            scalars.append(value)
            return len(scalars) - 1

        slots = []
        for _, parameter in self.parameters:
            key = id(parameter)
            before = self._before.get(key)
            change = statistics.norm(parameter.detach() - before) if before is not None else None
            slots.append(
                (
                    keep(self._carried.get(key)),
                    keep(self._gradients.get(key)),
                    keep(self._spreads.get(key)),
                    keep(statistics.norm(parameter if before is None else before)),
                    keep(change),
                )
            )
        numbers = to_host(scalars)

        def number(slot: int | None) -> float | None:
            return None if slot is None else numbers[slot]

        return [
            ParameterRecord(
                name=self.layers[id(parameter)][1],
                layer=self.layers[id(parameter)][0],
                shape=tuple(parameter.shape),
                trainable=parameter.requires_grad,
                learning_rate=self.rates.get(id(parameter)),
                carried_norm=number(carried),
                gradient_norm=number(gradient),
                row_spread=number(spread),
                weight_norm=number(weight),
                update_norm=number(change),
            )
            for (_, parameter), (carried, gradient, spread, weight, change) in zip(
                self.parameters, slots, strict=True
            )
        ]


# -- from raw numbers to records -----------------------------------------------------------------


def _assembled(
    index: int, loss: float, measured: list[Measured], parameters: list[ParameterRecord]
) -> Step:
    updates = _layer_updates(parameters)
    layers = [
        LayerRecord(
            name=each.name,
            call=each.call,
            kind=each.kind,
            role=each.role,
            functional=each.functional,
            shape=each.shape,
            output=each.place.output,
            bottleneck=each.place.bottleneck,
            gate=each.place.gate,
            gradient_norm=each.gradient_norm,
            signal=each.signal,
            saturation=each.saturation,
            dead_fraction=each.dead_fraction,
            update_ratio=updates.get(each.name),
            finite=_finite(each),
        )
        for each in measured
    ]
    reference = _reference(layers)
    first = first_layer(layers)
    related = [
        replace(
            layer,
            gradient_ratio=_ratio(
                layer.gradient_norm, reference.gradient_norm if reference else None
            ),
            signal_ratio=_ratio(layer.signal, first.signal if first else None),
            gain=_ratio(layer.gradient_norm, _next_norm(layers, position)),
        )
        for position, layer in enumerate(layers)
    ]
    return Step(
        index=index,
        loss=loss,
        layers=tuple(related),
        parameters=tuple(parameters),
        reference=reference.key if reference else None,
    )


def _finite(measured: Measured) -> bool | None:
    value = measured.signal if measured.signal is not None else measured.peak
    return None if value is None else math.isfinite(value)


def _ratio(value: float | None, base: float | None) -> float | None:
    if value is None or not base:
        return None
    return value / base


def _next_norm(layers: Sequence[LayerRecord], position: int) -> float | None:
    """Gradient norm of the next layer of the same role: like is compared with like."""
    later = (each for each in layers[position + 1 :] if each.role is layers[position].role)
    return next((each.gradient_norm for each in later if each.gradient_norm is not None), None)


def _layer_updates(parameters: Sequence[ParameterRecord]) -> dict[str, float]:
    """Update ratio over all updated parameters of each layer."""
    squares: dict[str, tuple[float, float]] = {}
    for each in parameters:
        if each.trainable and each.update_norm is not None and each.weight_norm is not None:
            change, weight = squares.get(each.layer, (0.0, 0.0))
            squares[each.layer] = (
                math.hypot(change, each.update_norm),
                math.hypot(weight, each.weight_norm),
            )
    return {layer: change / weight for layer, (change, weight) in squares.items() if weight > 0}


def _reference(layers: Sequence[LayerRecord]) -> LayerRecord | None:
    """The last hidden weight layer, where every path to the loss passes through it.

    In a residual net its gradient says nothing about the path around it, so the output layer
    stands in. Without a graph to tell, it is taken to be the last hidden weight layer.
    """
    reached = [
        layer
        for layer in layers
        if layer.gradient_norm is not None and layer.role is not Role.CONTAINER
    ]
    weights = [layer for layer in reached if layer.role is Role.WEIGHT]
    if not weights:
        return next(iter(reached), None)
    if not any(layer.output for layer in weights):
        return weights[-2] if len(weights) > 1 else weights[0]
    outputs = [layer for layer in weights if layer.output]
    hidden = [layer for layer in weights if not layer.output]
    if not hidden:
        return weights[0]
    return outputs[-1] if hidden[-1].bottleneck is False else hidden[-1]


# -- what the original model says ----------------------------------------------------------------


def misspelt_flags(model: nn.Module) -> tuple[str, ...]:
    """Attributes that were meant to be `requires_grad` and are silently ignored by torch.

    `p.require_grad = False` sets a new attribute of the parameter; `layer.requires_grad = False`
    one of the module, where `requires_grad_()` is a method that does the work.
    """
    found = []
    for name, parameter in model.named_parameters():
        found += [
            f"{name}.{attribute}"
            for attribute in vars(parameter)
            if attribute != "requires_grad" and _like_requires_grad(attribute)
        ]
    for name, module in model.named_modules():
        found += [
            f"{name}.{attribute}".lstrip(".")
            for attribute, value in vars(module).items()
            if isinstance(value, bool) and _like_requires_grad(attribute)
        ]
    return tuple(found)


def _like_requires_grad(attribute: str) -> bool:
    plain = attribute.lower().replace("_", "")
    return difflib.SequenceMatcher(None, plain, "requiresgrad").ratio() > 0.85  # noqa: PLR2004
