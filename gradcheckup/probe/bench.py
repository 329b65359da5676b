"""What the steps of a probe are made with, and what is found out between them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup.capture import (
    Capture,
    class_name,
    eager,
    respond,
    telling,
    unexplained,
    without_effect,
)
from gradcheckup.capture.readings import Measured
from gradcheckup.errors import GradcheckupError, LossError, ModelError
from gradcheckup.probe.batches import copied
from gradcheckup.probe.flags import unregistered
from gradcheckup.probe.ledger import Ledger
from gradcheckup.probe.mixing import remixed
from gradcheckup.probe.objective import Objective
from gradcheckup.probe.precision import Gradients, differentiate, gradients_lost, scale_for
from gradcheckup.probe.profile import assemble
from gradcheckup.probe.safekeeping import RandomStates, replay
from gradcheckup.probe.slope import accounted
from gradcheckup.probe.subject import Subject, rate_share
from gradcheckup.records import ParameterRecord, Recording, Response, Step
from gradcheckup.tracebacks import one_line, user_traceback

_FADED = 1e-3
_SAME = 1e-4
"""By how much of it a loss may differ where samples are added up in another order."""


def never_called(
    names: Mapping[str, nn.Module], called: Collection[str], steps: Sequence[Step]
) -> tuple[str, ...]:
    """Modules whose parameters nothing used; attention uses those of its out_proj uncalled.

    Args:
        names: All modules by name.
        called: Names of those that ran.
        steps: What was measured.
    """
    used = {
        each.layer for step in steps for each in step.parameters if each.gradient_norm is not None
    }
    return tuple(
        name
        for name, module in names.items()
        if name not in called
        and name not in used
        and any(True for _ in module.parameters(recurse=False))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a step is made with."""

    subject: Subject
    objective: Objective
    capture: Capture
    ledger: Ledger

    def recording(self, steps: Sequence[Step], batches: Sequence[Any]) -> Recording:
        """What is known after some steps; a step that follows is none the wiser."""
        with replay(RandomStates(), self.subject.model):
            return self._recording(steps, batches)

    def _recording(self, steps: Sequence[Step], batches: Sequence[Any]) -> Recording:
        return Recording(
            model=class_name(self.subject.model),
            optimizer=self.subject.described,
            objective=self.objective.source,
            steps=tuple(steps),
            batches=min(len(batches), len(steps)),
            never_called=never_called(self.subject.names, self.capture.called, steps),
            without_effect=self.without_effect(batches[0], steps),
            telling=self.telling(batches[0], steps),
            unexplained=self.unexplained(batches[0], steps),
            accounted=self.accounted(batches[0], steps),
            rate_share=rate_share(self.subject.optimizer),
            unregistered=unregistered(self.subject.model, self.capture.foreign),
        )

    def step(self, index: int, batch: Any, *, settled: bool) -> Step:
        """One optimizer step, as users write it, between measurements."""
        optimizer, capture = self.subject.optimizer, self.capture
        given, states = batch, RandomStates() if settled else None
        batch = copied(given, self.ledger.device)
        optimizer.zero_grad()
        self.ledger.begin()
        losses: list[Tensor] = []

        def closure() -> Tensor:
            if losses:  # a line search evaluates again; the first time is the one measured
                with capture.paused():
                    optimizer.zero_grad()
                    return self._evaluate(batch)
            loss = self._evaluate(batch)
            self.ledger.gradients()
            losses.append(loss.detach())
            return loss

        line_search = _needs_closure(optimizer)
        with capture.step():
            if line_search:
                with _blamed(capture, "optimizer step"):
                    optimizer.step(closure)  # type: ignore[arg-type] # a loss may be a tensor
            else:
                closure()
        layers = capture.measured()
        if not line_search:
            with _blamed(capture, "optimizer step"):
                optimizer.step()
        parameters = self.ledger.end()
        if states is not None:
            parameters = self._with_losses(parameters, layers, given, states)
        return assemble(index, float(losses[0]), layers, parameters, self._response(given, states))

    def train(self, batch: Any) -> float:
        """One optimizer step, unmeasured; its loss before the update."""
        optimizer = self.subject.optimizer
        batch = copied(batch, self.ledger.device)
        losses: list[Tensor] = []

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.objective.loss(self.subject.model, batch)
            with self.capture.sparing(loss):
                loss.backward()  # type: ignore[no-untyped-call] # torch's own gap
            losses.append(loss.detach())
            return loss

        with _blamed(self.capture, "training"):
            if _needs_closure(optimizer):
                optimizer.step(closure)  # type: ignore[arg-type] # a loss may be a tensor
            else:
                closure()
                optimizer.step()
        return float(losses[0])

    def _with_losses(
        self,
        parameters: list[ParameterRecord],
        layers: Sequence[Measured],
        batch: Any,
        states: RandomStates,
    ) -> list[ParameterRecord]:
        """What a 16-bit format rounds away from the gradients, where that may be much."""
        scale = scale_for(layers)
        if scale is None:
            return parameters
        model = self.subject.model

        def gradients(factor: float) -> Gradients:
            with replay(states, model):
                loss = self.objective.loss(model, copied(batch, self.ledger.device))
                return differentiate(loss, trained, factor)

        trained = [each for _, each in self.ledger.parameters if each.requires_grad]
        try:
            found = gradients_lost(gradients(1.0), gradients(scale), scale)
        except Exception:  # noqa: BLE001 - what cannot be differentiated twice: one measure less
            return parameters
        lost = {id(each): share for each, share in zip(trained, found, strict=True)}
        return [
            replace(record, gradient_lost=lost.get(id(each)))
            for record, (_, each) in zip(parameters, self.ledger.parameters, strict=True)
        ]

    def _response(self, batch: Any, states: RandomStates | None) -> Response | None:
        """What the update changed in the outputs on its own batch; None where it cannot be told."""
        outputs = self.capture.outputs()
        if not outputs or states is None:
            return None
        model, fresh = self.subject.model, copied(batch, self.ledger.device)
        try:
            with replay(states, model):
                return respond(
                    outputs, self.subject.names, lambda: self.objective.outputs(model, fresh)
                )
        except Exception:  # noqa: BLE001 - a model that counts its calls: one measure less
            return None

    def without_effect(self, batch: Any, steps: Sequence[Step]) -> tuple[str, ...]:
        """Layers without a gradient whose output the loss does not depend on either."""
        reached = {
            layer.name for step in steps for layer in step.layers if layer.gradient_norm is not None
        }
        trainable = {each.layer for each in steps[0].parameters if each.trainable}
        silent = [
            layer.name
            for layer in steps[0].layers
            if layer.name in trainable - reached and layer.name in self.subject.names
        ]
        if not silent or not math.isfinite(steps[-1].loss):
            return ()
        with _blamed(self.capture, "forward"), eager():
            return without_effect(
                dict.fromkeys(silent), self.subject.names, partial(self._loss, batch)
            )

    def telling(self, batch: Any, steps: Sequence[Step]) -> tuple[str, ...]:
        """Recurrent layers whose gradient fades through time, and whose states are of use."""
        fading = [
            layer.name
            for layer in steps[-1].layers
            if layer.time_profile and layer.time_profile[0] < _FADED * max(layer.time_profile)
        ]
        known = [name for name in dict.fromkeys(fading) if name in self.subject.names]
        if not known or not math.isfinite(steps[-1].loss):
            return ()
        with _blamed(self.capture, "forward"), eager():
            return telling(known, self.subject.names, partial(self._loss, batch))

    def unexplained(self, batch: Any, steps: Sequence[Step]) -> float | None:
        """How much of the loss is left, where weights stand still."""
        trained = [each for each in steps[-1].parameters if each.trainable and each.learning_rate]
        still = any(each.gradient_norm == 0 or each.update_norm == 0 for each in trained)
        if not still or not math.isfinite(steps[-1].loss):
            return None
        return self.ignorance(batch)

    def ignorance(self, *batches: Any) -> float | None:
        """How much of the loss on some batches is left, as a mean; see `Recording.unexplained`."""
        try:
            with eager():
                left = [unexplained(self.subject.model, partial(self._loss, b)) for b in batches]
        except Exception:  # noqa: BLE001 - outputs that cannot be exchanged: one measure less
            return None
        known = [each for each in left if each is not None]
        return fmean(known) if known else None

    def knows_samples(self, batch: Any) -> bool:
        """Whether the loss is the same whatever the order of what looks like samples.

        Of sequences whose first dimension is time it is not.
        """
        turned = remixed([batch], seed=0)
        if turned is None:
            return False
        try:
            with eager():
                return math.isclose(self._loss(batch), self._loss(turned[0]), rel_tol=_SAME)
        except Exception:  # noqa: BLE001 - a model that counts its calls: as if it were not
            return False

    def said(self, batches: Sequence[Any]) -> list[tuple[Any, Any]]:
        """What the loss of some batches is computed from, and their targets."""
        model, device = self.subject.model, self.ledger.device
        blamed, again = _blamed(self.capture, "forward"), replay(RandomStates(), model)
        with blamed, again, eager(), torch.no_grad():
            return [self.objective.scores(model, copied(each, device)) for each in batches]

    def accounted(self, batch: Any, steps: Sequence[Step]) -> float | None:
        """How much of what the outputs do to the user's own criterion its gradient accounts for."""
        if not math.isfinite(steps[-1].loss):
            return None
        model = self.subject.model
        try:
            with eager():
                found = self.objective.apart(model, copied(batch, self.ledger.device))
                return accounted(*found) if found else None
        except Exception:  # noqa: BLE001 - a criterion that counts its calls: one measure less
            return None

    def _loss(self, batch: Any) -> float:
        torch.manual_seed(0)  # the same dropout each time
        loss = self.objective.loss(self.subject.model, copied(batch, self.ledger.device))
        return float(loss.detach())

    def _evaluate(self, batch: Any) -> Tensor:
        """Forward and backward."""
        capture = self.capture
        with _blamed(capture, "forward"):
            loss = self.objective.loss(self.subject.model, batch)
        if not capture.called:
            raise LossError(
                "expected compute_loss(model, batch) to call the model it is given, but it did "
                "not: gradcheckup passes a copy, so that yours stays as it is"
            )
        with capture.differentiate(loss), _blamed(capture, "backward"):
            loss.backward()  # type: ignore[no-untyped-call] # torch's own gap
        return loss


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


@contextmanager
def _blamed(capture: Capture, phase: str) -> Iterator[None]:
    """Adds to an error of the user's code where in the model it arose and what had run."""
    try:
        yield
    except GradcheckupError:
        raise
    except Exception as error:
        raise ModelError(
            f"{_place(capture, phase)}: {one_line(error)}{_history(capture, phase)}",
            traceback_text=user_traceback(error),
        ) from error


def _place(capture: Capture, phase: str) -> str:
    if phase != "forward":
        return f"the {phase} failed"
    if not capture.running:
        return "the loss failed" if capture.ran else "the forward failed"
    name, module = capture.running[-1]
    return f"the forward failed in {name} ({type(module).__name__})"


def _history(capture: Capture, phase: str) -> str:
    if phase != "forward" or not capture.ran:
        return ""
    ran = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in capture.ran[-4:])
    return f"; layers that ran, with their input shapes: {ran}"
