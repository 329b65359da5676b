"""What every treatment is: a key, what it does, and a change to a copy of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradcheckup.probe.safekeeping import RandomStates, replay
from gradcheckup.treatments.editing.anatomy import Anatomy
from gradcheckup.treatments.mechanisms.stages import Stages


@dataclass(slots=True, kw_only=True)
class Patient:
    """A copy of the user's model, for one treatment to change in place.

    Attributes:
        model: The copy.
        anatomy: Of the model as it is before the treatment.
        optimizer: Bound to the copy; None where none was given.
        loss: Runs a model on a batch and reduces its outputs to a scalar.
    """

    model: nn.Module
    anatomy: Anatomy
    optimizer: Optimizer | None
    loss: Callable[[nn.Module], Any]

    def run(self) -> None:
        """Runs the model on the batch; buffers and random numbers are as before afterwards."""
        with replay(RandomStates(), self.model):
            self.loss(self.model)


@dataclass(frozen=True, slots=True)
class Change:
    """One kind of change, as evidence for a report.

    Attributes:
        what: What was done, in words that the names of layers follow: ``BatchNorm1d behind``.
        layers: Names of the layers it was done to; empty where it is none of a layer.
    """

    what: str
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a treatment did.

    Attributes:
        changes: What was changed.
        snippet: The change to make in the user's own code, where the model is called `model` and
            the optimizer `optimizer`.
        optimizer: In place of the patient's; None to keep that one.
        stages: In which the model is to be trained; None for ordinary training.
    """

    changes: tuple[Change, ...]
    snippet: str
    optimizer: Optimizer | None = None
    stages: Stages | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """One way to make a network learn.

    Attributes:
        key: Stable name, `skip_connection`.
        summary: What it does, in one sentence.
        source: The paper or the tutorial it is from.
        variants: What each variant does, by name; the first one is the default.
        options: Numbers above 0 that the variants take, with their defaults; whole ones where the
            default is an int.
        only: Variants that take an option, by its name, where not all of them do.
        limits: Where it does not apply, and what it does not do.
        acts_on: `flow` where the gradient flows otherwise from the first step on, `updates` where
            what the optimizer makes of it changes, `training` where the order of training does.
        apply: Changes the patient: `(patient, variant, options) -> Effect`. Raises TreatmentError
            where it does not apply.
    """

    key: str
    summary: str
    source: str
    variants: Mapping[str, str]
    options: Mapping[str, float] = field(default_factory=dict)
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limits: str
    acts_on: str
    apply: Callable[[Patient, str, Mapping[str, float]], Effect]

    def options_of(self, variant: str) -> dict[str, float]:
        """The options that a variant takes, with their defaults."""
        return {
            name: default
            for name, default in self.options.items()
            if variant in self.only.get(name, self.variants)
        }
