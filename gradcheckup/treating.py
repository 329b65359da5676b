"""`treat`: a treated copy of a model, ready to be trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup.errors import LossError
from gradcheckup.nesting import tensors
from gradcheckup.probe import batches
from gradcheckup.probe.arguments import check_arguments
from gradcheckup.probe.objective import ComputeLoss, Criterion, Objective, own_loss
from gradcheckup.probe.subject import OptimizerSource, check_trainable, unwrap
from gradcheckup.targets.inference import infer_data
from gradcheckup.treatments.course import Treated, administer, parse


def treat(
    model: nn.Module,
    treatment: str,
    data: Any = None,
    criterion: Criterion | None = None,
    *,
    optimizer: OptimizerSource | None = None,
    compute_loss: ComputeLoss | None = None,
    seed: int = 0,
    **options: float,
) -> Treated:
    """Applies a treatment to a copy of a model; the original stays as it is.

    Frozen parameters keep their values. The copy trains, saves, deep-copies, pickles, compiles and
    exports as the original does. `torch.jit.script` takes it where modules were exchanged alone:
    not where a forward that calls functions was given other activations, nor where hooks lead
    around layers (`skip_connection:dense`, and `skip_connection` outside of `nn.Sequential`) or
    rescale gradients. Make the change of the snippet in your own code instead.

    Args:
        model: Any `nn.Module`.
        treatment: A key as `skip_connection`, with a variant as `activation:gelu`, or several of
            them to be applied in turn, as `activation + optimizer`. `gradcheckup treatments`
            lists them.
        data: A batch or an iterable of batches, of which one is run through the model to see what
            feeds what. Random inputs of a guessed shape when left out.
        criterion: `criterion(outputs, targets)`, for models whose layers depend on it.
        optimizer: An optimizer of the model's parameters, an optimizer class (or partial), or a
            function from the model to an optimizer: what to follow the treated model.
        compute_loss: `compute_loss(model, batch)`, for models that are not called with the inputs.
        seed: Of the weights that are drawn.
        options: Numbers in place of the treatment's own, as `std=10`.

    Returns:
        The treated copy and its optimizer.

    Raises:
        UsageError: There is no such treatment, variant or option, or an argument makes no sense.
        DataError: There is no usable batch.
        ModelError: The model has nothing to train, or does not run on the batch.
        LossError: There is no loss or output that a gradient could come from.
        TreatmentError: It does not apply to this model; the message says why.
        TargetError: No data was given and no inputs could be guessed.
    """
    check_arguments(model=model, criterion=criterion, compute_loss=compute_loss, seed=seed)
    doses = parse(treatment, options)
    model = unwrap(model)
    check_trainable(model)
    batch = _one_batch(model, data, seed)
    loss = copy.deepcopy(criterion) if isinstance(criterion, nn.Module) else criterion
    return administer(model, optimizer, doses, run(batch, Objective(loss, compute_loss)), seed)


def run(batch: Any, objective: Objective) -> Callable[[nn.Module], Tensor]:
    """What runs a model on a batch and reduces its outputs to a scalar.

    The loss, where there is one; the sum of the outputs otherwise, which leads to the same layers.
    """
    return partial(_reduced, batch, objective)


def _reduced(batch: Any, objective: Objective, model: nn.Module) -> Tensor:
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    given = batches.copied(batch, device)
    if objective.criterion is not None or objective.compute_loss is not None:
        return objective.loss(model, given)
    outputs = objective.outputs(model, given)
    own = own_loss(outputs)
    if isinstance(own, Tensor) and own.is_floating_point():
        outputs = own
    totals = [each.double().sum() for each in tensors(outputs) if each.is_floating_point()]
    if not totals:
        raise LossError("expected floating-point outputs, got none: give compute_loss")
    total = torch.stack(totals).sum()
    if torch.is_grad_enabled() and not total.requires_grad:
        raise LossError(
            "expected outputs that require grad, but they are cut off from every parameter: look "
            "for .detach(), .data, torch.no_grad() or a conversion to numpy in the model"
        )
    return total


def _one_batch(model: nn.Module, data: Any, seed: int) -> Any:
    if data is None:
        return infer_data(model, (), seed).data
    taken, _ = batches.take(data, 1)
    return taken[0]
