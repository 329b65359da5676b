"""From a batch to the loss: the user's criterion, the model's own loss, or an inferred one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gradcheckup.errors import LossError
from gradcheckup.nesting import tensors
from gradcheckup.probe import batches

Criterion = Callable[[Any, Any], Tensor]
ComputeLoss = Callable[[nn.Module, Any], Tensor]


@dataclass(slots=True)
class Objective:
    """Computes the loss of a model on a batch.

    Attributes:
        criterion: `criterion(outputs, targets)`; None to use the model's own or infer one.
        compute_loss: `compute_loss(model, batch)`, which goes before everything else.
        assumptions: What was inferred, filled at the first call.
    """

    criterion: Criterion | None = None
    compute_loss: ComputeLoss | None = None
    assumptions: dict[str, None] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Where the loss comes from: `compute_loss`, `criterion`, or the `model` (or inferred)."""
        if self.compute_loss is not None:
            return "compute_loss"
        return "criterion" if self.criterion is not None else "model"

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss, a scalar with a gradient.

        Raises:
            LossError: It is no scalar tensor, cannot be inferred, or does not require grad.
        """
        if self.compute_loss is not None:
            return _checked(self.compute_loss(model, batch), "compute_loss(model, batch)")
        inputs, targets = batches.split(batch, model, keep_targets=self.criterion is None)
        outputs = batches.call(model, inputs)
        if self.criterion is not None:
            given = self._apply(self.criterion, outputs, targets)
            return _checked(given, "criterion(outputs, targets)")
        own = own_loss(outputs)
        if own is not None:
            return _checked(own, "the loss of the model's output")
        return _checked(self._inferred(outputs, targets), "the inferred loss")

    def outputs(self, model: nn.Module, batch: Any) -> Any:
        """The model's output alone, as for the loss; not defined with `compute_loss`."""
        inputs, _ = batches.split(batch, model, keep_targets=self.criterion is None)
        return batches.call(model, inputs)

    def apart(self, model: nn.Module, batch: Any) -> tuple[Callable[[Any], Tensor], Any] | None:
        """The user's own criterion as a function of outputs, and what these are on a batch.

        None where the loss comes from elsewhere, or from one of torch's own losses.
        """
        criterion = None if self.compute_loss is not None else self.criterion
        if criterion is None or is_torchs(criterion):
            return None
        inputs, targets = batches.split(batch, model, keep_targets=False)
        return lambda outputs: self._apply(criterion, outputs, targets), batches.call(model, inputs)

    def scores(self, model: nn.Module, batch: Any) -> tuple[Any, Any]:
        """What the loss is computed from, and the targets; not defined with `compute_loss`."""
        _, targets = batches.split(batch, model, keep_targets=False)
        found, _ = main_output(self.outputs(model, batch))
        return found, targets

    def _apply(self, criterion: Criterion, outputs: Any, targets: Any) -> Any:
        if targets is None:
            raise LossError(
                "expected batches (inputs, targets) for the criterion, but they carry no targets: "
                "give compute_loss(model, batch) instead"
            )
        if is_torchs(criterion) and not isinstance(outputs, Tensor):
            outputs = self._main(outputs)
        return criterion(outputs, targets)

    def _inferred(self, outputs: Any, targets: Any) -> Tensor:
        outputs = self._main(outputs)
        if isinstance(outputs, Tensor) and targets is None and outputs.numel() == 1:
            self._assume("the model's scalar output is its loss")
            return outputs
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            came = f"outputs {_kind(outputs)} and targets {_kind(targets)}"
            raise LossError(
                f"expected a criterion, or tensors to infer one from, got {came}: "
                "give criterion(outputs, targets) or compute_loss(model, batch)"
            )
        if not targets.is_floating_point() and targets.ndim == outputs.ndim - 1:
            classes_last = outputs.shape[:-1] == targets.shape
            scores = outputs.flatten(0, -2) if classes_last else outputs
            self._assume(
                f"CrossEntropyLoss from the {outputs.shape[-1 if classes_last else 1]} outputs "
                "and integer targets"
            )
            return F.cross_entropy(scores, (targets.flatten() if classes_last else targets).long())
        if outputs.numel() == targets.numel():
            values = targets.reshape(outputs.shape).to(outputs.dtype)
            binary = bool(((values == 0) | (values == 1)).all())
            if binary and not targets.is_floating_point():
                self._assume("BCEWithLogitsLoss from one output and 0/1 targets")
                return F.binary_cross_entropy_with_logits(outputs, values)
            self._assume("MSELoss from outputs and targets of equal shape")
            return F.mse_loss(outputs, values)
        raise LossError(
            f"expected outputs and targets that fit, got {_kind(outputs)} and {_kind(targets)}: "
            "give criterion(outputs, targets)"
        )

    def _main(self, outputs: Any) -> Any:
        found, where = main_output(outputs)
        if where:
            self._assume(f"the loss is computed from {where}")
        return found

    def _assume(self, line: str) -> None:
        self.assumptions[line] = None


def main_output(outputs: Any) -> tuple[Any, str]:
    """The scores among several outputs, and where they were found; "" where there is but one."""
    if isinstance(outputs, Tensor):
        return outputs, ""
    for name in ("logits", "out"):
        value = outputs.get(name) if isinstance(outputs, Mapping) else None
        value = getattr(outputs, name, None) if value is None else value
        if isinstance(value, Tensor):
            return value, f"the output's {name!r}"
    first = next(tensors(outputs), None)
    if first is None:
        return outputs, ""
    return first, f"the first tensor of the {_kind(outputs)}"


def is_torchs(criterion: Any) -> bool:
    """Whether a criterion is one of torch's own losses, as a module or a function."""
    return (getattr(criterion, "__module__", "") or "").startswith("torch.nn")


def own_loss(outputs: Any) -> Any:
    """What a model returns as its loss; None where it returns none."""
    if isinstance(outputs, Tensor):
        return None
    if isinstance(outputs, Mapping):
        return outputs.get("loss")
    return getattr(outputs, "loss", None)


def _checked(loss: Any, source: str) -> Tensor:
    if not isinstance(loss, Tensor):
        raise LossError(f"expected {source} to be a scalar tensor, got {_kind(loss)}")
    if loss.numel() != 1:
        raise LossError(
            f"expected {source} to be a scalar, got shape {tuple(loss.shape)}: "
            'reduce it, for example with .mean() or reduction="mean"'
        )
    if not loss.requires_grad:
        raise LossError(
            f"expected {source} to require grad, but it is cut off from every trainable "
            "parameter: look for .detach(), .item(), .data, torch.no_grad(), argmax or a "
            "conversion to numpy on the way to the loss"
        )
    return loss.reshape(()) if not loss.is_complex() else _refuse_complex(loss, source)


def _refuse_complex(loss: Tensor, source: str) -> Tensor:
    raise LossError(f"expected {source} to be real, got {loss.dtype}: take .abs() or .real")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)} and {str(value.dtype).removeprefix('torch.')}"
    return "None" if value is None else type(value).__name__
