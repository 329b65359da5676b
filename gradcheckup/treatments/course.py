"""Applies treatments, one after the other, to a copy of a model and its optimizer."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradcheckup.activations import of_module
from gradcheckup.errors import GradcheckupError, ModelError, TreatmentError, UsageError
from gradcheckup.probe.safekeeping import copied, random_state
from gradcheckup.probe.subject import (
    OptimizerSource,
    build_optimizer,
    check_bound,
    parameters_of,
    unwrap,
)
from gradcheckup.suggestions import did_you_mean
from gradcheckup.tracebacks import one_line, user_traceback
from gradcheckup.treatments import TREATMENTS
from gradcheckup.treatments.editing.anatomy import Anatomy, examine
from gradcheckup.treatments.editing.running import called
from gradcheckup.treatments.mechanisms.optimizers import follow
from gradcheckup.treatments.mechanisms.stages import Plan
from gradcheckup.treatments.treatment import Change, Effect, Patient, Treatment


@dataclass(frozen=True, slots=True, kw_only=True)
class Dose:
    """One treatment as it is to be applied.

    Attributes:
        treatment: What.
        variant: Which variant of it.
        options: All its numbers.
    """

    treatment: Treatment
    variant: str
    options: Mapping[str, float]

    def __str__(self) -> str:
        default = next(iter(self.treatment.variants))
        key = self.treatment.key
        return key if self.variant == default else f"{key}:{self.variant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Treated:
    """A treated copy of a model, ready to be trained.

    Attributes:
        treatments: What was applied, in order: ``("normalization", "activation:gelu")``.
        model: The copy; the original stays as it is.
        optimizer: Bound to the copy. None where none was given and none is part of the treatment.
        changes: What was changed, where.
        snippet: The change to make in one's own code.
        plan: In which stages to train it; None where it is trained as any model is.
    """

    treatments: tuple[str, ...]
    model: nn.Module
    optimizer: Optimizer | None
    changes: tuple[Change, ...]
    snippet: str
    plan: Plan | None = None

    def copy(self) -> Treated:
        """Another one in the same state, to be trained in its place."""
        memo: dict[int, Any] = {}
        model = copy.deepcopy(self.model, memo)
        optimizer = copied(self.optimizer, memo) if self.optimizer else None
        plan = copy.deepcopy(self.plan, memo)
        return replace(self, model=model, optimizer=optimizer, plan=plan)


def parse(text: str, given: Mapping[str, float] | None = None) -> tuple[Dose, ...]:
    """``"normalization + activation:gelu"`` as what to apply in turn.

    Args:
        text: Keys, each with or without a variant, joined by ``+``.
        given: Options in place of defaults; each has to be one of a treatment in the text.

    Raises:
        UsageError: There is no such treatment, variant or option.
    """
    value: Any = text
    if not isinstance(value, str):
        raise UsageError(
            f"expected the name of a treatment, as {TREATMENTS[0].key!r}, "
            f"got {type(value).__name__}"
        )
    doses = tuple(_dose(part, given or {}) for part in text.split("+"))
    for index, dose in enumerate(doses):
        if dose in doses[:index]:
            raise UsageError(f"expected different treatments, got {dose} twice")
    for option in given or {}:
        _check_option(text, option, doses)
    return doses


def _check_option(text: str, option: str, doses: tuple[Dose, ...]) -> None:
    """Refuses an option that nothing in the text takes."""
    taken = [name for dose in doses for name in dose.treatment.options_of(dose.variant)]
    if option in taken:
        return
    for dose in doses:
        treatment = dose.treatment
        takers = [each for each in treatment.variants if option in treatment.options_of(each)]
        if takers:
            raise UsageError(f"{option} is an option of {treatment.key}:{takers[0]}, not of {dose}")
    if not taken:
        raise UsageError(f"{text} has no options, got {option!r}")
    hint = did_you_mean(option, taken) or f": expected one of {', '.join(taken)}"
    raise UsageError(f"{text} has no option {option!r}{hint}")


def _dose(text: str, given: Mapping[str, float]) -> Dose:
    key, colon, variant = (part.strip() for part in text.partition(":"))
    treatments = {each.key: each for each in TREATMENTS}
    if key not in treatments:
        hint = did_you_mean(key, treatments) or f": expected one of {', '.join(treatments)}"
        raise UsageError(f"unknown treatment {key!r}{hint}")
    treatment = treatments[key]
    if not colon:
        variant = next(iter(treatment.variants))
    if variant not in treatment.variants:
        known = ", ".join(treatment.variants)
        hint = did_you_mean(variant, treatment.variants) or f": expected one of {known}"
        raise UsageError(f"{key} has no variant {variant!r}{hint}")
    options = {
        name: _number(name, given[name], default) if name in given else default
        for name, default in treatment.options_of(variant).items()
    }
    return Dose(treatment=treatment, variant=variant, options=options)


def _number(name: str, value: Any, default: float) -> float:
    """An option of the kind of its default: all of them are sizes or counts."""
    whole = isinstance(default, int)
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not plain or not 0 < value <= sys.float_info.max or (whole and value != int(value)):
        raise UsageError(
            f"expected {name} to be a {'whole ' if whole else ''}number above 0, got {value!r}"
        )
    return int(value) if whole else float(value)


def administer(
    model: nn.Module,
    optimizer: OptimizerSource | None,
    doses: Iterable[Dose],
    loss: Callable[[nn.Module], Tensor],
    seed: int = 0,
) -> Treated:
    """Copies a model and its optimizer, and applies treatments to the copies.

    Args:
        model: Stays as it is.
        optimizer: Bound to the model, which stays as it is; a class, a partial or a function of
            the model to make one of; or None.
        doses: What to apply, in order.
        loss: Runs a model on a batch and reduces its outputs to a scalar.
        seed: Of the weights that are drawn.

    Raises:
        ModelError: The model does not run on the batch.
        TreatmentError: A treatment does not apply, or the model does not run with it.
        UsageError: The optimizer is none of the model's.
    """
    model = unwrap(model)
    memo: dict[int, Any] = {}
    bound = optimizer if isinstance(optimizer, Optimizer) else None
    try:
        twin = copy.deepcopy(model, memo)
        follower = copied(bound, memo) if bound else None
    except Exception as error:
        raise TreatmentError(
            f"the model cannot be deep-copied, so no treatment can be tried: {one_line(error)}",
            traceback_text=user_traceback(error),
        ) from error
    if follower is None and optimizer is not None:
        follower = build_optimizer(optimizer, twin)
    if follower is not None:
        check_bound(follower, twin)
    changes: list[Change] = []
    snippets: list[str] = []
    plan: Plan | None = None
    taken = tuple(doses)
    with random_state(seed):
        for dose in taken:
            if plan:
                raise TreatmentError(
                    f"{dose} does not apply: stages are planned for the model as it is then, so "
                    "name the treatment that plans them last"
                )
            patient = Patient(
                model=twin, anatomy=_examined(twin, loss, seed), optimizer=follower, loss=loss
            )
            ran = {twin.get_submodule(layer.name) for layer in patient.anatomy.layers}
            before = set(twin.modules())
            follower, effect = _apply(patient, dose)
            plan = Plan(effect.stages) if effect.stages else None
            wanted = {each for each in twin.modules() if each in ran or _has_to_run(each, before)}
            changes += effect.changes
            snippets.append(effect.snippet)
            _check(twin, loss, dose, wanted)
    return Treated(
        treatments=tuple(map(str, taken)),
        model=twin,
        optimizer=follower,
        changes=tuple(changes),
        snippet="\n".join(snippets),
        plan=plan,
    )


def _examined(model: nn.Module, loss: Callable[[nn.Module], Tensor], seed: int) -> Anatomy:
    try:
        return examine(model, loss, seed)
    except GradcheckupError:
        raise
    except Exception as error:
        raise ModelError(
            f"the forward pass on the batch failed: {one_line(error)}",
            traceback_text=user_traceback(error),
        ) from error


def _apply(patient: Patient, dose: Dose) -> tuple[Optimizer | None, Effect]:
    """Applies one treatment, and has the optimizer follow."""
    held = parameters_of(patient.optimizer) if patient.optimizer else ()
    tensors = [*patient.model.parameters(), *held]
    before = {tensor: tensor.detach().clone() for tensor in tensors}
    names = dict(patient.model.named_parameters())
    try:
        effect = dose.treatment.apply(patient, dose.variant, dose.options)
    except TreatmentError as error:
        raise TreatmentError(f"{dose} does not apply: {error}") from error
    except Exception as error:
        raise TreatmentError(
            f"{dose} does not apply: the model cannot be changed so: {one_line(error)}",
            traceback_text=user_traceback(error),
        ) from error
    optimizer = effect.optimizer or patient.optimizer
    if optimizer:
        follow(optimizer, patient.model, before, names)
    return optimizer, effect


def _has_to_run(module: nn.Module, before: Container[nn.Module]) -> bool:
    """Whether a module is new and has to run: no container, and no activation."""
    return module not in before and not any(module.children()) and of_module(module) is None


def _check(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], dose: Dose, wanted: Container[nn.Module]
) -> None:
    """Refuses a treatment that the model does not survive, or passes by.

    Args:
        model: The treated model.
        loss: Runs it.
        dose: The treatment.
        wanted: Modules that have to run.
    """
    try:
        with torch.enable_grad():
            # Checkpoints run parts of it again in the backward pass.
            ran = called(model, lambda twin: loss(twin).backward())  # type: ignore[no-untyped-call]
            # In eval mode some models read the weights of layers that they call in training.
            loss(copy.deepcopy(model).eval())
    except Exception as error:
        raise TreatmentError(
            f"{dose} does not apply: the model does not run with it: {one_line(error)}",
            traceback_text=user_traceback(error),
        ) from error
    names = [name for name, module in model.named_modules() if module in wanted]
    idle = [name for name in names if name not in ran]
    if idle:
        raise TreatmentError(
            f"{dose} does not apply: forward does not call {idle[0]} then; it tells "
            "layers by their class, or calls them from a list of its own"
        )
