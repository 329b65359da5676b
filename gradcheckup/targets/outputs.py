"""Random targets that fit a model's output, where the user gave none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup.errors import TargetError
from gradcheckup.probe.objective import main_output, own_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """What the targets are taken to be.

    Attributes:
        targets: Random targets; None where the model computes its own loss.
        described: The same in words, for the line of assumptions.
        criterion: A loss that only fits this output; None where it follows from the targets.
    """

    targets: Tensor | None
    described: str
    criterion: nn.Module | None = None


def guess_targets(
    model: nn.Module, inputs: Tensor, outputs: Any, generator: torch.Generator
) -> Guess:
    """Targets for these outputs of the model.

    Args:
        model: Whose last layer may tell probabilities from scores.
        inputs: What the model was given; an output of equal shape is a reconstruction.
        outputs: What it returned.
        generator: Where random targets come from.

    Raises:
        TargetError: The output is nothing that a loss can be guessed for.
    """
    if isinstance(own_loss(outputs), Tensor):
        return Guess(targets=None, described="the model returns its own loss")
    scores, _ = main_output(outputs)
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        came = f"{_plain(scores.dtype)} values" if isinstance(scores, Tensor) else "no tensor"
        raise TargetError(
            f"the model returns {came}, for which no loss can be guessed: "
            "give build_data() and criterion, or compute_loss(model, batch)"
        )
    shape = tuple(scores.shape)
    if shape == tuple(inputs.shape) and inputs.is_floating_point():
        return Guess(
            targets=inputs.to(scores.dtype),
            described="the inputs themselves as targets, since the output has their shape",
        )
    if scores.dim() == 0:
        return Guess(targets=None, described="the model's scalar output is its loss")
    classes_last = scores.dim() == 2 or (scores.dim() == 3 and not inputs.is_floating_point())
    classes = shape[-1] if classes_last else shape[1] if scores.dim() >= 4 else 1
    # A number for each token is a value, as is each pixel of an image that the model paints.
    values = shape == tuple(inputs.shape) or _paints(inputs, scores)
    if classes >= 2 and not values:
        places = shape[:-1] if classes_last else (shape[0], *shape[2:])
        return Guess(
            targets=torch.randint(classes, places, generator=generator),
            described=f"random labels of {classes} classes",
        )
    if _ends_in_sigmoid(model):
        return Guess(
            targets=torch.randint(2, shape, generator=generator).to(scores.dtype),
            described="random 0/1 targets with BCELoss, since the model ends in a sigmoid",
            criterion=nn.BCELoss(),
        )
    return Guess(
        targets=torch.randn(shape, generator=generator).to(scores.dtype),
        described=f"random normal targets {'x'.join(map(str, shape))}, taken as a regression",
    )


def _paints(inputs: Tensor, scores: Tensor) -> bool:
    """True for generators and super-resolution: more pixels out than in, or the same channels."""
    if scores.dim() < 4:
        return False
    if inputs.dim() != scores.dim() or inputs.shape[1] == scores.shape[1]:
        return True
    return scores[0, 0].numel() > inputs[0, 0].numel()


def _ends_in_sigmoid(model: nn.Module) -> bool:
    """True when the last leaf module is a sigmoid; those inside `forward` cannot be told."""
    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    return isinstance(leaves[-1], nn.Sigmoid)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
